"""Rows and tokens as text that people read: a row as it stands in its file, a token as its part of the text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson

from ..row import SourceRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_RAW_CHARACTERS = 20_000
_LONGEST_CHARACTER = 4
"""Tokens that a character can span: UTF-8 has four bytes at most."""
_HALF = "\ufffd"
"""What the bytes of half a character are decoded to."""


def raw_text(row: SourceRow) -> str:
    """The row as it stands in the file, its end cut where it is very long."""
    text = as_text(row)
    if len(text) > _RAW_CHARACTERS:
        text = text[:_RAW_CHARACTERS] + f"\n... {len(text) - _RAW_CHARACTERS:,} more characters"
    return text


def as_text(row: SourceRow) -> str:
    """The whole row as indented JSON or text; of one that cannot be read what stands there."""
    if isinstance(row.value, str):
        return row.value
    try:
        return orjson.dumps(row.value, default=str, option=orjson.OPT_INDENT_2).decode()
    except TypeError:  # half of a surrogate pair, or a number of more than 64 bits
        return repr(row.value)


def token_texts(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> list[str]:
    """The text of each token in its place; of a character that spans tokens, all of it at its last.

    Each token is decoded with the one before, since a tokenizer can take the first space of a text away; never
    with more, so that a long row takes no longer for each token than a short one.
    """
    decode = tokenizer.backend_tokenizer.decode  # type: ignore[attr-defined]

    def text_of(start: int, end: int) -> str:
        return decode(list(ids[start:end]), skip_special_tokens=False)

    texts: list[str] = []
    context = done = 0
    for end in range(1, len(ids) + 1):
        text = text_of(context, end)
        if not text.endswith(_HALF) or end == len(ids):
            texts.append(text[len(text_of(context, done)) :])
            context, done = done, end
            continue
        texts.append("")
        if end - done == _LONGEST_CHARACTER:  # no character, or U+FFFD itself: only the last may go on
            texts[-2] = text_of(context, end - 1)[len(text_of(context, done)) :]
            context, done = done, end - 1
    return texts
