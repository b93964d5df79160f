"""Columns that are not read, and those of them that may be part of the row.

A column that is left out in silence is the fault that nobody finds: the loss falls, the screen is green, and the model
never saw the turns before. So every column that nothing is read from is named in the account. One whose name says that
it belongs to the row, and that holds what the row does not say already, is asked about before anything is learnt: it is
read in one of the ways on offer, or `data.ignore` says that it is known.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...config.run_config import DataFormat
from ..row import SourceRow
from .columns import TURN_KEYS
from .fits import Fit
from .turns import unread_keys

_OF_AN_ANSWER = {
    "history", "context", "contexts", "passage", "input", "inputs", "instruction", "choices", "options", "question",
    "prompt", "query", "system", "system_message", "reasoning", "reasoning_content", "thinking", "thought", "thoughts",
    "rationale", "chain_of_thought", "cot", "steps",
}  # fmt: skip
_OF_A_DOCUMENT = {
    "role", "parent_id", "parent", "label", "labels", "target", "targets", "class", "intent", "answer", "answers",
    "response", "output", "outputs", "completion", "prompt", "question", "query", "instruction", "summary",
    "translation", "rejected", "chosen", "input", "inputs", "context", "messages", "conversations",
}  # fmt: skip
_OF_A_CHAT = {"history", "system_message", "instruction", "label"}
_PARTS: dict[DataFormat, set[str]] = {
    "alpaca": _OF_AN_ANSWER,
    "prompt_completion": _OF_AN_ANSWER,
    "preference": _OF_AN_ANSWER,
    "kto": _OF_AN_ANSWER,
    "text": _OF_A_DOCUMENT,
    "messages": _OF_A_CHAT,
    "sharegpt": _OF_A_CHAT,
}
"""Format -> names of columns that are likely part of its row, in small letters."""
_TURNS = {"messages", "prompt", "completion", "chosen"}
"""Keys of formats whose columns may hold turns."""


def unread_columns(rows: Sequence[SourceRow], shapes: Iterable[Fit], columns: Mapping[str, str]) -> tuple[str, ...]:
    """Columns, as the file names them, that say something in some row and that no row is read from; and keys of
    turns, as `messages[].images`.

    Args:
        rows: as they stand in the file.
        columns: `data.columns`.
    """
    shapes = list(shapes)
    read = {columns.get(name, name) for shape in shapes for name in shape.columns.values()}
    if any("tools" in shape.columns or shape.format in ("messages", "sharegpt", "alpaca") for shape in shapes):
        read.add("functions")  # OpenAI's old name, read beside `tools`
    turns = {
        columns.get(shape.columns[key], shape.columns[key]) for shape in shapes for key in _TURNS & shape.columns.keys()
    }
    own = {columns[key] for key in TURN_KEYS if key in columns}
    found: dict[str, None] = {}
    inside: dict[str, None] = {}
    for row in rows:
        if not isinstance(row.value, dict):
            continue
        found |= {name: None for name, item in row.value.items() if name not in read and _says(item)}
        for column in turns & row.value.keys():
            for turn in row.value[column] if isinstance(row.value[column], list) else ():
                keys = sorted(unread_keys(turn) - own) if isinstance(turn, dict) else ()
                inside |= {f"{column}[].{key}": None for key in keys}
    return (*found, *inside)


def parts_of_the_row(rows: Sequence[SourceRow], format: DataFormat, unread: Sequence[str]) -> list[str]:
    """Those unread columns that are likely part of the row: by their name, and since a row does not say the same in
    what is read of it."""
    names = _PARTS.get(format, set())
    return [
        column for column in unread if column.strip().lower() in names and not _said_elsewhere(column, rows, unread)
    ]


def _says(value: Any) -> bool:
    return value is not None and value not in ("", [], {})


def _said_elsewhere(column: str, rows: Sequence[SourceRow], unread: Sequence[str]) -> bool:
    """Whether all that a column says stands, row by row, in the columns that are read."""
    for row in rows:
        assert isinstance(row.value, dict)
        value = row.value.get(column)
        if not _says(value):
            continue
        rest = "\n".join(_texts([item for name, item in row.value.items() if name not in unread]))
        words = list(_texts(value)) or [json.dumps(value, default=str)]
        if not all(text.strip() in rest for text in words):
            return False
    return True


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def is_constant(column: str, rows: Sequence[SourceRow]) -> bool:
    """Whether a column holds one value in all of several rows."""
    values = [row.value.get(column) for row in rows if isinstance(row.value, dict)]
    return len(values) > 1 and isinstance(values[0], str) and all(value == values[0] for value in values)
