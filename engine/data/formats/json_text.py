"""Turns that stand in a row as JSON text, as they come out of a data base or a table.

`[{"role": "user", "content": "Hi"}]` as the *text* of a cell, a parquet column or a key is the conversation that it
spells, and one such object a message. Text that is merely JSON is text: an answer may well be `[{"value": 5}]`. So
every element must be a turn, of a role that is known and with a content such as turns have.
"""

from typing import Any

import orjson

from .cells import loads
from .turns import ROLES


def read_text_turns(row: dict[str, Any]) -> None:
    """Put turns in the place of the texts of a row that spell them."""
    for key, value in row.items():
        # All rows of all files pass here, and nearly none has such a text.
        if type(value) is str and value.startswith(("[", "{")):
            row[key] = _turns_of(value)


def _turns_of(text: str) -> Any:
    """The turns (a list), or the one turn, that a text spells; the text itself where it spells none."""
    if '"role"' not in text and '"from"' not in text:
        return text
    try:
        value = loads(text)
    except orjson.JSONDecodeError:
        return text
    turns = value if isinstance(value, list) else [value]
    return value if turns and all(map(_is_turn, turns)) else text


def _is_turn(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    role, content = ("role", "content") if "role" in value else ("from", "value")
    said = content in value or "tool_calls" in value  # a message that calls may leave its content out
    known = isinstance(value.get(role), str) and value[role].strip().lower() in ROLES
    return known and said and isinstance(value.get(content), str | list | None)
