"""JSON in the forms that data sets have, parsed here so that every error names its row.

* JSON Lines: one object in each line, blank lines skipped; a line is held at a time.
* An array of objects.
* One object: a single row; rows under a key such as `data`, or under the name of the split that is asked for; or
  columns (`{"prompt": [...], "completion": [...]}`, or pandas' `{"prompt": {"0": ...}}`, `{"0": {"prompt": ...}}` and
  `{"columns": [...], "data": [[...], ...]}`). What looks like a row is one, whatever else is in it, and so is what
  stands in a file named `.jsonl`.

Arrays and objects are read whole, as JSON wants it; what is larger than memory belongs in JSON Lines. Which of the
two it is, the first lines tell: one fault in the first does not make a file of lines one document.

`NaN` and infinities are no JSON, but Python writes them where a value is missing. They are read as null.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from ..errors import DataError, listed, shown
from ..formats.cells import loads
from ..formats.fits import fits_of
from ..row import SourceRow
from .folder import SPLITS, same_split
from .sniff import decoded, lines_of, suffix_of, text_of

_WRAPPERS = ("data", "dataset", "examples", "instances", "items", "records", "rows", "samples")
_SPACE = re.compile(r"\s*")
_CONSTANT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|(-?Infinity|NaN)', re.DOTALL)
"""What is no number; and texts, in which the words are words."""
_FEW_LINES = 20
_ROWS = (".jsonl", ".ndjson")


def read_json(file: Path, name: str, split: str = "train", keep_broken: bool = False) -> Iterator[SourceRow]:
    """The rows of a file of JSON.

    Args:
        split: of an object that holds several, the one to read.
        keep_broken: a line that cannot be read is a row that says why, instead of an error.

    Raises:
        DataError: the file is not JSON, or something in it is no row.
    """
    if _is_lines(file, name):
        yield from _read_lines(file, name, keep_broken)
        return
    text = text_of(file, name)
    is_array = text.lstrip().startswith("[")
    try:
        whole = _parsed(text)
    except orjson.JSONDecodeError as error:
        if is_array:
            raise DataError(_array_error(text, name, error)) from error
        yield from _read_lines(file, name, keep_broken)  # names the line at fault
        return
    size = len(text) // max(1, len(whole)) if is_array else 0
    del text
    if is_array:
        yield from _objects(whole, name, size)
    else:
        yield from _of_object(whole, name, split, is_row=suffix_of(file) in _ROWS)


def _is_lines(file: Path, name: str) -> bool:
    """Whether each line is for itself: a document does not go on after its end, and an object in one
    is followed by `,`, `]` or `}`."""
    lines = (line for _, line in lines_of(file, name) if line.strip())
    with contextlib.closing(lines):
        pairs = itertools.islice(itertools.pairwise(lines), _FEW_LINES)
        first = next(pairs, None)
        if first is None:
            return False
        return _is_value(first[0], dict | list) or any(
            _is_value(line, dict) and after.lstrip()[:1] not in (b",", b"]", b"}") for line, after in pairs
        )


def _is_value(line: bytes, kind: Any) -> bool:
    try:
        return isinstance(_parsed(line.decode()), kind)
    except ValueError:  # of JSON, or of UTF-8
        return False


def _parsed(text: str) -> Any:
    """The value that JSON text holds, with null for what is no number.

    Raises:
        orjson.JSONDecodeError: the text is not JSON.
    """
    try:
        return loads(text)
    except orjson.JSONDecodeError:
        if "NaN" not in text and "Infinity" not in text:
            raise
    try:
        return loads(_CONSTANT.sub(lambda found: "null" if found[1] else found[0], text))
    except orjson.JSONDecodeError:
        # Its place is that in another text. Words as long as those that they replace keep it.
        orjson.loads(_CONSTANT.sub(lambda found: f'"{found[0][2:]}"' if found[1] else found[0], text))
        raise


def _read_lines(file: Path, name: str, keep_broken: bool) -> Iterator[SourceRow]:
    for number, line in lines_of(file, name):
        if not line.strip():
            continue
        try:
            value = _object_of(line, name, number)
        except DataError as error:
            if not keep_broken:
                raise
            there = line.decode(errors="replace").strip()
            yield SourceRow(
                file=name,
                number=number,
                value=there,
                unit="line",
                size=len(line),
                broken=str(error),
            )
        else:
            yield SourceRow(file=name, number=number, value=value, unit="line", size=len(line))


def _object_of(line: bytes, name: str, number: int) -> dict[str, Any]:
    try:
        value = loads(line)
    except orjson.JSONDecodeError:
        text = decoded(line, name, number)
        try:
            value = _parsed(text)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{name}: line {number}, column {error.colno}: is not JSON: {error.msg}; expected "
                f"one whole object in each line, got {shown(text.strip())}"
            ) from error
    if not isinstance(value, dict):
        raise DataError(f"{name}: line {number}: expected an object in each line, got {shown(value)}{_fix_of(value)}")
    return value


def _of_object(whole: Any, name: str, split: str, *, is_row: bool = False) -> Iterator[SourceRow]:
    """The rows of one object; `is_row`: its file's name says that each line is a row, so it holds no columns."""
    if not isinstance(whole, dict):
        raise DataError(f"{name}: row 1: expected an object, got {shown(whole)}{_fix_of(whole)}")
    if _is_row(whole):
        return _objects([whole], name)
    if key := _wrapper(whole, name, split):
        return _objects(_of_pages(whole[key]), name)
    if not is_row and (rows := _from_split(whole) or _from_index(whole) or _from_columns(whole, name)):
        return _objects(rows, name)
    empty = [key for key in (*_WRAPPERS, *SPLITS) if whole.get(key) == []]
    if empty:
        raise DataError(f"{name}: holds no rows: the list `{empty[0]}` is empty")
    return _objects([whole], name)


def _is_row(whole: dict[str, Any]) -> bool:
    """Whether an object has the keys of a row, and holds values and not columns under them.

    An instruction is as good as a row: rows beside it would be learnt without it."""
    if isinstance(whole.get("instruction"), str):
        return True
    shapes = fits_of(whole)
    if shapes is None:
        return True
    return any(
        not shape.loose and not any(_is_column(key, whole[column]) for key, column in shape.required.items())
        for shape in shapes
    )  # fmt: skip


def _is_column(key: str, value: Any) -> bool:
    """Whether a value is one for each of several rows, and not the value of a row."""
    if isinstance(value, dict):
        return _is_indexed(value)
    if not isinstance(value, list) or _holds_objects(value):
        return False
    return key != "input_ids" or any(isinstance(item, list) for item in value)


def _is_indexed(value: Any) -> bool:
    """Whether a value is a column as pandas writes it: place -> value."""
    return isinstance(value, dict) and bool(value) and all(place.isdecimal() for place in value)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _wrapper(whole: dict[str, Any], name: str, split: str) -> str | None:
    """The key under which an object holds its rows, if it does."""
    lists = [key for key in _WRAPPERS if _holds_objects(whole.get(key))]
    splits = [key for key in SPLITS if _holds_objects(whole.get(key))]
    wanted = [key for key in splits if same_split(key) == same_split(split)]
    if splits and not lists and not wanted:
        raise DataError(
            f"{name}: holds rows of {listed(splits)}, none of the split `{split}`; set data.split, "
            "or write the rows that you mean to a file of their own"
        )
    found = [*lists, *(splits if lists else wanted)]
    if len(found) > 1:
        raise DataError(f"{name}: holds rows under {listed(found)}; write those that you mean to a file of their own")
    return found[0] if found else None


def _from_split(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of what pandas writes with orient="split"; None where it is none."""
    names, data = whole.get("columns"), whole.get("data")
    if not whole.keys() <= {"columns", "index", "data"} or not isinstance(names, list) or not isinstance(data, list):
        return None
    if not data or not all(isinstance(row, list) and len(row) == len(names) for row in data):
        return None
    return [dict(zip(map(str, names), row, strict=True)) for row in data]


def _from_index(whole: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of what pandas writes with orient="index"; None where it is none."""
    return [*whole.values()] if _is_indexed(whole) and _holds_objects([*whole.values()]) else None


def _of_pages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the hub's viewer, which stand in objects of their own; others as they are."""
    inside = [row["row"] for row in rows if "row_idx" in row and isinstance(row.get("row"), dict)]
    return inside if len(inside) == len(rows) else rows


def _from_columns(whole: dict[str, Any], name: str) -> list[dict[str, Any]] | None:
    """Rows of an object of columns; None where it is none."""
    columns = {key: list(value.values()) if _is_indexed(value) else value for key, value in whole.items()}
    if not all(isinstance(column, list) and column for column in columns.values()):
        return None
    if len(columns) == 1:  # may be a row of any kind, unless its name says what a row holds
        first = {key: column[0] for key, column in columns.items()}
        if all(shape.loose for shape in fits_of(first) or []):
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
            raise DataError(f"{name}: row {number}: expected an object, got {shown(value)}{_fix_of(value)}")
        yield SourceRow(file=name, number=number, value=value, size=size)


def _fix_of(value: Any) -> str:
    """How what is no object becomes a row."""
    if isinstance(value, str):
        return '; write each as {"text": ...}'
    return '; write each as {"messages": [...]}' if _holds_objects(value) else ""


def _array_error(text: str, name: str, error: orjson.JSONDecodeError) -> str:
    # orjson knows the position only. The standard decoder walks to the element that breaks, or that
    # it takes where orjson does not.
    decoder, row = json.JSONDecoder(), 1
    at = text.index("[") + 1
    try:
        while True:
            _, at = decoder.raw_decode(text, _skip_space(text, at))
            at = _skip_space(text, at)
            if text[at : at + 1] != "," or at > error.pos:
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
