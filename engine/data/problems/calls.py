"""Whether the tool calls of a conversation fit its tools: the part of JSON Schema that tool definitions use.

What is not understood of a schema (`$ref`, a type that JSON has not) fits everything: a false alarm on thousands of
rows
costs more than a call that is missed. So does null where an argument may be left out, for that is what it says.
An argument that the tool does not name is wrong only if the tool names any, and does not say that more are allowed.
"""

from typing import Any

from ..formats.normal import Conversation

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def has_wrong_call(row: Conversation) -> bool:
    """Whether a call names none of the row's tools, or gives arguments that its tool does not take."""
    schemas: dict[Any, dict[str, Any]] = {}
    for tool in row.tools:
        function = tool.get("function")
        if isinstance(function, dict):
            schema = function.get("parameters")
            schemas[function.get("name")] = schema if isinstance(schema, dict) else {}
    for message in row.messages:
        for call in message.get("tool_calls", ()):
            function = call["function"]
            schema = schemas.get(function["name"])
            if schema is None or not _fits_object(function["arguments"], schema, closed=True):
                return True
    return False


def _fits(value: Any, schema: Any) -> bool:
    if not isinstance(schema, dict):
        return True
    if value is None and schema.get("nullable") is True:
        return True
    values = schema.get("enum")
    if isinstance(values, list) and not any(_same(value, one) for one in values):
        return False
    if "const" in schema and not _same(value, schema["const"]):
        return False
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not any(_is_a(value, kind) for kind in kinds):
        return False
    for key in ("anyOf", "oneOf"):
        ways = schema.get(key)
        if isinstance(ways, list) and ways and not any(_fits(value, way) for way in ways):
            return False
    both = schema.get("allOf")
    if isinstance(both, list) and not all(_fits(value, one) for one in both):
        return False
    if isinstance(value, list):
        return all(_fits(one, schema.get("items")) for one in value)
    return not isinstance(value, dict) or _fits_object(value, schema, closed=False)


def _fits_object(value: dict[str, Any], schema: dict[str, Any], closed: bool) -> bool:
    """Args:
    closed: what `properties` does not name is wrong even where the schema says nothing of it.
    """
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    required = schema.get("required")
    required = required if isinstance(required, list) else []
    if any(name not in value for name in required):
        return False
    more = schema.get("additionalProperties")
    open_ = "patternProperties" in schema or not (more is False or (more is None and closed))
    for name, part in value.items():
        if part is None and name not in required:
            continue
        if name in properties:
            if not _fits(part, properties[name]):
                return False
        elif (properties and not open_) or not _fits(part, more):
            return False
    return True


def _is_a(value: Any, kind: Any) -> bool:
    kind = kind.lower() if isinstance(kind, str) else kind
    if kind == "integer":
        return not isinstance(value, bool) and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )
    if kind not in _TYPES:
        return True
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON has it: true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
