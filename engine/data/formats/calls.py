"""Tool calls and tool definitions, in the spellings of the services and servers that write them.

| written by | a call |
|---|---|
| OpenAI, Mistral, vLLM | `{id, type, function: {name, arguments}}`, arguments as JSON text or as an object |
| OpenAI's Responses | `{type: function_call, call_id, name, arguments}` |
| Llama, Qwen, Hermes | `{name, arguments}`, or `{name, parameters}` |
| Anthropic | `{type: tool_use, id, name, input}` |
| Gemini | `{name, args}` |
| Bedrock | `{toolUseId, name, input}` |

A definition is `{type: function, function: {name, description, parameters}}`, the same without the outer object, with
Anthropic's `input_schema` for `parameters`, Gemini's `{functionDeclarations: [...]}`, or Bedrock's
`{toolSpec: {name, description, inputSchema: {json}}}`.

Tables (parquet, arrow) give every call the arguments of all calls, and every tool the keys of all tools, null
where a row has none. So null is not there in calls and tools, as TRL's `remove_none_values` has it, unless they
are given as JSON text, which holds what its author wrote.
"""

import hashlib
import itertools
import re
from typing import Any

from ..errors import shown
from ..row import SourceRow
from .cells import json_of, without_nulls
from .normal import Message

_ARGUMENTS = ("arguments", "parameters", "input", "args")
_IDS = ("id", "call_id", "tool_call_id", "toolUseId")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")


def read_calls(row: SourceRow, key: str, calls: Any, is_json: bool = False) -> list[dict[str, Any]]:
    """Calls as chat templates take them: {id, type, function: {name, arguments}}, arguments an object.

    Args:
        calls: one, or a list of them.
        is_json: they stood in the row as JSON text.

    Raises:
        DataError: one is none.
    """
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        raise row.error(f"`{key}`: expected calls {{name, arguments}}, got {shown(calls)}")
    return [_call(row, f"{key}[{place}]", call, is_json) for place, call in enumerate(calls)]


def _call(row: SourceRow, at: str, call: Any, is_json: bool) -> dict[str, Any]:
    function = (call.get("function") or call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise row.error(f"`{at}`: expected {{name, arguments}}, got {shown(call)}")
    given = [key for key in _ARGUMENTS if function.get(key) is not None]
    if len(given) > 1:
        raise row.error(f"`{at}`: has its arguments under `{given[0]}` and `{given[1]}`; keep one of them")
    key = given[0] if given else "arguments"
    arguments = function.get(key)
    if isinstance(arguments, str):
        arguments = json_of(row, f"{at}.{key}", arguments) if arguments.strip() else {}
    elif not is_json:
        arguments = without_nulls(arguments)
    if not isinstance(arguments, dict | None):
        raise row.error(f"`{at}.{key}`: expected an object, got {shown(arguments)}")
    name = next((name for key in _IDS if (name := id_of(call.get(key)))), "")
    part = {"name": function["name"], "arguments": arguments or {}}
    return {**({"id": name} if name else {}), "type": "function", "function": part}


def read_tools(row: SourceRow, key: str, tools: Any) -> tuple[dict[str, Any], ...]:
    """Tool definitions, given as a list or as the JSON text of one.

    Raises:
        DataError: it is neither.
    """
    tools = (json_of(row, key, tools) if tools.strip() else []) if isinstance(tools, str) else without_nulls(tools)
    if isinstance(tools, dict):
        tools = tools["tools"] if isinstance(tools.get("tools"), list) else [tools]  # Bedrock's toolConfig
    if not isinstance(tools, list):
        raise row.error(f"`{key}`: expected a list of tools, got {shown(tools)}")
    found = []
    for place, tool in enumerate(tools):
        tool = json_of(row, f"{key}[{place}]", tool) if isinstance(tool, str) else tool
        if not isinstance(tool, dict):
            raise row.error(f"`{key}[{place}]`: expected an object, got {shown(tool)}")
        declared = tool.get("functionDeclarations", tool.get("function_declarations"))
        found += map(_definition, declared if isinstance(declared, list) else [tool])
    return tuple(found)


def _definition(tool: dict[str, Any]) -> dict[str, Any]:
    """One as OpenAI writes it, which is what templates take."""
    if "function" in tool:
        return tool
    if isinstance(bedrock := tool.get("toolSpec"), dict):
        schema = bedrock.get("inputSchema")
        tool = {key: item for key, item in bedrock.items() if key != "inputSchema"}
        tool |= {"parameters": schema.get("json", schema)} if isinstance(schema, dict) else {}
    elif "input_schema" in tool and "parameters" not in tool:
        tool = {("parameters" if key == "input_schema" else key): item for key, item in tool.items()}
    function = {key: item for key, item in tool.items() if key != "type"} if tool.get("type") == "function" else tool
    return {"type": "function", "function": function}


def id_of(value: Any) -> str:
    """The id of a call as text, which templates take; empty: it is none."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if number else value if isinstance(value, str) else ""


def with_short_ids(messages: list[Message]) -> bool:
    """Give calls, and their results, the ids of nine letters that Mistral's templates ask for; whether an id is
    another now, or new. Ids that were equal stay so; a result without one is that of the next call that waits."""
    changed, made = False, 0
    waiting: list[str] = []
    for message in messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                made += 1
                calls.append({**call, "id": _short(call["id"]) if "id" in call else f"{made:09d}"})
            changed |= calls != message["tool_calls"]
            message["tool_calls"], waiting = calls, [call["id"] for call in calls]
        elif message["role"] == "tool":
            given = message.get("tool_call_id")
            short = _short(given) if given else next(iter(waiting), f"{made:09d}")
            if short in waiting:
                waiting.remove(short)
            changed |= short != given
            message["tool_call_id"] = short
    return changed


def _short(name: str) -> str:
    if _SHORT_ID.fullmatch(name):
        return name
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=5).hexdigest()[:9]


def one_by_one(messages: list[Message]) -> tuple[list[Message], dict[int, list[int]]]:
    """Calls that were made at once as calls of one message each, every one followed by its result.

    Returns:
        The messages, and the place of each one before -> its places now.
    """
    single: list[Message] = []
    now: dict[int, list[int]] = {}

    def put(place: int, message: Message) -> None:
        now.setdefault(place, []).append(len(single))
        single.append(message)

    done = 0
    for place, message in enumerate(messages):
        if place < done:
            continue
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            put(place, message)
            continue
        behind = itertools.takewhile(lambda at: messages[at]["role"] == "tool", range(place + 1, len(messages)))
        results = [*behind]
        done = results[-1] + 1 if results else 0
        for number, call in enumerate(calls):
            rest = {"role": message["role"], "content": ""} if number else message
            put(place, {**rest, "tool_calls": [call]})
            own = [at for at in results if messages[at].get("tool_call_id") == call.get("id")] or results
            for at in own[:1]:
                put(at, messages[at])
                results.remove(at)
        for at in results:
            put(at, messages[at])
    return single, now
