"""Token ids of texts from those of their words, which the tokenizer is asked for once each.

Half of the time that preparing rows took went into the tokenizer, most of it on words that it had seen a thousand
times. A byte-level BPE tokenizer splits a text at its added tokens, splits what is between into words by a regular
expression, and makes tokens of each word by itself. So the same expression and a table of words give the same tokens
in a third of the time. The library stays the measure: it makes the tokens of every word, and of every text for which
this is not exactly so. Those are texts with characters that regular expressions may class otherwise (all but Latin
letters and common punctuation), and all texts of a tokenizer of another kind, or one for which a probe comes out
otherwise.
"""

import itertools
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import regex

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNSURE = re.compile("[^\t\n\r -~\u00a1-\u00b1\u00b4-\u00b8\u00ba\u00bb\u00bf-\u024f\u2010-\u2027\u20ac]")
"""A character that is left to the tokenizer: blanks and numbers beyond ASCII, scripts with marks, all that is newer."""
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What tokenizers splits by in ByteLevel(use_regex=True)."""
_DIGIT = re.compile("([0-9])")
_LONGEST = 64  # characters of a word that is kept
_MOST = 200_000  # words
_PROBE = (
    "I'll say: don't  SHOUT, it's 2,048 x 3.5 = ?\n\n\tA  b\r\n  café “so” — naïve…\n \n'TWAS x_y(z)[0]; 1st\n   end \n"
    "HTTPServer's foo.bar/baz\u2019s C3PO  100000 £5 \u00a9 ¿qué?\n\n\n   \t x"
)


class WordCache:
    """The words of one tokenizer."""

    def __init__(self, backend: Any, pattern: str, digits: bool, added: Sequence[str]) -> None:
        from tokenizers import pre_tokenizers

        self._backend = backend
        self._words = regex.compile(pattern)
        self._digits = digits
        self._added = re.compile("(" + "|".join(map(re.escape, sorted(added, key=len, reverse=True))) + ")")
        self._letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._ids: dict[str, list[int]] = {text: [backend.token_to_id(text)] for text in added}

    @staticmethod
    def of(tokenizer: "PreTrainedTokenizerBase") -> "WordCache | None":
        """The words of a tokenizer; None: it does not make tokens of each word by itself."""
        backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
        # Part by part: all of a large vocabulary as JSON takes a second and 200 MB.
        split, normalizer = _split_of(_state_of(backend.pre_tokenizer)), _state_of(backend.normalizer)
        model = backend.model
        added = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
        if split is None or type(model).__name__ != "BPE" or normalizer.get("type", "NFC") != "NFC" or not added:
            return None
        if model.dropout or model.unk_token or model.continuing_subword_prefix or model.end_of_word_suffix:
            return None
        if any(token.lstrip or token.rstrip or token.single_word for token in added):
            return None
        cache = WordCache(backend, *split, [token.content for token in added])
        text = added[-1].content.join([_PROBE, _PROBE.upper(), "", _PROBE[::-1]])
        made = cache.encode(text)
        return cache if made and made.ids == backend.encode(text, add_special_tokens=False).ids else None

    def encode(self, text: str) -> "Words | None":
        """The tokens of a text; None: they are the tokenizer's to tell."""
        if _UNSURE.search(text):
            return None
        pieces: list[tuple[int, int, list[str]]] = []
        ids: list[int] = []
        known, at = self._ids, 0
        for number, part in enumerate(self._added.split(text)):
            if not part:
                continue
            words = [part] if number % 2 else self._split(part)
            if len(words) > 1 and sum(map(len, words)) != len(part):
                return None
            pieces.append((at, len(ids), words))
            at += len(part)
            for word in words:
                found = known.get(word)
                ids += self._of_word(word) if found is None else found
        return Words(self, ids, pieces)

    def _split(self, text: str) -> list[str]:
        if not self._digits:
            return self._words.findall(text)
        parts = _DIGIT.split(text)
        return [
            word for place, part in enumerate(parts) for word in ([part] if place % 2 else self._words.findall(part))
        ]

    def _of_word(self, word: str) -> list[int]:
        ids = [token.id for token in self._tokens(word)]
        if len(word) <= _LONGEST and len(self._ids) < _MOST:
            self._ids[word] = ids
        return ids

    def count(self, word: str) -> int:
        """Tokens of a word."""
        found = self._ids.get(word)
        return len(self._of_word(word) if found is None else found)

    def characters(self, word: str) -> list[tuple[int, int]]:
        """The characters [start, end) of a word that each of its tokens holds, whole or in part."""
        if word in self._ids and len(self._ids[word]) == 1:
            return [(0, len(word))]
        character = [place for place, letter in enumerate(word) for _ in letter.encode()]
        ends = list(itertools.accumulate(len(token.value) for token in self._tokens(word)))
        return [(character[start], character[end - 1] + 1) for start, end in itertools.pairwise([0, *ends])]

    def _tokens(self, word: str) -> Any:
        """Of a word, as the tokenizer's model makes them: a letter of a token stands for a byte."""
        ((letters, _),) = self._letters.pre_tokenize_str(word)
        return self._backend.model.tokenize(letters)


class Words:
    """A text as tokens of its words, to be asked as the tokenizer's encoding is.

    Args:
        ids: its tokens.
        pieces: where each piece begins, in characters and in tokens, and its words; one for each added token, and for
            what is between them.
    """

    def __init__(self, cache: WordCache, ids: list[int], pieces: list[tuple[int, int, list[str]]]) -> None:
        self.ids = ids
        self._cache, self._pieces = cache, pieces

    def __len__(self) -> int:
        return len(self.ids)

    def char_to_token(self, character: int) -> int | None:
        """The first token that holds a character."""
        at, token, words = next(piece for piece in reversed(self._pieces) if piece[0] <= character)
        for word in words:
            if character < at + len(word):
                parts = self._cache.characters(word) if len(word) > 1 else [(0, 1)]
                return token + next(place for place, (_, end) in enumerate(parts) if character - at < end)
            at += len(word)
            token += self._cache.count(word)
        return None

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """The characters [start, end) that a token holds."""
        at, first, words = next(piece for piece in reversed(self._pieces) if piece[1] <= token)
        for word in words:
            count = self._cache.count(word)
            if token < first + count:
                start, end = self._cache.characters(word)[token - first] if count > 1 else (0, len(word))
                return at + start, at + end
            at += len(word)
            first += count
        raise IndexError(token)


def _state_of(part: Any) -> dict[str, Any]:
    """A part of a tokenizer as its file has it; nothing where it has none."""
    return json.loads(part.__getstate__()) if part is not None else {}


def _split_of(told: dict[str, Any]) -> tuple[str, bool] | None:
    """The expression that a byte-level tokenizer splits by, and whether digits are split off before; None: it splits
    in another way."""
    parts = told.get("pretokenizers", [told])
    digits = bool(parts and parts[0].get("type") == "Digits" and parts[0].get("individual_digits"))
    *before, last = parts[digits:] or [{}]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    if last.get("use_regex", True):
        return None if before else (_GPT2, digits)
    if len(before) != 1 or before[0].get("type") != "Split" or before[0]["invert"]:
        return None
    pattern = before[0]["pattern"].get("Regex")
    return (pattern, digits) if pattern and before[0]["behavior"] == "Isolated" else None
