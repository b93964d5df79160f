"""A value of a row as what it is meant to be: text, JSON, an object without what a table put there."""

import contextlib
import json
import re
from typing import Any

import orjson

from ..errors import shown
from ..row import SourceRow

_LONG_NUMBER = re.compile(r"[0-9]{19}")
_LONG_NUMBER_BYTES = re.compile(rb"[0-9]{19}")


def text_of(row: SourceRow, key: str, value: Any) -> str:
    """A text that a tokenizer takes.

    Raises:
        DataError: it is no text, or holds half of a surrogate pair (from parquet or the hub).
    """
    if not isinstance(value, str):
        raise row.error(f"`{key}`: expected text, got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise row.error(f"`{key}`: holds half of a surrogate pair at {error.start}") from error
    return value


def json_of(row: SourceRow, key: str, text: str) -> Any:
    """What JSON text holds.

    Raises:
        DataError: it is none.
    """
    try:
        return loads(text)
    except orjson.JSONDecodeError as error:
        raise row.error(f"`{key}`: is not JSON: {error.msg}; got {shown(text)}") from error


def loads(text: str | bytes) -> Any:
    """What JSON text holds, whole numbers of any size as they are written: orjson makes floats of those beyond 64 bits.

    Raises:
        orjson.JSONDecodeError: it is none.
    """
    value = orjson.loads(text)
    if (_LONG_NUMBER if isinstance(text, str) else _LONG_NUMBER_BYTES).search(text):  # type: ignore[arg-type]
        with contextlib.suppress(ValueError, RecursionError):  # thousands of digits; nested deeper than Python calls
            return json.loads(text)
    return value


def dumps(value: Any) -> str:
    """A value as compact JSON text, whole numbers of any size among it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def without_nulls(value: Any) -> Any:
    """Without the keys of objects that are null. In lists, as that of an `enum`, null is a value."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    return value
