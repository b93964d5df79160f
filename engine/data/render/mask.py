"""Which tokens of a rendered row are learnt: from ranges of characters to a mask of tokens.

Characters become tokens through the fast tokenizer's offsets: a token is learnt if it holds any character that is. The
end-of-turn must be learnt, or the model never stops: where a template puts it outside of the answer, the special token
that follows is added; where there is none, the tokenizer's end-of-sequence token is. Where markers enclose the end of a
turn themselves, nothing is added between spans.

Which characters are learnt is told by `template.py`, and by `message_spans.py` where prompts are learnt too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..row import SourceRow
from .special import special_ids
from .template_fit import Spans

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


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
    unlearnt: Spans = ()
    """Character ranges [start, end) of which nothing is learnt, whatever `spans` say."""


@dataclass(frozen=True)
class Encoded:
    """Token ids (int32) and which are learnt (bool), both [tokens]. The first token never is:
    nothing comes before it that could predict it."""

    source: SourceRow
    ids: np.ndarray
    trained: np.ndarray


class TokenMask:
    """Masks for one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._eos = tokenizer.eos_token_id
        self._special = special_ids(tokenizer)
        self._added = {*self._special, *tokenizer.added_tokens_decoder}

    def encode(self, one: Rendering, ids: np.ndarray, encoding: "Encoding") -> tuple[Encoded, bool]:
        """The tokens of a rendering, and whether an end-of-sequence token was learnt because the chat template ends
        the answer with no special token.

        Args:
            ids: [tokens], int32.
            encoding: of the same text.
        """
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
        return Encoded(one.source, ids, trained), eos_added


def _tokens_of(encoding: "Encoding", start: int, end: int) -> range:
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


def _found(encoding: "Encoding", characters: range) -> Iterator[int]:
    for character in characters:
        token = encoding.char_to_token(character)
        if token is not None:
            yield token


def _characters(encoding: "Encoding", token: int) -> tuple[int, int]:
    return encoding.token_to_chars(token) or (0, 0)
