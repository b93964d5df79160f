"""Turns of a chat as messages: roles, content, tool calls, and flags that say what is learnt.

Two ways to write a turn are read: {role, content}, OpenAI's, and {from, value}, ShareGPT's; a list
of {human, assistant} pairs counts as the second.

A flag on an assistant's message says whether it is learnt: `weight` (0 or 1, OpenAI's), `train` or
`training` (axolotl's), `loss` (ms-swift's); null is as if it were not there. On any other message
`false` says what holds anyway, and `true` is an error: axolotl would learn such a message, here
only answers are learnt, and to leave the flag unread would train on something else than it asks for.
"""

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from .errors import shown
from .normal import Message
from .row import SourceRow

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "input"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "output"), "assistant"
    ),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        ("tool", "observation", "observations", "function", "function_response", "ipython"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""Role names in files (case does not matter) -> user, assistant, system, tool, or `call`."""
_PASSED_ON = ("name", "tool_call_id", "reasoning_content", "thinking")
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
    sharegpt = any(
        turn.get("from") is not None or ("human" in turn and "assistant" in turn)
        for turn in objects
    )
    if openai == sharegpt:
        return None
    return "messages" if openai else "sharegpt"


def read_turns(
    row: SourceRow, column: str, turns: Any, style: Style, names: Mapping[str, str]
) -> Turns:
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
        turn = {key: item for key, item in turn.items() if item is not None}
        if style == "messages":
            read = [_openai(row, at, turn, names)]
        elif "human" in turn and "assistant" in turn:
            read = [
                {"role": role, "content": text_of(row, f"{at}.{key}", turn[key])}
                for key, role in (("human", "user"), ("assistant", "assistant"))
            ]
        else:
            read = [_sharegpt(row, at, turn, names)]
        messages += read
        if not _flagged(row, at, turn, read[-1]["role"]):
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
    if isinstance(tools, str):
        tools = _json(row, key, tools) if tools.strip() else []
    if not isinstance(tools, list):
        raise row.error(f"`{key}`: expected a list of tools, got {shown(tools)}")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise row.error(f"`{key}[{place}]`: expected an object, got {shown(tool)}")
    return tuple(
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    )


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
    if turn.get("tool_calls"):
        message["tool_calls"] = _tool_calls(row, f"{at}.tool_calls", turn["tool_calls"])
    return message


def _sharegpt(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> Message:
    key = f"{at}.{names.get('value', 'value')}"
    role = _role(row, f"{at}.{names.get('from', 'from')}", turn.get("from"))
    text = text_of(row, key, turn.get("value"))
    if role != "call":
        return {"role": role, "content": text}
    calls = _tool_calls(row, key, _json(row, key, text))
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _role(row: SourceRow, key: str, value: Any) -> str:
    role = ROLES.get(value.strip().lower()) if isinstance(value, str) else None
    if role is None:
        known = ", ".join(f"`{name}`" for name in ROLES)
        raise row.error(f"`{key}`: expected one of {known}, got {shown(value)}")
    return role


def _content(row: SourceRow, key: str, turn: dict[str, Any], role: str) -> str:
    content = turn.get("content")
    if content is None and (turn.get("tool_calls") or role == "assistant"):
        return ""  # a call; or an answer that is not there, which is dropped as empty
    if isinstance(content, list):
        parts = []
        for number, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text":
                raise row.error(
                    f"`{key}[{number}]`: expected {{type: text, text}}, got {shown(part)}; "
                    "only text can be learnt"
                )
            parts.append(text_of(row, f"{key}[{number}].text", part.get("text")))
        return "".join(parts)
    return text_of(row, key, content)


def _flagged(row: SourceRow, at: str, turn: dict[str, Any], role: str) -> bool:
    """Whether a message is learnt as far as its flags say; an assistant's is, where it has none."""
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
    if role != "assistant" and any(flags.values()):
        raise row.error(
            f"`{at}.{next(iter(flags))}`: asks to learn a message of role {role}, but only the "
            "assistant's messages can be learnt; set it to false, or leave it out"
        )
    return role != "assistant" or all(flags.values())


def _json(row: SourceRow, key: str, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise row.error(f"`{key}`: is not JSON: {error.msg}; got {shown(text)}") from error


def _tool_calls(row: SourceRow, key: str, calls: Any) -> list[dict[str, Any]]:
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls:
        raise row.error(f"`{key}`: expected calls {{name, arguments}}, got {shown(calls)}")
    result = []
    for place, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise row.error(f"`{key}[{place}]`: expected {{name, arguments}}, got {shown(call)}")
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _json(row, f"{key}[{place}].arguments", arguments) if arguments else {}
        if not isinstance(arguments, dict | None):
            raise row.error(
                f"`{key}[{place}].arguments`: expected an object, got {shown(arguments)}"
            )
        part = {"name": function["name"], "arguments": arguments or {}}
        extra = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        result.append({**extra, "type": "function", "function": part})
    return result
