"""Which tokens of a rendered row are learnt: from ranges of characters to a mask of tokens.

Characters become tokens through the fast tokenizer's offsets: a token is learnt if it holds any character that is. An
answer begins with a token of its own: the tokens before it are those of its prompt alone, which is what chat sends.
Where the two would become others together (a line break behind a prompt that ends with one), they are tokenised apart.

The end-of-turn must be learnt, or the model never stops: where a template puts it outside of the answer, the special
token that follows is added; where there is none, the tokenizer's end-of-sequence token is. Where markers enclose the
end of a turn themselves, nothing is added between spans.

Which characters are learnt is told by `template.py`, and by `message_spans.py` where prompts are learnt too.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..row import SourceRow
from .chat_template import Spans
from .special import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


EOS_ADDED = "the chat template ends an answer with no special token: end-of-sequence token added"
TOKENS_APART = "an answer begins with what its prompt's last token would take in: tokenised apart, as chat does"
_PROMPT_ENDS = 4096  # kept


class Offsets(Protocol):
    """Where the tokens of a text stand in it, as the tokenizer's own encoding tells."""

    def __len__(self) -> int: ...
    def char_to_token(self, character: int, /) -> int | None: ...
    def token_to_chars(self, token: int, /) -> tuple[int, int] | None: ...


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """The text of one example, and which of its characters are learnt."""

    source: SourceRow
    text: str
    spans: Spans | None
    """Learnt character ranges [start, end); None: all."""
    chat: bool
    """Rendered by a chat template, which writes its own special tokens; otherwise the tokenizer
    adds those it adds by default, and an end-of-sequence token is appended."""
    closed: bool = False
    """The template's own markers enclose the end of a turn: what follows a span need not be it."""
    as_it_stands: bool = False
    """No token is added, and none is learnt besides those of the spans."""
    prompt_differs: bool = False
    """An answer is learnt behind another text than the prompt that asks for it."""
    unlearnt: Spans = ()
    """Character ranges [start, end) of which nothing is learnt, whatever `spans` say."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Token ids (int32) and which are learnt (bool), both [tokens]. The first token never is:
    nothing comes before it that could predict it."""

    source: SourceRow
    ids: np.ndarray
    trained: np.ndarray
    prompt_differs: bool = False
    """As `Rendering.prompt_differs`."""


class TokenMask:
    """Masks for one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._ends_of_prompts: dict[str, list[int]] = {}
        self._eos = tokenizer.eos_token_id
        self._special = special_ids(tokenizer)
        self._added = {*self._special, *tokenizer.added_tokens_decoder}

    def encode(self, one: Rendering, ids: np.ndarray, encoding: Offsets) -> tuple[Encoded, list[str]]:
        """The tokens of a rendering, and notes on what was done to it.

        Args:
            ids: [tokens], int32.
            encoding: of the same text.
        """
        if one.as_it_stands or not one.spans:
            return self._masked(one, ids, encoding)
        if all(self._begins_a_token(one.text, ids, encoding, start) for start, _ in one.spans):
            return self._masked(one, ids, encoding)
        pieces = _Pieces(self._tokenizer, one.text, [start for start, _ in one.spans], not one.chat)
        encoded, notes = self._masked(one, np.array(pieces.ids, np.int32), pieces)
        return encoded, [TOKENS_APART, *notes]

    def _begins_a_token(self, text: str, ids: np.ndarray, encoding: Offsets, start: int) -> bool:
        """Whether the tokens before a character are those of the text before it.

        Tokens between two that are added are told from the text between these alone. So it is enough to look at what
        follows the last one of them: of most templates the same few tokens for all answers."""
        token = next(_found(encoding, range(start, len(text))), None)
        if token is None:
            return True
        last = token - 1
        while last >= 0 and int(ids[last]) not in self._added:
            last -= 1
        begin, end = _characters(encoding, last) if last >= 0 else (0, 0)
        first = last if end else last + 1  # what the tokenizer puts before every text is no part of it
        if end > start:
            return False
        piece = text[begin:start]
        expected = self._ends_of_prompts.get(piece)
        if expected is None:
            expected = self._tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
            if len(self._ends_of_prompts) < _PROMPT_ENDS:
                self._ends_of_prompts[piece] = expected
        return ids[first:token].tolist() == expected

    def _masked(self, one: Rendering, ids: np.ndarray, encoding: Offsets) -> tuple[Encoded, list[str]]:
        trained = np.full(len(ids), one.spans is None)
        ended = eos_added = False
        spans = ((0, len(one.text)),) if one.spans is None else one.spans
        for start, end in spans:
            inside = _tokens_of(encoding, start, end)
            if not inside:
                continue
            trained[inside.start : inside.stop] = True
            if one.as_it_stands:
                continue
            last, following = inside[-1], inside.stop
            while last > inside.start and not one.text[slice(*_characters(encoding, last))].strip():
                last -= 1  # the line break that many templates put behind the end-of-turn
            ended = int(ids[last]) in self._added
            closes = following < len(ids) and int(ids[following]) in self._special
            if one.closed and end < spans[-1][1]:
                closes = False  # it stands between a turn's parts (a tool's answer, say)
            if closes and int(ids[last]) not in self._special:
                trained[following] = ended = True
        eos = self._eos
        if isinstance(eos, int) and not (one.chat and ended) and not one.as_it_stands:
            eos_added = one.chat
            if not (len(ids) and ids[-1] == eos):
                ids, trained = np.append(ids, np.int32(eos)), np.append(trained, True)
            trained[-1] = True
        for start, end in one.unlearnt:
            for token in _tokens_of(encoding, start, end):
                first, last = _characters(encoding, token)
                trained[token] &= first < start or last > end
            if end == len(one.text):
                trained[len(encoding) :] = False
        trained[:1] = False
        encoded = Encoded(source=one.source, ids=ids, trained=trained, prompt_differs=one.prompt_differs)
        return encoded, [EOS_ADDED] * eos_added


class _Pieces:
    """A text whose pieces were tokenised apart, to be asked as its encoding is.

    Args:
        starts: where pieces begin, but for the first; ascending.
        whole: the tokenizer puts before the text what it does before every text.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", text: str, starts: list[int], whole: bool) -> None:
        self.ids: list[int] = []
        self._places: list[tuple[int, int]] = []
        line = tokenizer("\n", add_special_tokens=False)["input_ids"]
        for begin, end in itertools.pairwise([0, *starts, len(text)]):
            made, shift = tokenizer(text[begin:end], add_special_tokens=whole and not begin, verbose=False), begin
            if begin:
                # Behind a line break no space is put before it, as some tokenizers do before a text.
                behind = tokenizer("\n" + text[begin:end], add_special_tokens=False, verbose=False)
                if behind["input_ids"][: len(line)] == line:
                    made, shift = behind, begin - 1
            skipped = len(line) if shift < begin else 0
            assert made.encodings is not None  # the tokenizer is a fast one
            (encoding,) = made.encodings
            self.ids += encoding.ids[skipped:]
            for token in range(skipped, len(encoding)):
                first, last = _characters(encoding, token)
                self._places.append((first + shift, last + shift) if last else (begin, begin))

    def __len__(self) -> int:
        return len(self.ids)

    def char_to_token(self, character: int) -> int | None:
        places = enumerate(self._places)
        return next((token for token, (begin, end) in places if begin <= character < end), None)

    def token_to_chars(self, token: int) -> tuple[int, int]:
        return self._places[token]


def _tokens_of(encoding: Offsets, start: int, end: int) -> range:
    """The tokens that hold a character of [start, end). Asked for one by one: the offsets of all
    tokens, as Python objects, take longer than the tokenising."""
    first = next(_found(encoding, range(start, end)), None)
    last = next(_found(encoding, range(end - 1, start - 1, -1)), None)
    if first is None or last is None:
        return range(0)
    while last + 1 < len(encoding):
        begins, ends = _characters(encoding, last + 1)
        if begins >= end or ends <= start:
            break
        last += 1  # a character of several tokens, of which the first may hold the one before it too
    return range(first, last + 1)


def _found(encoding: Offsets, characters: range) -> Iterator[int]:
    for character in characters:
        token = encoding.char_to_token(character)
        if token is not None:
            yield token


def _characters(encoding: Offsets, token: int) -> tuple[int, int]:
    return encoding.token_to_chars(token) or (0, 0)
