"""`data.columns`: a format's keys found under other names in a file.

    data.columns={prompt: question_text, completion: best_answer}
    data.columns={messages: dialogue, role: speaker, content: utterance}
    data.columns={id: message_id, parent: parent_id, role: role, content: text}

A key of a format stands left, the column (or, for `role`, `content`, `from` and `value`, the key of a turn) that
holds it right. Renaming happens in front of detection, so a file whose columns say nothing can be told all the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import listed
from ..row import SourceRow

THREAD_KEYS = ("id", "parent", "tree", "replies")
"""What says that rows are messages of conversations, or trees of them: read before all else (`read/threads.py`)."""
TURN_KEYS = ("role", "content", "from", "value", *THREAD_KEYS)
CHAT_COLUMNS = ("messages", "conversations", "conversation", "dialogue", "texts", "contents")
"""The names of a column of turns."""
_HOLD_TURNS = (*CHAT_COLUMNS, "prompt", "completion", "chosen", "rejected")

FORM_KEYS: dict[str, dict[str, bool]] = {
    "prompt_completion": {"prompt": True, "completion": True, "system": False},
    "alpaca": {"instruction": True, "input": False, "output": True, "system": False},
    "messages": {"messages": True, "tools": False},
    "sharegpt": {"conversations": True, "system": False, "tools": False},
    "text": {"text": True},
    "preference": {"prompt": False, "chosen": True, "rejected": False},
    "kto": {"messages": False, "prompt": False, "completion": False, "label": True},
}
"""Format -> its keys that a column can be named for, and whether a row needs them."""


def renamed(row: SourceRow, columns: Mapping[str, str]) -> SourceRow:
    """The row with its columns under the format's names; those that give way are left out.

    Raises:
        DataError: a column is not there.
    """
    if not columns or isinstance(row.value, str):
        return row
    own = {key: column for key, column in row_keys(columns).items() if key != column}
    missing = {key: column for key, column in own.items() if column not in row.value}
    if missing:
        raise row.error(
            f"has no {listed(missing.values())}, which {listed(missing)} is read from "
            f"(data.columns); it has {listed(row.value)}"
        )
    moved = set(own.values())
    value = {key: item for key, item in row.value.items() if key not in moved}
    value |= {key: row.value[column] for key, column in own.items()}
    turns = {column: key for key, column in columns.items() if key in TURN_KEYS}
    if turns:
        for key in _HOLD_TURNS:
            if isinstance(value.get(key), list):
                value[key] = [_renamed_turn(turn, turns) for turn in value[key]]
            elif isinstance(value.get(key), dict):
                value[key] = _renamed_turn(value[key], turns)
    return replace(row, value=value)


def row_keys(columns: Mapping[str, str]) -> dict[str, str]:
    """Those of `columns` that name columns of the row, not keys of a turn."""
    return {key: column for key, column in columns.items() if key not in TURN_KEYS}


def _renamed_turn(turn: Any, keys: Mapping[str, str]) -> Any:
    if not isinstance(turn, dict):
        return turn
    new = {keys[key]: item for key, item in turn.items() if key in keys}
    return {key: item for key, item in turn.items() if key not in keys and key not in new} | new
