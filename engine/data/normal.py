"""What every format becomes: the one form of a row that rendering takes.

A row that has nothing to learn (an empty answer, no answer at all) is no error: real files have a
few. It is dropped and counted under its reason.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .row import SourceRow

EMPTY_ANSWER = "empty answer"
NO_ANSWER = "no answer in the conversation"
EMPTY_TEXT = "empty text"
NO_TOKENS = "no tokens"
LABELLED_BAD = "labelled bad"

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """A row as chat messages, as a chat template takes them.

    `messages` have `role` (system, user, assistant or tool), `content` (text) and, where the row
    has them, `tool_calls` (arguments as objects), `tool_call_id`, `name`, `reasoning_content`.
    """

    source: SourceRow
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    masked: frozenset[int] = frozenset()
    """Indices of assistant messages that are not learnt (a prompt's, or those flagged so)."""
    plain: tuple[str, str] | None = None
    """Prompt and answer for a model without a chat template; None: it takes a template."""


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


@dataclass(frozen=True, eq=False)
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
    """The row as a conversation, or dropped where it has no answer or an empty one to learn."""
    learnt = [
        message
        for place, message in enumerate(messages)
        if message["role"] == "assistant" and place not in masked
    ]
    if not learnt:
        return Dropped(row, NO_ANSWER)
    if any(not m["content"].strip() and not m.get("tool_calls") for m in learnt):
        return Dropped(row, EMPTY_ANSWER)
    return Conversation(row, tuple(messages), tools, frozenset(masked), plain)
