"""A value of a row as what it is meant to be: text, JSON, an object without what a table put there."""

from typing import Any

import orjson

from ..errors import shown
from ..row import SourceRow


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
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise row.error(f"`{key}`: is not JSON: {error.msg}; got {shown(text)}") from error


def without_nulls(value: Any) -> Any:
    """Without the keys of objects that are null. In lists, as that of an `enum`, null is a value."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    return value
