"""What every format becomes: the one form of a row that rendering takes.

A row that has nothing to learn (an empty answer, no answer at all) is no error: real files have a
few. It is dropped and counted under its reason. An empty answer among others costs the row nothing but that
answer: it stays as what the next ones follow, and is not learnt. Reasoning without an answer is one here; whether it
is learnt is the chat template's to say.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..row import SourceRow

EMPTY_ANSWER = "empty answer"
NO_ANSWER = "no answer in the conversation"
EMPTY_TEXT = "empty text"
NO_TOKENS = "no tokens"
LABELLED_BAD = "labelled bad"

EMPTY_NOT_LEARNT = "an empty answer among others: not learnt, kept as context"

Message = dict[str, Any]
REASONING = ("reasoning_content", "thinking", "reasoning")
"""The keys that a message's reasoning stands under, as transformers knows them."""


class Flag(NamedTuple):
    """A message's flag."""

    key: str
    """As the file has it, for errors."""
    learnt: bool


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A row as chat messages, as a chat template takes them.

    `messages` have `role` (system, user, assistant or tool), `content` (text) and, where the row
    has them, `tool_calls` (arguments as objects), `tool_call_id`, `name`, those of `REASONING`, and
    `flag` where the file says that it is not learnt, or that what is no answer is.
    """

    source: SourceRow
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    masked: frozenset[int] = frozenset()
    """Indices of assistant messages that are not learnt (a prompt's, those flagged so, empty ones)."""
    plain: tuple[str, str] | None = None
    """Prompt and answer for a model without a chat template; None: it takes a template."""
    notes: tuple[str, ...] = ()
    """What was done to the row to read it."""


@dataclass(frozen=True)
class Document:
    """A row that is learnt whole."""

    source: SourceRow
    text: str


@dataclass(frozen=True)
class Segments:
    """Text that is written as it stands, without a template; parts of it are learnt."""

    source: SourceRow
    text: str
    spans: tuple[tuple[int, int], ...]
    """Learnt character ranges [start, end), ascending."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Tokens:
    """Token ids that are taken as they stand."""

    source: SourceRow
    ids: tuple[int, ...]
    trained: np.ndarray
    """Which are learnt, bool [tokens]."""
    key: str
    """The column of `ids`, for errors."""


@dataclass(frozen=True)
class Dropped:
    """A row that has nothing to learn."""

    source: SourceRow
    reason: str


Learnable = Conversation | Document | Segments | Tokens
Normal = Learnable | Dropped


def conversation(
    row: SourceRow,
    messages: list[Message],
    tools: tuple[dict[str, Any], ...] = (),
    masked: frozenset[int] | set[int] = frozenset(),
    plain: tuple[str, str] | None = None,
) -> Conversation | Dropped:
    """The row as a conversation, or dropped where it has no answer, or only empty ones, to learn."""
    learnt = {place for place, message in enumerate(messages) if message["role"] == "assistant" and place not in masked}
    empty = {place for place in learnt if is_empty(messages[place])}
    if not learnt:
        return Dropped(row, NO_ANSWER)
    if empty == learnt:
        return Dropped(row, EMPTY_ANSWER)
    notes = (EMPTY_NOT_LEARNT,) if empty else ()
    return Conversation(
        source=row,
        messages=tuple(messages),
        tools=tools,
        masked=frozenset(masked | empty),
        plain=plain,
        notes=notes,
    )


def is_empty(message: Message, reasoning: bool = True) -> bool:
    """Whether a message says nothing.

    Args:
        reasoning: it says something where it has reasoning alone.
    """
    says = message["content"].strip() or message.get("tool_calls")
    return not says and not (reasoning and any(message.get(key, "").strip() for key in REASONING))
