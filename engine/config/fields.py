"""The keys of a configuration in words: what each takes, and what is wrong with what it got.

Forms, help and error messages draw from here, so that a key is described once, where it is defined.
"""

import datetime
import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from pydantic_core import ErrorDetails


@dataclass(frozen=True, kw_only=True)
class ConfigField:
    """One key of the tree, for forms, help and error messages."""

    key: str
    """Dotted path, such as `train.learning_rate`."""
    takes: str
    """What it takes, in words: `number from 0 to 10`, `nf4 | none`."""
    default: Any
    description: str
    choices: tuple[str, ...]
    """The words it takes, where it takes no others."""


def walk(section: type[BaseModel], prefix: str = "", lists: bool = False) -> Iterator[ConfigField]:
    """The keys of a section; with `lists`, also those of sections that stand in lists."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from walk(annotation, f"{prefix}{name}.", lists)
            continue
        inner = typing.get_args(annotation)[:1] if typing.get_origin(annotation) is list else ()
        if lists and inner and isinstance(inner[0], type) and issubclass(inner[0], BaseModel):
            yield from walk(inner[0], f"{prefix}{name}.")
        yield ConfigField(
            key=f"{prefix}{name}",
            takes=_takes(annotation, field.metadata),
            default=field.default,
            description=field.description or "",
            choices=_choices(annotation),
        )


def _choices(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is Literal:
        return tuple(str(word) for word in typing.get_args(annotation))
    return ()


def _takes(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _takes(typing.get_args(annotation)[0])
    if origin is Literal:
        return " | ".join(str(word) for word in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_takes(part, metadata) for part in typing.get_args(annotation))
    if origin is list:
        return f"list of {_takes(typing.get_args(annotation)[0])}"
    if origin is dict:
        return "pairs {name: name}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    words = {
        bool: "true | false",
        int: "whole number",
        float: "number",
        str: "text",
        datetime.date: "day as 2026-01-31",
    }
    if annotation is type(None):
        return "null"
    text = words.get(annotation, str(annotation))
    bounds = []
    for rule in metadata:
        for attribute, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
            if (bound := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{word} {bound}")
    return " ".join([text, *bounds])


def explain(detail: ErrorDetails, root: type[BaseModel]) -> str:
    """One line for what pydantic found wrong: the key, what it got, what it takes."""
    # Locations inside a union or a list end with pydantic's own labels; the key is what precedes.
    known = {field.key: field for field in walk(root, lists=True)}
    # Places in a list are left out, a key that is a number is not.
    location = [str(part) for place, part in enumerate(detail["loc"]) if not (place and isinstance(part, int))]
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return unknown_key(location, root)
    for end in range(len(location), 0, -1):
        field = known.get(".".join(location[:end]))
        if field:
            empty = detail["input"] is None or detail["input"] == ""
            got = "is empty" if empty else f"got {shown(detail['input'])}"
            return f"{field.key}: {got}, takes {field.takes}" + (f" ({field.description})" if field.description else "")
    message = detail["msg"].removeprefix("Value error, ")
    if location and detail["type"] != "value_error":
        return f"{'.'.join(location)}: got {shown(detail['input'])}, takes a section of keys"
    return message


def unknown_key(location: Sequence[str], root: type[BaseModel]) -> str:
    """That there is no such key, and which may have been meant."""
    key = ".".join(location)
    known = [field.key for field in walk(root, lists=True)]
    sections = sorted({name.split(".")[0] for name in known})
    leaf = location[-1]
    named = difflib.get_close_matches(location[0], sections, 1, 0.6)
    inside = [name for name in known if named and name.startswith(f"{named[0]}.")]
    deeper = ".".join(location[:-1]) + "."
    inside = [name for name in inside if name.startswith(deeper)] or inside
    if len(location) == 1 and inside:
        return f"{key}: no such section; did you mean {named[0]}?"
    near = _near(leaf, inside, 0.6)
    if not any(name.endswith(f".{leaf}") for name in near):
        near += [name for name in known if name.rpartition(".")[2] == leaf]  # in another section
    near = near or _near(leaf, known, 0.72)
    if near:
        return f"{key}: no such key; did you mean {' or '.join(near)}?"
    return f"{key}: no such key; there are: {', '.join(inside or sections)}"


def _near(leaf: str, keys: Sequence[str], likeness: float) -> list[str]:
    """Keys whose last part is `leaf`; else those that it shortens; else the one most like it."""
    ends: dict[str, str] = {}
    for key in keys:
        ends.setdefault(key.rpartition(".")[2], key)
    if leaf in ends:
        return [ends[leaf]]
    found = [
        end
        for end in ends
        if end.startswith(f"{leaf}_") or end.endswith(f"_{leaf}") or leaf == "".join(word[0] for word in end.split("_"))
    ]
    return [ends[end] for end in found or difflib.get_close_matches(leaf, ends, 1, likeness)]


def shown(value: Any) -> str:
    """A value as an error names it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
