"""`data.columns`: a format's keys found under other names in a file.

    data.columns={prompt: question_text, completion: best_answer}
    data.columns={messages: dialogue, role: speaker, content: utterance}

A key of a format stands left, the column (or, for `role`, `content`, `from` and `value`, the key of a turn) that
holds it right. Renaming happens in front of detection, so a file whose columns say nothing can be told all the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .errors import listed
from .row import SourceRow

TURN_KEYS = ("role", "content", "from", "value")
CHAT_COLUMNS = ("messages", "conversations", "conversation", "prompt", "completion")


def renamed(row: SourceRow, columns: Mapping[str, str]) -> SourceRow:
    """The row with its columns under the format's names; those that give way are left out.

    Raises:
        DataError: a column is not there.
    """
    if not columns or isinstance(row.value, str):
        return row
    own = {key: column for key, column in columns.items() if key not in TURN_KEYS}
    missing = [column for column in own.values() if column not in row.value]
    if missing:
        raise row.error(
            f"data.columns names {listed(missing)}, but the row has {listed(row.value)}"
        )
    moved = set(own.values())
    value = {key: item for key, item in row.value.items() if key not in moved}
    value |= {key: row.value[column] for key, column in own.items()}
    turns = {column: key for key, column in columns.items() if key in TURN_KEYS}
    if turns:
        for key in CHAT_COLUMNS:
            if isinstance(value.get(key), list):
                value[key] = [_renamed_turn(turn, turns) for turn in value[key]]
    return replace(row, value=value)


def _renamed_turn(turn: Any, keys: Mapping[str, str]) -> Any:
    return (
        {keys.get(key, key): item for key, item in turn.items()} if isinstance(turn, dict) else turn
    )
