"""The content of a message where it is a list of parts, as services write it.

| part | written by |
|---|---|
| `{type: text, text}`, `input_text`, `output_text` | OpenAI, Anthropic |
| `{type: reasoning, summary}`, `{type: function_call}`, `{type: function_call_output}` | OpenAI's Responses |
| `{type: text, value}`, `{type: reasoning, value}`, `{type: tool_call, value: JSON}` | LLaMA-Factory |
| `{type: thinking, thinking}`, `{type: tool_use, id, name, input}` | Anthropic |
| `{type: tool_result, tool_use_id, content}` | Anthropic |
| `{text}`, `{text, thought: true}`, `{functionCall}`, `{functionResponse}` | Gemini |
| `{type: link, text, href}`, and other kinds of text | Telegram |
| `{text}`, `{reasoningContent}`, `{toolUse}`, `{toolResult}`, `{cachePoint}` | Bedrock |

Text and reasoning of several parts are joined as they stand. A user's message that holds results of calls is those
results, in the role `tool`, and what is said beside them. Pictures, sound and files cannot be learnt.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from ..errors import shown
from ..row import SourceRow
from .calls import read_calls
from .cells import json_of, text_of
from .normal import Message

_TEXT = ("text", "input_text", "output_text", "summary_text")
_REASONING = ("reasoning", "thinking")
_CALL = ("tool_call", "tool_calls", "tool_use", "function_call")
_RESULT = ("tool_result", "function_response", "tool_response", "function_call_output")
_UNTYPED = {
    "functionCall": "tool_call", "function_call": "tool_call", "toolUse": "tool_call",
    "functionResponse": "tool_result", "function_response": "tool_result", "toolResult": "tool_result",
    "reasoningContent": "reasoning",
}  # fmt: skip
"""The only key of a part without a type -> what it is."""
_EMPTY = {"cachePoint", "cache_control"}
"""Parts that say something to the service alone."""


@dataclass(kw_only=True)
class Parts:
    """What the parts of one message hold."""

    text: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    """Messages of the role `tool`."""


def read_parts(row: SourceRow, key: str, parts: list[Any]) -> Parts:
    """The parts of a message's content.

    Raises:
        DataError: one is no part that is known, or none that can be learnt.
    """
    found = Parts()
    for place, part in enumerate(parts):
        at = f"{key}[{place}]"
        if isinstance(part, str):
            found.text += text_of(row, at, part)
            continue
        part = {name: item for name, item in part.items() if item is not None} if isinstance(part, dict) else part
        kind, body = _kind(part)
        if kind == "text":
            found.text += _text(row, at, body)
            if found.calls and found.text.strip():
                raise row.error(f"`{at}`: says something after a call; put it before the call, or in a turn of its own")
        elif kind == "reasoning":
            found.reasoning += _reasoning(row, at, body)
        elif kind == "tool_call":
            value = body.get("value", body) if isinstance(body, dict) else body
            is_json = isinstance(value, str)
            found.calls += read_calls(row, at, json_of(row, f"{at}.value", value) if is_json else value, is_json)
        elif kind == "tool_result":
            found.results.append(_result(row, at, body))
        elif kind != "nothing":
            raise row.error(
                f"`{at}`: expected {{type: text, text}}, got {shown(part)}; only text, reasoning, calls and their "
                "results can be learnt"
            )
    return found


def _kind(part: Any) -> tuple[str, Any]:
    """What a part is, in words of this module, and the object that says it; an empty word for what is not known."""
    if not isinstance(part, dict):
        return "", part
    kind = part.get("type")
    if isinstance(kind, str):
        for name, kinds in (
            ("text", _TEXT), ("reasoning", _REASONING), ("tool_call", _CALL), ("tool_result", _RESULT),
        ):  # fmt: skip
            if kind in kinds:
                return name, part
        if isinstance(part.get("text"), str) and part.keys() <= {"type", "text", "href"}:
            return "text", part
        return "", part
    if isinstance(part.get("text"), str):
        return ("reasoning" if part.get("thought") is True else "text"), part
    for name, kind in _UNTYPED.items():
        if name in part:
            return kind, part[name]
    return ("nothing" if part.keys() <= _EMPTY else ""), part


def _text(row: SourceRow, at: str, body: Any) -> str:
    key = next((name for name in ("text", "value", "content") if name in body), "text")
    return text_of(row, f"{at}.{key}", body.get(key))


def _reasoning(row: SourceRow, at: str, body: Any) -> str:
    if isinstance(body, dict) and isinstance(body.get("reasoningText"), dict):  # Bedrock's
        body = body["reasoningText"]
    keys = ("thinking", "reasoning", "text", "value", "content", "summary")
    key = next((name for name in keys if isinstance(body, dict) and name in body), "text")
    value = body.get(key) if isinstance(body, dict) else body
    if isinstance(value, list):
        return read_parts(row, f"{at}.{key}", value).text
    return text_of(row, f"{at}.{key}", value)


def _result(row: SourceRow, at: str, body: Any) -> Message:
    if not isinstance(body, dict):
        raise row.error(f"`{at}`: expected the result of a call, got {shown(body)}")
    key = next((name for name in ("content", "response", "output", "value", "result") if name in body), "content")
    message: Message = {"role": "tool", "content": _said(row, f"{at}.{key}", body.get(key, ""))}
    for name in ("tool_use_id", "toolUseId", "tool_call_id", "call_id", "id"):
        if isinstance(body.get(name), str):
            message["tool_call_id"] = body[name]
            break
    if isinstance(body.get("name"), str):
        message["name"] = body["name"]
    return message


def _said(row: SourceRow, at: str, value: Any) -> str:
    """What a tool gave back: text, parts of it, or an object, written as JSON."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        texts = []
        for place, part in enumerate(value):
            told = part["json"] if part.keys() == {"json"} else None  # Bedrock's
            texts.append(_json_text(told) if told is not None else read_parts(row, f"{at}[{place}]", [part]).text)
        return "".join(texts)
    return _json_text(value) if isinstance(value, dict | list) else text_of(row, at, value)


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
