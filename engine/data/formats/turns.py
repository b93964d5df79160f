"""Turns of a chat as messages: roles, content, tool calls, and flags that say what is learnt.

Two ways to write a turn are read: {role, content}, OpenAI's, and {from, value}, ShareGPT's; a list
of {human, assistant} pairs counts as the second, and so does one of XTuner's {input, output} pairs, `system` with the
first. An answer that is null is one that is not there; OpenAI's old `function_call` is a tool call. What a turn says
may stand in parts (`parts.py`), under `content` or, as Gemini has it, `parts`. The items of OpenAI's Responses that
have no role (`{type: function_call, ...}`) are such parts, each a turn of its own; a call with its result in one turn,
{role: tool, parameters, observation}, is ChatGLM3's. What an assistant says in several pieces of that kind is one
message.

A flag on an assistant's message says whether it is learnt: `weight` (0 or 1, OpenAI's), `loss_weight`
(LLaMA-Factory's), `train` or `training` (axolotl's), `loss` (ms-swift's), `loss_mask`, `output_with_loss` (XTuner's);
null is as if it were not there. Other messages are learnt only where prompts are (data.assistant_only_loss=false):
there a flag counts as much, and where they are not `true` is refused when the row is rendered, for to leave it unread
would train on something else than it asks for. So a flag that says one thing here and another there is refused.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from ..errors import shown
from ..row import SourceRow
from .calls import id_of, read_calls
from .cells import json_of, text_of, without_nulls
from .normal import REASONING, Flag, Message
from .parts import read_parts

ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "input"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard", "output"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        ("tool", "observation", "observations", "function", "function_response", "ipython", "tool_response"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
"""Role names in files (case does not matter) -> user, assistant, system, tool, or `call`."""
_PASSED_ON = ("name", "tool_call_id", *REASONING)
_WEIGHTS = ("weight", "loss_weight", "loss_mask")
_FLAGS = (*_WEIGHTS, "train", "training", "loss", "output_with_loss")
_UNCLEAR = {
    "mask": "says that it is learnt in some files, that it is not in others",
    "train_detail": "says which parts of a turn are learnt, which `segments` with text and label can",
}
"""Keys of a turn that say what is learnt, and why they are not read."""
_SAY_WHAT_IS_LEARNT = {*_FLAGS, *_UNCLEAR}
_CONTENT = ("content", "parts")
_CALLS = ("tool_calls", "tool_call", "function_call")
_READ = {
    *("role", "from", "value", "system", "type", "id", "parameters", "observation", "arguments", "call_id", "summary"),
    *("human", "assistant", "input", "output"), *_CONTENT, *_PASSED_ON, *_FLAGS, *_CALLS,
}  # fmt: skip
"""Keys of a turn that some way to write it has."""

_OF_A_TOOL = re.compile("tool|function|observ|result", re.IGNORECASE)

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
    sharegpt = any(turn.get("from") is not None or _pair_of(turn) for turn in objects)
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
        pair = _pair_of(turn)
        turn = {key: item for key, item in turn.items() if item is not None}
        if style == "messages":
            read, in_pieces = _openai(row, at, turn, names)
        elif pair and "from" not in turn:
            read, in_pieces = _pair(row, at, turn, pair), False
        else:
            read, in_pieces = _sharegpt(row, at, turn, names), False
        flag = _flag(row, at, turn)
        if in_pieces and messages and not flag:
            _join(messages, read)
        messages += read
        is_answer = messages[-1]["role"] == "assistant"
        if flag and not (is_answer and flag.learnt):
            messages[-1]["flag"] = flag
            if is_answer:
                masked.add(len(messages) - 1)
    return messages, frozenset(masked)


def served(value: Any) -> Any:
    """The messages of what a service was asked, {messages: [...]}, or the one of what it answered,
    {choices: [{message}]}; any other value as it is."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("messages"), list):
        return value["messages"]
    choices = value.get("choices")
    only = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    return only["message"] if isinstance(only, dict) and isinstance(only.get("message"), dict) else value


def unread_keys(turn: dict[str, Any]) -> set[str]:
    """The keys of a turn that say something and that nothing is read from."""
    return {key for key in turn.keys() - _READ if turn[key] not in (None, "", [], {})}


def _pair_of(turn: dict[str, Any]) -> tuple[str, str] | None:
    if "human" in turn and "assistant" in turn:
        return "human", "assistant"
    if "input" in turn and "output" in turn:
        return "input", "output"
    return None


def _pair(row: SourceRow, at: str, turn: dict[str, Any], pair: tuple[str, str]) -> list[Message]:
    """What a turn of two says, a system text before it; where nothing was asked, the answer alone."""
    told = (("system", "system"), (pair[0], "user"), (pair[1], "assistant"))
    said = [(role, _said(row, f"{at}.{key}", turn.get(key), role)) for key, role in told if key in turn or key in pair]
    return [{"role": role, "content": text} for role, text in said if text.strip() or role == "assistant"]


def _join(messages: list[Message], read: list[Message]) -> None:
    """Put what an assistant says in pieces into the one message that it is, as long as no flag tells them apart."""
    last, more = messages[-1], read[0]
    if last["role"] != "assistant" or more["role"] != "assistant" or "flag" in last:
        return
    if "tool_calls" in last and more["content"]:
        return
    if any(key in last and key in more for key in REASONING):
        return
    joined = last | more | {"content": last["content"] + more["content"]}
    if calls := [*last.get("tool_calls", ()), *more.get("tool_calls", ())]:
        joined["tool_calls"] = calls
    read[0] = joined
    messages.pop()


def _openai(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> tuple[list[Message], bool]:
    """The messages of a turn, and whether they go on with what the assistant said before."""
    if "role" not in turn and isinstance(turn.get("type"), str):  # an item of OpenAI's Responses
        parts = read_parts(row, at, [turn])
        said = {"role": "assistant", "content": parts.text}
        said |= {"tool_calls": parts.calls} if parts.calls else {}
        said |= {"reasoning_content": parts.reasoning} if parts.reasoning else {}
        return parts.results or [said], not parts.results
    key = f"{at}.{names.get('role', 'role')}"
    role = _role(row, key, turn.get("role"))
    name = next((name for name in _CONTENT if name in turn), "content")
    if role == "call":
        at = f"{at}.{names.get(name, name)}"
        return [_call_in_text(row, at, turn.get(name))], True
    if role == "tool" and "observation" in turn:
        return _call_and_result(row, at, turn), True
    content = turn.get(name)
    message: Message = {"role": role, "content": content}
    for one in _PASSED_ON:
        if one in turn:
            name = id_of(turn[one]) if one == "tool_call_id" else ""
            message[one] = name or text_of(row, f"{at}.{one}", turn[one])
    calls = [one for one in _CALLS if turn.get(one) and without_nulls(turn[one])]
    if len(calls) > 1:
        raise row.error(f"`{at}`: has `{calls[1]}` and `{calls[0]}`; keep one of them")
    for one in calls:
        message["tool_calls"] = read_calls(row, f"{at}.{one}", turn[one])
    key = f"{at}.{names.get(name, name)}"
    if isinstance(content, list):
        return _in_parts(row, key, message, content), turn.get("type") == "message"
    message["content"] = _said(row, key, content, role)
    return [message], turn.get("type") == "message"


def _call_and_result(row: SourceRow, at: str, turn: dict[str, Any]) -> list[Message]:
    call = {key: turn[key] for key in ("name", "parameters") if key in turn}
    answer: Message = {"role": "assistant", "content": "", "tool_calls": read_calls(row, at, call)}
    result = read_parts(row, at, [{"type": "tool_result", "name": turn["name"], "content": turn["observation"]}])
    return [answer, *result.results]


def _call_in_text(row: SourceRow, key: str, value: Any) -> Message:
    calls = read_calls(row, key, json_of(row, key, text_of(row, key, value)), is_json=True)
    return {"role": "assistant", "content": "", "tool_calls": calls}


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


def _sharegpt(row: SourceRow, at: str, turn: dict[str, Any], names: Mapping[str, str]) -> list[Message]:
    key = f"{at}.{names.get('value', 'value')}"
    role = _role(row, f"{at}.{names.get('from', 'from')}", turn.get("from"))
    value = turn.get("value")
    if role == "call":
        return [_call_in_text(row, key, value)]
    if isinstance(value, list):
        return _in_parts(row, key, {"role": role, "content": value}, value)
    return [{"role": role, "content": _said(row, key, value, role)}]


def _role(row: SourceRow, key: str, value: Any) -> str:
    role = ROLES.get(value.strip().lower()) if isinstance(value, str) else None
    if role is None:
        known = ", ".join(f"`{name}`" for name in ROLES)
        side = "tool" if isinstance(value, str) and _OF_A_TOOL.search(value) else "user"
        fix = f"; data.roles={{{value}: {side}}} says which it is" if isinstance(value, str) and value.strip() else ""
        raise row.error(f"`{key}`: expected one of {known}, got {shown(value)}{fix}")
    return role


def _said(row: SourceRow, key: str, value: Any, role: str) -> str:
    """What a turn says. An answer may be null: it is a call, or is not there, and counts as empty."""
    return "" if value is None and role == "assistant" else text_of(row, key, value)


def _flag(row: SourceRow, at: str, turn: dict[str, Any]) -> Flag | None:
    """What a message's flags say; None: it has none."""
    if _SAY_WHAT_IS_LEARNT.isdisjoint(turn):
        return None
    flags: dict[str, bool] = {}
    for key in turn.keys() & _UNCLEAR.keys():
        raise row.error(f"`{at}.{key}`: {_UNCLEAR[key]}; say with `train` (true or false) whether the turn is learnt")
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
