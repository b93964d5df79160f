"""Turns of a chat as messages: roles, content, tool calls, and flags that say what is learnt.

Two ways to write a turn are read: {role, content}, OpenAI's, and {from, value}, ShareGPT's; a list
of {human, assistant} pairs counts as the second. An answer that is null is one that is not there; OpenAI's old
`function_call` is a tool call.

Tables (parquet, arrow) give every call the arguments of all calls, and every tool the keys of all tools, null
where a row has none. So null is not there in calls and tools, as TRL's `remove_none_values` has it, unless they
are given as JSON text, which holds what its author wrote.

A flag on an assistant's message says whether it is learnt: `weight` (0 or 1, OpenAI's), `train` or
`training` (axolotl's), `loss` (ms-swift's); null is as if it were not there. Other messages are learnt
only where prompts are (data.assistant_only_loss=false): there a flag counts as much, and where they are not `true`
is refused when the row is rendered, for to leave it unread would train on something else than it asks for.
"""

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from ..errors import shown
from ..row import SourceRow
from .normal import REASONING, Flag, Message

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "input"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "output"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "observations", "function", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""Role names in files (case does not matter) -> user, assistant, system, tool, or `call`."""
_PASSED_ON = ("name", "tool_call_id", *REASONING)
_FLAGS = ("weight", "train", "training", "loss")

Style = Literal["messages", "sharegpt"]
Turns = tuple[list[Message], frozenset[int]]
"""Messages, and the places of those of the assistant that are flagged not to be learnt."""


def style_of(turns: Any) -> Style | None:
    """How the turns of a list (or a single turn) are written; None: in neither way, or in both."""
    turns = [turns] if isinstance(turns, dict) else turns
    if not isinstance(turns, list):
        return None
    objects = [turn for turn in turns if isinstance(turn, dict)]
    openai = any(turn.get("role") is not None for turn in objects)
    sharegpt = any(turn.get("from") is not None or ("human" in turn and "assistant" in turn) for turn in objects)
    if openai == sharegpt:
        return None
    return "messages" if openai else "sharegpt"


def read_turns(row: SourceRow, column: str, turns: Any, style: Style, names: Mapping[str, str]) -> Turns:
    """The turns of a column as messages.

    Args:
        column: as the file names it, for errors.
        names: `role`, `content`, `from`, `value` -> the turn's key in the file, for errors.

    Raises:
        DataError: a turn is not written in this style, or holds what cannot be learnt.
    """
    pair = "{role, content}" if style == "messages" else "{from, value}"
    if not isinstance(turns, list):
        raise row.error(f"`{column}`: expected a list of {pair}, got {shown(turns)}")
    messages: list[Message] = []
    masked = set()
    for place, turn in enumerate(turns):
        at = f"{column}[{place}]"
        if not isinstance(turn, dict):
            raise row.error(f"`{at}`: expected {pair}, got {shown(turn)}")
        is_pair = "human" in turn and "assistant" in turn
        turn = {key: item for key, item in turn.items() if item is not None}
        if style == "messages":
            read = [_openai(row, at, turn, names)]
        elif is_pair and "from" not in turn:
            read = [
                {"role": role, "content": _said(row, f"{at}.{key}", turn.get(key), role)}
                for key, role in (("human", "user"), ("assistant", "assistant"))
            ]
        else:
            read = [_sharegpt(row, at, turn, names)]
        messages += read
        flag, is_answer = _flag(row, at, turn), read[-1]["role"] == "assistant"
        if flag and not (is_answer and flag.learnt):
            messages[-1]["flag"] = flag
            if is_answer:
                masked.add(len(messages) - 1)
    return messages, frozenset(masked)


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


def read_tools(row: SourceRow, key: str, tools: Any) -> tuple[dict[str, Any], ...]:
    """Tool definitions, given as a list or as the JSON text of one.

    Raises:
        DataError: it is neither.
    """
    tools = (_json(row, key, tools) if tools.strip() else []) if isinstance(tools, str) else _without_nulls(tools)
    if not isinstance(tools, list):
        raise row.error(f"`{key}`: expected a list of tools, got {shown(tools)}")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise row.error(f"`{key}[{place}]`: expected an object, got {shown(tool)}")
    return tuple(tool if "function" in tool else {"type": "function", "function": tool} for tool in tools)


def _openai(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> Message:
    key = f"{at}.{names.get('role', 'role')}"
    role = _role(row, key, turn.get("role"))
    if role == "call":
        raise row.error(f"`{key}`: a call is an assistant message with `tool_calls`")
    content = _content(row, f"{at}.{names.get('content', 'content')}", turn, role)
    message: Message = {"role": role, "content": content}
    for key in _PASSED_ON:
        if key in turn:
            message[key] = text_of(row, f"{at}.{key}", turn[key])
    old = _without_nulls(turn.get("function_call"))
    if old and turn.get("tool_calls"):
        raise row.error(f"`{at}`: has `function_call` and `tool_calls`; keep one of them")
    for key, calls in (("tool_calls", turn.get("tool_calls")), ("function_call", old)):
        if calls:
            message["tool_calls"] = _tool_calls(row, f"{at}.{key}", calls)
    return message


def _sharegpt(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> Message:
    key = f"{at}.{names.get('value', 'value')}"
    role = _role(row, f"{at}.{names.get('from', 'from')}", turn.get("from"))
    if role != "call":
        return {"role": role, "content": _said(row, key, turn.get("value"), role)}
    text = text_of(row, key, turn.get("value"))
    calls = _tool_calls(row, key, _json(row, key, text), is_json=True)
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _role(row: SourceRow, key: str, value: Any) -> str:
    role = ROLES.get(value.strip().lower()) if isinstance(value, str) else None
    if role is None:
        known = ", ".join(f"`{name}`" for name in ROLES)
        raise row.error(f"`{key}`: expected one of {known}, got {shown(value)}")
    return role


def _content(row: SourceRow, key: str, turn: dict[str, Any], role: str) -> str:
    content = turn.get("content")
    if isinstance(content, list):
        parts = []
        for number, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text":
                raise row.error(
                    f"`{key}[{number}]`: expected {{type: text, text}}, got {shown(part)}; only text can be learnt"
                )
            parts.append(text_of(row, f"{key}[{number}].text", part.get("text")))
        return "".join(parts)
    return _said(row, key, content, role)


def _said(row: SourceRow, key: str, value: Any, role: str) -> str:
    """What a turn says. An answer may be null: it is a call, or is not there, and counts as empty."""
    return "" if value is None and role == "assistant" else text_of(row, key, value)


def _flag(row: SourceRow, at: str, turn: dict[str, Any]) -> Flag | None:
    """What a message's flags say; None: it has none."""
    flags: dict[str, bool] = {}
    for key in _FLAGS:
        if (value := turn.get(key)) is None:
            continue
        if key == "weight" and value not in (0, 1):
            raise row.error(f"`{at}.{key}`: expected 0 or 1, got {shown(value)}")
        if key != "weight" and not isinstance(value, bool):
            raise row.error(f"`{at}.{key}`: expected true or false, got {shown(value)}")
        flags[key] = bool(value)
    if len(set(flags.values())) > 1:
        said = ", ".join(f"`{key}` {shown(turn[key])}" for key in flags)
        raise row.error(f"`{at}`: its flags contradict each other: {said}; keep one of them")
    return next((Flag(f"{at}.{key}", learnt) for key, learnt in flags.items()), None)


def _json(row: SourceRow, key: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise row.error(f"`{key}`: is not JSON: {error.msg}; got {shown(text)}") from error


def _without_nulls(value: Any) -> Any:
    """Without the keys of objects that are null. In lists, as that of an `enum`, null is a value."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [_without_nulls(part) for part in value]
    return value


def _tool_calls(row: SourceRow, key: str, calls: Any, is_json: bool = False) -> list[dict[str, Any]]:
    """Args:
    is_json: they stood in the row as JSON text.
    """
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        raise row.error(f"`{key}`: expected calls {{name, arguments}}, got {shown(calls)}")
    result = []
    for place, call in enumerate(calls):
        function = (call.get("function") or call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise row.error(f"`{key}[{place}]`: expected {{name, arguments}}, got {shown(call)}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _json(row, f"{key}[{place}].arguments", arguments) if arguments else {}
        elif not is_json:
            arguments = _without_nulls(arguments)
        if not isinstance(arguments, dict | None):
            raise row.error(f"`{key}[{place}].arguments`: expected an object, got {shown(arguments)}")
        part = {"name": function["name"], "arguments": arguments or {}}
        extra = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        result.append({**extra, "type": "function", "function": part})
    return result
