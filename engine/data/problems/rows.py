"""What is odd about a row by itself, as bits: cheap enough for every row of millions.

Bits, not a decision: what is done about a row (`data.drop`) is decided later, so that a block that was tokenised once
serves whatever is dropped from it.

* Turns out of order. An assistant may speak twice where its first turn calls a tool, and a conversation may end
  with a call; otherwise a call is followed by its results, and results by a call. A call may be written in the
  answer's text, as many sets have it: what looks like one there counts.
* Empty prompts: a user turn that says nothing.
* Control characters: C0 and C1 but for tab and line ends, bidirectional overrides, U+FFFD.
* Special tokens spelled out in a text: the tokenizer makes the control tokens of them. In segments, which are
  written as they stand, they are meant.
* Tool calls that do not fit the row's tools (`calls.py`). A row that lists no tools is not judged: its tools
  may stand in its system text.
* Pictures, sound or film beside the text or spelt in it, of which nothing is learnt: the text would answer about what
  was not shown.
* Placeholders, markup of a template and other leftovers in what is learnt (`leftovers.py`).
* An answer whose last tokens, as they are learnt, hold no token that ends a turn. Of segments and token ids, which
  have no turns, the last is judged; what is learnt whole is a document.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..formats.normal import REASONING, Conversation, Document, Learnable, Message, Segments
from ..render.mask import Encoded
from ..render.special import special_ids
from .calls import has_wrong_call
from .codes import (
    CONTROL_CHARACTERS,
    EMPTY_PROMPT,
    END_UNTRAINED,
    MARKUP,
    PICTURES,
    PLACEHOLDERS,
    ROW_PROBLEMS,
    SPECIAL_TOKENS,
    TOOL_CALLS,
    TURN_ORDER,
)
from .leftovers import has_markup, has_placeholders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BIT = {code: 1 << place for place, code in enumerate(ROW_PROBLEMS)}

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffd]")
_ASCII_CONTROL = bytes({*range(32), 127} - {*b"\t\n\r"})
_CALL_AS_TEXT = re.compile(
    r"""[<\[][\W_]{0,3}(?:tool|function|action|call)|"(?:arguments|parameters)"|action input:""",
    re.IGNORECASE,
)
_MEDIA = {
    *("image", "images", "image_path", "image_paths", "image_url", "image_urls", "picture", "pictures"),
    *("audio", "audios", "audio_path", "audio_paths", "video", "videos", "video_path", "video_paths"),
}
"""Columns, and keys of turns, of pictures, sound and film."""
_MEDIA_IN_TEXT = (
    ("<img>", "</img>"), ("<audio>", "</audio>"), ("<|image_pad|>", ""), ("<|vision_start|>", ""),
    ("<|audio_bos|>", ""), ("](data:image/", ";base64,"),
)  # fmt: skip
"""What a text that spells one of them has in it."""
_TAIL = 4
"""Tokens at the end of an answer among which the one that ends the turn is: templates put a line break behind it."""


class RowProblems:
    """Looks at the rows of one tokenizer."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        added = tokenizer.added_tokens_decoder
        special = special_ids(tokenizer)
        self._ends = frozenset({*special, *added})
        texts = [text for text in tokenizer.convert_ids_to_tokens(sorted(special)) if text]
        self._special = re.compile("|".join(map(re.escape, texts))) if texts else None
        self._special_signs = _beginnings(texts)

    def of(self, row: Learnable, encoded: Sequence[Encoded]) -> int:
        """The bits of a row.

        Args:
            encoded: its examples, uncut.
        """
        texts = list(_texts(row))
        together = "\n".join(texts)
        found = BIT[PICTURES] if _has_media(row.source.value, together) else 0
        if has_placeholders(row):
            found |= BIT[PLACEHOLDERS]
        if _has_control(together):
            found |= BIT[CONTROL_CHARACTERS]
        if not isinstance(row, Segments) and self._spells_special(texts, together):
            found |= BIT[SPECIAL_TOKENS]
        if not found & BIT[SPECIAL_TOKENS] and has_markup(row):  # one alarm for one text
            found |= BIT[MARKUP]
        if isinstance(row, Conversation):
            if _out_of_order(row):
                found |= BIT[TURN_ORDER]
            if any(m["role"] == "user" and not m["content"].strip() for m in row.messages):
                found |= BIT[EMPTY_PROMPT]
            if row.tools and has_wrong_call(row):
                found |= BIT[TOOL_CALLS]
            if any(self._has_open_end(one, every=True) for one in encoded):
                found |= BIT[END_UNTRAINED]
        elif not isinstance(row, Document) and any(
            not one.trained[1:].all() and self._has_open_end(one, every=False) for one in encoded
        ):
            found |= BIT[END_UNTRAINED]
        return found

    def _has_open_end(self, one: Encoded, every: bool) -> bool:
        """Whether an answer does not end; the last one, or any where each is a turn of its own."""
        flags = one.trained.tobytes()
        end = len(flags)
        while end := flags.rfind(1, 0, end) + 1:
            first = max(0, end - _TAIL)
            tail = itertools.compress(one.ids[first:end].tolist(), flags[first:end])
            if self._ends.isdisjoint(tail):
                return True
            if not every:
                return False
            end = flags.rfind(0, 0, end) + 1
        return False

    def _spells_special(self, texts: Sequence[str], together: str) -> bool:
        """Args:
        together: the texts, one after the other.
        """
        special = self._special
        if special is None or not any(sign in together for sign in self._special_signs):
            return False
        return any(special.search(text) for text in texts)


def _beginnings(texts: Sequence[str]) -> set[str]:
    """One of these stands wherever one of the texts does: the first two characters of each."""
    return {text[:2] for text in texts}


def _has_control(text: str) -> bool:
    if text.isascii():
        data = text.encode()
        return len(data.translate(None, _ASCII_CONTROL)) < len(data)
    return _CONTROL.search(text) is not None


def _has_media(value: dict[str, Any] | str, texts: str) -> bool:
    """Whether pictures, sound or film stand in a column, in a turn, or in the texts as their models' markup."""
    if isinstance(value, dict):
        if not _MEDIA.isdisjoint(value) and any(value[key] for key in value.keys() & _MEDIA):
            return True
        for item in value.values():
            for turn in item if type(item) is list else ():
                if (
                    type(turn) is dict
                    and not _MEDIA.isdisjoint(turn)
                    and any(turn[key] for key in turn.keys() & _MEDIA)
                ):
                    return True
    return any(begin in texts and end in texts for begin, end in _MEDIA_IN_TEXT)


def _texts(row: Learnable) -> Iterator[str]:
    if isinstance(row, Document | Segments):
        yield row.text
    if not isinstance(row, Conversation):
        return
    for message in row.messages:
        yield message["content"]
        for key in REASONING:
            if key in message:
                yield message[key]
        for call in message.get("tool_calls", ()):
            yield from _strings(call["function"]["arguments"])


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _out_of_order(row: Conversation) -> bool:
    before = "system"
    called = False  # tools, by the last answer, in `tool_calls`
    answer: Message | None = None
    for place, message in enumerate(row.messages):
        role = message["role"]
        if role == "system":
            if place:
                return True
        elif role == "assistant":
            if before == "system" or (before == "assistant" and not (called or _calls_in_text(answer))):
                return True
            called, answer = "tool_calls" in message, message
        elif role == "user":
            if before == "user" or (before == "assistant" and called):
                return True
        elif before in ("system", "user") or not (called or _calls_in_text(answer)):
            return True
        before = role
    return False


def _calls_in_text(answer: Message | None) -> bool:
    return answer is not None and _CALL_AS_TEXT.search(answer["content"]) is not None
