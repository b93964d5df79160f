"""JSON in the forms that data sets have, parsed here so that every error names its row.

* JSON Lines: one object in each line, blank lines skipped; a line is held at a time.
* An array of objects.
* One object: rows under a key such as `data`; columns (`{"prompt": [...], "completion": [...]}`, or pandas'
  `{"prompt": {"0": ...}}`); or a single row.

Arrays and objects are read whole, as JSON wants it; what is larger than memory belongs in JSON Lines.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from .errors import DataError, listed, shown
from .row import SourceRow
from .sniff import decoded, lines_of, text_of

_WRAPPERS = (
    "data", "dataset", "examples", "instances", "items", "records", "rows", "samples", "train",
)  # fmt: skip
_SPACE = re.compile(r"\s*")


def read_array(file: Path, name: str) -> Iterator[SourceRow]:
    """The rows of a file that holds one list."""
    text = text_of(file, name)
    try:
        rows = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(_array_error(text, name, error)) from error
    size = len(text) // max(1, len(rows))
    del text
    yield from _objects(rows, name, size)


def read_objects(file: Path, name: str, keep_broken: bool = False) -> Iterator[SourceRow]:
    """The rows of a file that begins with an object: JSON Lines, or all in one.

    Args:
        keep_broken: a line that cannot be read is a row that says why, instead of an error.
    """
    lines = (line for _, line in lines_of(file, name) if line.strip())
    if _is_object(next(lines, b"")) and next(lines, None) is not None:
        lines.close()
        yield from _read_lines(file, name, keep_broken)
        return
    lines.close()
    text = text_of(file, name)
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError:
        yield from _read_lines(file, name, keep_broken)  # names the line at fault
        return
    del text
    yield from _of_object(whole, name)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def _read_lines(file: Path, name: str, keep_broken: bool = False) -> Iterator[SourceRow]:
    for number, line in lines_of(file, name):
        if not line.strip():
            continue
        try:
            value = _object_of(line, name, number)
        except DataError as error:
            if not keep_broken:
                raise
            yield SourceRow(name, number, {}, "line", len(line), str(error))
        else:
            yield SourceRow(name, number, value, "line", len(line))


def _object_of(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        text = decoded(line, name, number)
        raise DataError(
            f"{name}: line {number}, column {error.colno}: is not JSON: {error.msg}; expected "
            f"one whole object in each line, got {shown(text.strip())}"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{name}: line {number}: expected an object, got {shown(value)}")
    return value


def _of_object(whole: Any, name: str) -> Iterator[SourceRow]:
    if not isinstance(whole, dict):
        raise DataError(f"{name}: row 1: expected an object, got {shown(whole)}")
    lists = [key for key in _WRAPPERS if _is_list_of_objects(whole.get(key))]
    if len(lists) > 1:
        raise DataError(
            f"{name}: holds rows under {listed(lists)}; write those that you mean to a file of "
            "their own"
        )
    if lists:
        return _objects(whole[lists[0]], name)
    return _objects(_from_columns(whole, name) or [whole], name)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _from_columns(whole: dict[str, Any], name: str) -> list[dict[str, Any]] | None:
    """Rows of an object of columns; None where it is none: a row may hold lists as well (turns,
    token ids)."""
    if len(whole) < 2 or "input_ids" in whole:
        return None
    columns: dict[str, list[Any]] = {}
    for key, value in whole.items():
        if isinstance(value, dict) and value and all(place.isdecimal() for place in value):
            columns[key] = list(value.values())
        elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            columns[key] = value
        else:
            return None
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        words = ", ".join(f"`{key}` {count:,}" for key, count in lengths.items())
        raise DataError(f"{name}: holds columns of different lengths: {words}")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _objects(rows: list[Any], name: str, size: int = 0) -> Iterator[SourceRow]:
    if not rows:
        raise DataError(f"{name}: holds no rows: the list is empty")
    for number, value in enumerate(rows, 1):
        if not isinstance(value, dict):
            raise DataError(f"{name}: row {number}: expected an object, got {shown(value)}")
        yield SourceRow(name, number, value, size=size)


def _array_error(text: str, name: str, error: orjson.JSONDecodeError) -> str:
    # orjson knows the position only; the standard decoder walks to the element that breaks.
    decoder, row = json.JSONDecoder(), 1
    at = text.index("[") + 1
    try:
        while True:
            _, at = decoder.raw_decode(text, _skip_space(text, at))
            at = _skip_space(text, at)
            if text[at : at + 1] != ",":
                break
            at, row = at + 1, row + 1
    except (ValueError, RecursionError):
        pass
    where = f"{name}: row {row} (line {error.lineno}, column {error.colno})"
    if error.pos >= len(text.rstrip()):
        return f"{where}: the JSON list does not end: the file is cut off"
    return f"{where}: is not JSON: {error.msg}, at {shown(text[error.pos : error.pos + 40])}"


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
