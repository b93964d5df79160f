"""Events as lines of `events.jsonl`, and back.

Unknown kinds and fields are passed over, and what a line lacks takes its default: a log of an older or newer version
still reads.
"""

import dataclasses
import functools
import math
import types
import typing
from typing import Any, Literal

import orjson

from .events import EVENT_TYPES, Event


def encode_event(event: Event) -> bytes:
    """One line of `events.jsonl`, newline included.

    JSON has no NaN or infinity: an event's own numbers are written as the words `nan`, `inf` and
    `-inf`. Half a surrogate pair (a file name that is no UTF-8) becomes `?`.
    """
    tree = {"type": type(event).__name__, **dataclasses.asdict(event)}
    for key, value in tree.items():
        if isinstance(value, float) and not math.isfinite(value):
            tree[key] = str(value)
    try:
        return orjson.dumps(tree, option=_ORJSON)
    except TypeError:
        return orjson.dumps(_writable(tree), option=_ORJSON)


_ORJSON = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(item) for item in value]
    return value


def decode_event(line: bytes | str) -> Event | None:
    """The event of one line; None for a type that this version does not know.

    Raises:
        ValueError: the line is not a whole JSON object, or a field is missing or of another kind.
    """
    try:
        tree = orjson.loads(line)
        name = tree.pop("type", None)
        kind = EVENT_TYPES.get(name) if isinstance(name, str) else None
        return _build(kind, tree) if kind else None
    except (AttributeError, TypeError) as error:
        raise ValueError(f"no event: {error}") from error


def _build(kind: type, tree: dict[str, Any]) -> Any:
    values: dict[str, Any] = {}
    for name, accepted in _kinds_of_fields(kind).items():
        if name not in tree:
            continue
        if tree[name] is None and types.NoneType in accepted:
            values[name] = None
            continue
        value: Any = tree[name]
        if float in accepted:  # also the words for NaN and infinity, and whole numbers
            value = None if value is None else float(value)
        elif dataclasses.is_dataclass(accepted[0]):
            value = _build(accepted[0], value)
        elif element := _element(kind, name):
            value = [_build(element, one) for one in value]
        if tuple in accepted and isinstance(value, list):
            value = tuple(value)
        if not isinstance(value, accepted):
            raise TypeError(f"{kind.__name__}.{name}: got {type(value).__name__}")
        values[name] = value
    return kind(**values)


@functools.cache  # type hints are slow to resolve, and a log has an event a step
def _kinds_of_fields(kind: type) -> dict[str, tuple[type, ...]]:
    hints = typing.get_type_hints(kind)
    return {item.name: _kinds(hints[item.name]) for item in dataclasses.fields(kind)}


@functools.cache
def _element(kind: type, name: str) -> type | None:
    """The dataclass that a field is a list of, if it is one."""
    inner = typing.get_args(typing.get_type_hints(kind)[name])
    first: Any = inner[0] if inner else None
    return first if isinstance(first, type) and dataclasses.is_dataclass(first) else None


def _kinds(hint: Any) -> tuple[type, ...]:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return (str,)  # a later version may know more words
    if origin is types.UnionType:
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part))
    return (origin or hint,)
