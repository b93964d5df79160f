"""Columns that are not read, and those of them that may be part of the row.

A column that is left out in silence is the fault that nobody finds: the loss falls, the screen is green, and the model
never saw the turns before. So every column that nothing is read from is named in the account. One whose name says that
it belongs to the row, or that holds more text than the only column of text, is asked about before anything is learnt
where the row does not say the same already: it is read in one of the ways on offer, or `data.ignore` says that it is
known. A way on offer names what it leaves out.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...config.run_config import DataFormat
from ..row import SourceRow
from .columns import TURN_KEYS
from .fits import BESIDE, READ_BESIDE, Fit, is_answer_name
from .turns import unread_keys

_TALKS = {"chat_history", "conversation_history", "dialogue_history", "dialog_history", "message_history"}
_OF_AN_ANSWER = {
    "history", "context", "contexts", "passage", "input", "inputs", "instruction", "choices", "options", "question",
    "prompt", "query", "system", "system_message", "reasoning", "reasoning_content", "thinking", "thought", "thoughts",
    "rationale", "chain_of_thought", "cot", "steps", "solution", "solutions", "reflection", "corrected", "correction",
    "parent_id", "parent", "developer", *_TALKS,
}  # fmt: skip
_OF_A_DOCUMENT = {
    "role", "parent_id", "parent", "label", "labels", "target", "targets", "class", "intent", "answer", "answers",
    "response", "output", "outputs", "completion", "prompt", "question", "query", "instruction", "summary",
    "translation", "rejected", "chosen", "input", "inputs", "context", "messages", "conversations", "annotations",
    "thread_ts", "speaker", "sender",
}  # fmt: skip
_OF_A_CHAT = {"history", "system_message", "instruction", "label", "developer", "chat_template_kwargs", *_TALKS}
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
_GIVEN = {"passage", "evidence", "document", "doc", "context", "paragraph", "cot", "reasoning", "rationale", "thought"}
"""What the name of a column ends in that holds what an answer was given on: `retrieved_documents`, `complex_cot`."""
_TOOLS = {"tool", "function"}
"""What that of a column of definitions of tools ends in."""
_SYSTEM_TEXTS = {"developer", "system_message"}
_READ_AS = {
    "system": {*_SYSTEM_TEXTS, "instruction", "instructions", "context", "preamble"},
    "tools": _TOOLS,
    "history": {"history"},
}
"""A format's key -> names, or ends of names, of columns that it may be read from."""
_OTHER_ANSWERS = ("corrected", "correction", "reflection")
_WORDS = re.compile(r"[\W_]+")
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


def parts_of_the_row(rows: Sequence[SourceRow], shape: Fit, unread: Sequence[str]) -> list[str]:
    """Those unread columns that are likely part of the row: by their name, or since they hold more text than the only
    column of text; and since a row does not say the same in what is read of it."""
    parts = [column for column in unread if _is_named_so(column, shape.format, rows)]
    if "tools" in shape.columns:
        parts = [column for column in parts if _noun(column) not in _TOOLS]
    if shape.format == "text" and shape.loose:
        column = shape.columns["text"]
        read = 0 if _is_json(column, rows) else _size(column, rows)
        parts += [one for one in unread if one not in parts and _is_nested(one, rows) and _size(one, rows) > read]
    return [column for column in parts if not _said_elsewhere(column, rows, unread)]


def left_out(rows: Sequence[SourceRow], format: DataFormat, used: Collection[str]) -> tuple[str, ...]:
    """What a way to read rows leaves out that may be part of them: by its name, or since it is a list or an object that
    holds text.

    Args:
        used: the columns that the way reads.
    """
    there = {name: None for row in rows if isinstance(row.value, dict) for name in row.value if _says(row.value[name])}
    beside = set() if format == "text" else READ_BESIDE & there.keys()
    beside -= set(used)
    wrong = [name for name in there if name in beside and _noun(name) in _TOOLS and not _holds_objects(name, rows)]
    unread = [name for name in there if name not in used and name not in beside]
    parts = [name for name in unread if _is_named_so(name, format, rows) or _is_nested_text(name, rows)]
    return (*(name for name in parts if not _said_elsewhere(name, rows, unread)), *wrong)


def read_as(
    rows: Sequence[SourceRow], format: DataFormat, columns: Mapping[str, str], parts: Sequence[str]
) -> dict[str, str]:
    """Parts that a format's other keys may be read from: key -> column.

    Args:
        columns: the format's keys that are read -> the columns that they are read from.
    """
    found: dict[str, str] = {}
    if format not in _PARTS or format == "text":
        return found
    chat = format in ("messages", "sharegpt")
    for part in parts:
        values = [row.value[part] for row in rows if isinstance(row.value, dict) and _says(row.value.get(part))]
        text = all(isinstance(value, str) for value in values)
        fits = {
            "system": text and (chat or part.strip().lower() in _SYSTEM_TEXTS),
            "tools": _holds_objects(part, rows),
            "history": not chat and all(map(_is_history, values)),
        }
        for key, names in _READ_AS.items():
            named = part.strip().lower() in names or _noun(part) in names
            if named and fits[key] and key not in columns and key not in found:
                found[key] = part
                break
    return found


def other_answers(rows: Sequence[SourceRow], parts: Sequence[str]) -> list[str]:
    """Parts of the row that may be its answer as well as what is read for it."""
    return [
        part
        for part in sorted(parts, key=lambda part: part.strip().lower() in _OTHER_ANSWERS[-1:])
        if (is_answer_name(part) or part.strip().lower() in _OTHER_ANSWERS)
        and all(isinstance(row.value, dict) and isinstance(row.value.get(part), str | None) for row in rows)
    ]


def is_part_name(column: str, format: DataFormat) -> bool:
    return column.strip().lower() in _PARTS.get(format, set())


def _is_named_so(column: str, format: DataFormat, rows: Sequence[SourceRow]) -> bool:
    if is_part_name(column, format):
        return True
    if format not in _PARTS or format == "text":
        return False
    noun = _noun(column)
    return (noun in _GIVEN and _size(column, rows) > 0) or (noun in _TOOLS and _holds_objects(column, rows))


def _noun(column: str) -> str:
    """What a column's name says that it holds: its last word, of one thing."""
    return _WORDS.split(column.strip().lower())[-1].removesuffix("s")


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)


def _is_nested_text(column: str, rows: Sequence[SourceRow]) -> bool:
    return column.strip().lower() not in BESIDE and _is_nested(column, rows) and _size(column, rows) > 0


def _is_nested(column: str, rows: Sequence[SourceRow]) -> bool:
    return any(isinstance(row.value, dict) and isinstance(row.value.get(column), list | dict) for row in rows)


def _holds_objects(column: str, rows: Sequence[SourceRow]) -> bool:
    """Whether a column holds lists of objects, or the JSON text of such."""
    values = [row.value[column] for row in rows if isinstance(row.value, dict) and _says(row.value.get(column))]
    firsts = [value[0] if isinstance(value, list) else value for value in values]
    return all(isinstance(one, dict) or (isinstance(one, str) and one.lstrip().startswith("[{")) for one in firsts)


def _is_json(column: str, rows: Sequence[SourceRow]) -> bool:
    """Whether the texts of a column look like JSON, which is no document."""
    texts = [row.value[column].strip() for row in rows if isinstance(row.value, dict) and row.value.get(column)]
    return all((text[:1], text[-1:]) in (("[", "]"), ("{", "}")) for text in texts)


def _size(column: str, rows: Sequence[SourceRow]) -> int:
    """Letters that a column holds in all rows."""
    values = (row.value.get(column) for row in rows if isinstance(row.value, dict))
    return sum(len(text) for value in values for text in _texts(value))


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
