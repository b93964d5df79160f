"""DataError: what is wrong with a data set, said so that the user can mend it.

A traceback from a parser three libraries down costs an evening. Every message names the file, the
row (the line, for JSON Lines), the key, what was expected, what was found and what to do.
"""

from typing import Any

from ..errors import UserError


class DataError(UserError):
    """Data that cannot be trained on; the message names the place, what it got, and the fix."""


def shown(value: Any, limit: int = 60) -> str:
    """A value as an error names it: its JSON kind, and its beginning."""
    if value is None:
        return "null"
    if value == "" and isinstance(value, str):
        return "an empty text"
    kinds = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list"}
    kind = kinds.get(type(value), "an object" if isinstance(value, dict) else type(value).__name__)
    text = repr(value)
    return f"{kind} ({text if len(text) <= limit else text[: limit - 3] + '...'})"


def listed(keys: Any) -> str:
    """Keys as an error lists them."""
    names = [f"`{key}`" for key in keys]
    if len(names) > 12:
        names = [*names[:12], f"and {len(names) - 12} more"]
    return ", ".join(names) or "none"
