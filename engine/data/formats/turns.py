"""Turns of a chat as messages: roles, content, tool calls, and flags that say what is learnt.

Two ways to write a turn are read: {role, content}, OpenAI's, and {from, value}, ShareGPT's; a list
of {human, assistant} pairs counts as the second. An answer that is null is one that is not there; OpenAI's old
`function_call` is a tool call. What a turn says may stand in parts (`parts.py`), under `content` or, as Gemini has it,
`parts`.

A flag on an assistant's message says whether it is learnt: `weight` (0 or 1, OpenAI's), `loss_weight`
(LLaMA-Factory's), `train` or `training` (axolotl's), `loss` (ms-swift's); null is as if it were not there. Other
messages are learnt only where prompts are (data.assistant_only_loss=false): there a flag counts as much, and where they
are not `true` is refused when the row is rendered, for to leave it unread would train on something else than it asks
for.
"""

from collections.abc import Mapping
from typing import Any, Literal

from ..errors import shown
from ..row import SourceRow
from .calls import read_calls
from .cells import json_of, text_of, without_nulls
from .normal import REASONING, Flag, Message
from .parts import read_parts

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "input"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "output"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "observations", "function", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""Role names in files (case does not matter) -> user, assistant, system, tool, or `call`."""
_PASSED_ON = ("name", "tool_call_id", *REASONING)
_WEIGHTS = ("weight", "loss_weight")
_FLAGS = (*_WEIGHTS, "train", "training", "loss")
_CONTENT = ("content", "parts")

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
            read = _openai(row, at, turn, names)
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


def _openai(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> list[Message]:
    key = f"{at}.{names.get('role', 'role')}"
    role = _role(row, key, turn.get("role"))
    if role == "call":
        raise row.error(f"`{key}`: a call is an assistant message with `tool_calls`")
    name = next((name for name in _CONTENT if name in turn), "content")
    content = turn.get(name)
    message: Message = {"role": role, "content": content}
    for one in _PASSED_ON:
        if one in turn:
            message[one] = text_of(row, f"{at}.{one}", turn[one])
    old = without_nulls(turn.get("function_call"))
    if old and turn.get("tool_calls"):
        raise row.error(f"`{at}`: has `function_call` and `tool_calls`; keep one of them")
    for one, calls in (("tool_calls", turn.get("tool_calls")), ("function_call", old)):
        if calls:
            message["tool_calls"] = read_calls(row, f"{at}.{one}", calls)
    key = f"{at}.{names.get(name, name)}"
    if isinstance(content, list):
        return _in_parts(row, key, message, content)
    message["content"] = _said(row, key, content, role)
    return [message]


def _in_parts(row: SourceRow, key: str, message: Message, content: list[Any]) -> list[Message]:
    """The messages that one is whose content stands in parts: results of calls are messages of their own."""
    parts = read_parts(row, key, content)
    role = message["role"]
    message["content"] = parts.text
    if (parts.calls or parts.reasoning) and role != "assistant":
        what = "a call" if parts.calls else "reasoning"
        raise row.error(f"`{key}`: holds {what}, which is the assistant's; its role is {role}")
    if parts.calls:
        if message.get("tool_calls"):
            raise row.error(f"`{key}`: holds a call, and the message has `tool_calls`; keep one of them")
        message["tool_calls"] = parts.calls
    if parts.reasoning:
        if any(one in message for one in REASONING):
            raise row.error(f"`{key}`: holds reasoning, and the message has some beside it; keep one of them")
        message["reasoning_content"] = parts.reasoning
    if not parts.results:
        return [message]
    if role == "assistant":
        raise row.error(f"`{key}`: holds the result of a call, which is no answer; its role is assistant")
    return [*parts.results, *([message] if parts.text else [])]


def _sharegpt(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> Message:
    key = f"{at}.{names.get('value', 'value')}"
    role = _role(row, f"{at}.{names.get('from', 'from')}", turn.get("from"))
    if role != "call":
        return {"role": role, "content": _said(row, key, turn.get("value"), role)}
    text = text_of(row, key, turn.get("value"))
    calls = read_calls(row, key, json_of(row, key, text), is_json=True)
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _role(row: SourceRow, key: str, value: Any) -> str:
    role = ROLES.get(value.strip().lower()) if isinstance(value, str) else None
    if role is None:
        known = ", ".join(f"`{name}`" for name in ROLES)
        fix = f"; data.roles={{{value}: user}} says which it is" if isinstance(value, str) and value.strip() else ""
        raise row.error(f"`{key}`: expected one of {known}, got {shown(value)}{fix}")
    return role


def _said(row: SourceRow, key: str, value: Any, role: str) -> str:
    """What a turn says. An answer may be null: it is a call, or is not there, and counts as empty."""
    return "" if value is None and role == "assistant" else text_of(row, key, value)


def _flag(row: SourceRow, at: str, turn: dict[str, Any]) -> Flag | None:
    """What a message's flags say; None: it has none."""
    flags: dict[str, bool] = {}
    for key in _FLAGS:
        if (value := turn.get(key)) is None:
            continue
        if key in _WEIGHTS and value not in (0, 1):
            raise row.error(f"`{at}.{key}`: expected 0 or 1, got {shown(value)}")
        if key not in _WEIGHTS and not isinstance(value, bool):
            raise row.error(f"`{at}.{key}`: expected true or false, got {shown(value)}")
        flags[key] = bool(value)
    if len(set(flags.values())) > 1:
        said = ", ".join(f"`{key}` {shown(turn[key])}" for key in flags)
        raise row.error(f"`{at}`: its flags contradict each other: {said}; keep one of them")
    return next((Flag(f"{at}.{key}", learnt) for key, learnt in flags.items()), None)
