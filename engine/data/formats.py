"""Which format the rows have, and each row in one normal form.

Detect, never guess: rows spread over the whole file are looked at, all must have the same shape,
and what does not fit is an error that names the row. The shapes, in the order in which they are
tried (the first that fits wins, so an alpaca file with a pre-rendered `text` column is alpaca):

* messages           `messages`: [{`role`, `content`}], OpenAI's; `tools` beside it
* sharegpt           `conversations`: [{`from`, `value`}]; `system` and `tools` beside it
* alpaca             `instruction`, `input` (optional), `output` or `response`; `system`, `history`
* prompt_completion  `prompt` and `completion`, texts or message lists; `question` and `answer`;
                     `query` and `response`; `system` beside texts
* text               `text`, or the document of a text file

Preference data, KTO data and token ids are recognised in order to be refused: read as one of the
above they would train silently on the wrong thing.

A row that has nothing to learn (an empty answer, no answer at all) is no error: real files have a
few. It is dropped and counted under its reason. Everything else that does not fit is an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from ..config import DataFormat
from .columns import renamed
from .errors import listed, shown
from .row import SourceRow

EMPTY_ANSWER = "empty answer"
NO_ANSWER = "no answer in the conversation"
EMPTY_TEXT = "empty text"

ACCEPTED = (
    "accepted are: messages [{role, content}], conversations [{from, value}], instruction + output "
    "(input), prompt + completion, question + answer, query + response, text"
)
_PAIRS = (("prompt", "completion"), ("question", "answer"), ("query", "response"))
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "bing", "bard"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(
        ("tool", "observation", "observations", "function", "function_response", "ipython"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call"), "call"),
}
_CHAT_COLUMNS = ("messages", "conversations", "conversation")
_PASSED_ON = ("name", "tool_call_id", "reasoning_content", "thinking")

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """A row as chat messages, as a chat template takes them.

    `messages` have `role` (system, user, assistant or tool), `content` (text) and, where the row
    has them, `tool_calls` (arguments as objects), `tool_call_id`, `name`, `reasoning_content`.
    """

    source: SourceRow
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    masked: frozenset[int] = frozenset()
    """Indices of assistant messages that are not learnt (a prompt's, or those of weight 0)."""
    plain: tuple[str, str] | None = None
    """Prompt and answer for a model without a chat template; None: it takes a template."""


@dataclass(frozen=True)
class Document:
    """A row that is learnt whole."""

    source: SourceRow
    text: str


@dataclass(frozen=True)
class Dropped:
    """A row that has nothing to learn."""

    source: SourceRow
    reason: str


Normal = Conversation | Document | Dropped


@dataclass(frozen=True)
class Detection:
    """The format, and the observation that it rests on."""

    format: DataFormat
    reason: str


def detect(
    rows: Sequence[SourceRow], columns: Mapping[str, str] | None = None, sample: int = 200
) -> Detection:
    """Tell the format from up to `sample` rows, spread evenly over all, renamed by `columns`.

    Raises:
        DataError: a row has no known shape, or two rows have different ones.
    """
    count = min(sample, len(rows))
    picked = [
        renamed(rows[place * (len(rows) - 1) // max(count - 1, 1)], columns or {})
        for place in range(count)
    ]
    seen: dict[str, None] = {}
    found: DataFormat | None = None
    first = picked[0]
    for row in picked:
        shape = _shape(row)
        if shape is None:
            continue
        format, observed = shape
        seen[observed] = None
        if found is None:
            found, first = format, row
        elif format != found:
            raise row.error(
                f"is {format} ({observed}), but {first.unit} {first.number} is {found} "
                f"({next(iter(seen))}); a file holds rows of one format: split it, or set "
                "data.format= if both fit one"
            )
    observed = " or ".join(seen) or "a conversation, empty"
    among = f"all {count} rows have" if count == len(rows) else f"{count} rows looked at all have"
    return Detection(found or "messages", f"{'the row has' if count == 1 else among} {observed}")


def _shape(row: SourceRow) -> tuple[DataFormat, str] | None:
    """The row's format and what tells it; None for an empty conversation, which may be either."""
    if isinstance(row.value, str):
        return "text", "running text"
    value = {key: item for key, item in row.value.items() if item is not None}
    if "input_ids" in value:
        raise row.error("holds `input_ids`: token ids are not taken; give the text they stand for")
    if "chosen" in value and "rejected" in value:
        raise row.error(
            "holds `chosen` and `rejected`: preference data cannot be fine-tuned on as it is; to "
            "learn the chosen answers, write rows of prompt + completion"
        )
    if isinstance(value.get("kto_tag", value.get("label")), bool) and (
        "completion" in value or any(column in value for column in _CHAT_COLUMNS)
    ):
        raise row.error(
            "holds a true/false label beside the answer (KTO data): plain fine-tuning would learn "
            "the bad answers too; keep the good rows, without the label, or set data.format="
        )
    for column in _CHAT_COLUMNS:
        turns = value.get(column)
        if isinstance(turns, list):
            if any(isinstance(turn, dict) and "from" in turn for turn in turns):
                return "sharegpt", f"`{column}` with from and value"
            if any(isinstance(turn, dict) and "role" in turn for turn in turns):
                return "messages", f"`{column}` with role and content"
            if not turns:
                return None
            raise row.error(
                f"`{column}`: turns need role and content, or from and value; got {shown(turns)}"
            )
    if "instruction" in value and ("output" in value or "response" in value):
        return "alpaca", f"`instruction` and `{'output' if 'output' in value else 'response'}`"
    for prompt, completion in _PAIRS:
        if prompt in value and completion in value:
            return "prompt_completion", f"`{prompt}` and `{completion}`"
    if "text" in value:
        return "text", "`text`"
    raise row.error(
        f"no known format: it has {listed(row.value)}; {ACCEPTED}. Rename the keys, or force a "
        "format with data.format="
    )


def normalise(row: SourceRow, format: DataFormat, *, drop_system: bool = False) -> Normal:
    """Read one row as `format` (not `auto`).

    Args:
        drop_system: leave out system messages.

    Raises:
        DataError: the row does not fit the format.
    """
    normal = _READERS[format](row)
    if drop_system and isinstance(normal, Conversation):
        return _without_system(normal)
    return normal


def _without_system(row: Conversation) -> Conversation:
    kept = [place for place, turn in enumerate(row.messages) if turn["role"] != "system"]
    masked = frozenset(new for new, old in enumerate(kept) if old in row.masked)
    return replace(row, messages=tuple(row.messages[place] for place in kept), masked=masked)


def _columns(row: SourceRow, format: str) -> dict[str, Any]:
    if isinstance(row.value, str):
        raise row.error(f"is running text, expected an object of format {format}")
    return {key: item for key, item in row.value.items() if item is not None}


def _missing(row: SourceRow, format: str, wanted: str) -> Exception:
    keys = row.value if isinstance(row.value, dict) else ()
    nulls = [key for key in keys if isinstance(row.value, dict) and row.value[key] is None]
    return row.error(
        f"is not {format}: expected {wanted}, got {listed(keys)}"
        + (f" ({listed(nulls)}: null)" if nulls else "")
        + f"; {ACCEPTED}. data.format= forces another"
    )


def _text(row: SourceRow, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise row.error(f"`{key}`: expected text, got {shown(value)}")
    # A lone surrogate (half of a UTF-16 pair) can come from parquet or the hub; no tokenizer
    # takes it.
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise row.error(f"`{key}`: holds half of a surrogate pair at {error.start}") from error
    return value


def _system(row: SourceRow, value: dict[str, Any]) -> list[Message]:
    text = _text(row, "system", value.get("system", ""))
    return [{"role": "system", "content": text}] if text.strip() else []


def _alpaca(row: SourceRow) -> Normal:
    value = _columns(row, "alpaca")
    key = "output" if "output" in value else "response"
    if "instruction" not in value or key not in value:
        raise _missing(row, "alpaca", "`instruction` and `output`")
    instruction = _text(row, "instruction", value["instruction"])
    more = _text(row, "input", value.get("input", ""))
    answer = _text(row, key, value[key])
    messages = _system(row, value)
    history = value.get("history", [])
    if not isinstance(history, list):
        raise row.error(f"`history`: expected a list of [user, answer] pairs, got {shown(history)}")
    for place, pair in enumerate(history):
        if not isinstance(pair, list) or len(pair) != 2:
            raise row.error(f"`history[{place}]`: expected [user, answer], got {shown(pair)}")
        for role, part in zip(("user", "assistant"), pair, strict=True):
            text = _text(row, f"history[{place}]", part)
            messages.append({"role": role, "content": text})
    question = f"{instruction}\n{more}" if instruction.strip() and more.strip() else ""
    user: Message = {"role": "user", "content": question or instruction or more}
    # For templates that keep the two apart, as Alpaca's own does.
    messages.append({**user, "instruction": instruction, "input": more} if question else user)
    messages.append({"role": "assistant", "content": answer})
    if history:
        return _conversation(row, messages)
    return _conversation(row, messages, plain=(_alpaca_prompt(messages, instruction, more), answer))


def _alpaca_prompt(messages: list[Message], instruction: str, more: str) -> str:
    # Stanford Alpaca's prompt (github.com/tatsu-lab/stanford_alpaca), for models without a template.
    if messages[0]["role"] == "system":
        head = messages[0]["content"]
    elif more.strip():
        head = (
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request."
        )
    else:
        head = (
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request."
        )
    middle = f"### Input:\n{more}\n\n" if more.strip() else ""
    return f"{head}\n\n### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def _prompt_completion(row: SourceRow) -> Normal:
    value = _columns(row, "prompt_completion")
    for keys in _PAIRS:
        if all(key in value for key in keys):
            break
    else:
        raise _missing(row, "prompt_completion", "`prompt` and `completion`")
    prompt, completion = (value[key] for key in keys)
    if isinstance(prompt, list) and isinstance(completion, list):
        before, _ = _openai_turns(row, keys[0], prompt)
        after, masked = _openai_turns(row, keys[1], completion)
        given = {place for place, turn in enumerate(before) if turn["role"] == "assistant"}
        return _conversation(
            row,
            before + after,
            _tools(row, value),
            masked=given | {len(before) + place for place in masked},
        )
    if isinstance(prompt, list) or isinstance(completion, list):
        raise row.error(
            f"`{keys[0]}` and `{keys[1]}`: expected two texts or two lists of messages, got "
            f"{shown(prompt)} and {shown(completion)}"
        )
    prompt, completion = _text(row, keys[0], prompt), _text(row, keys[1], completion)
    system = _system(row, value)
    messages = [
        *system,
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]
    head = f"{system[0]['content']}\n\n" if system else ""
    return _conversation(row, messages, plain=(head + prompt, completion))


def _text_row(row: SourceRow) -> Normal:
    if isinstance(row.value, str):
        text = _text(row, "text", row.value)
    else:
        value = _columns(row, "text")
        if "text" not in value:
            raise _missing(row, "text", "`text`")
        text = _text(row, "text", value["text"])
    return Document(row, text) if text.strip() else Dropped(row, EMPTY_TEXT)


def _turns_of(row: SourceRow, format: str, keys: str) -> tuple[dict[str, Any], str, list[Any]]:
    value = _columns(row, format)
    for column in _CHAT_COLUMNS:
        if column in value:
            turns = value[column]
            if not isinstance(turns, list):
                raise row.error(f"`{column}`: expected a list of {keys}, got {shown(turns)}")
            return value, column, turns
    raise _missing(row, format, f"`{'messages' if format == 'messages' else 'conversations'}`")


def _with_system(row: SourceRow, value: dict[str, Any], messages: list[Message]) -> int:
    """Put the row's `system` column first; returns how many messages that added."""
    system = _system(row, value)
    if system and messages and messages[0]["role"] == "system":
        raise row.error("has a `system` column and a system message; keep one of them")
    messages[:0] = system
    return len(system)


def _messages(row: SourceRow) -> Normal:
    value, column, turns = _turns_of(row, "messages", "{role, content}")
    messages, masked = _openai_turns(row, column, turns)
    added = _with_system(row, value, messages)
    return _conversation(
        row, messages, _tools(row, value), masked={place + added for place in masked}
    )


def _openai_turns(
    row: SourceRow, column: str, turns: list[Any]
) -> tuple[list[Message], frozenset[int]]:
    messages: list[Message] = []
    masked = set()
    for place, turn in enumerate(turns):
        at = f"{column}[{place}]"
        if not isinstance(turn, dict):
            raise row.error(f"`{at}`: expected {{role, content}}, got {shown(turn)}")
        turn = {key: item for key, item in turn.items() if item is not None}
        role = _role(row, f"{at}.role", turn.get("role"))
        if role == "call":
            raise row.error(f"`{at}.role`: a call is an assistant message with `tool_calls`")
        message: Message = {"role": role, "content": _content(row, at, turn)}
        for key in _PASSED_ON:
            if key in turn:
                message[key] = _text(row, f"{at}.{key}", turn[key])
        if turn.get("tool_calls"):
            message["tool_calls"] = _tool_calls(row, f"{at}.tool_calls", turn["tool_calls"])
        weight = turn.get("weight", 1)
        if weight not in (0, 1):
            raise row.error(f"`{at}.weight`: expected 0 or 1, got {shown(weight)}")
        if role == "assistant" and not weight:
            masked.add(place)
        messages.append(message)
    return messages, frozenset(masked)


def _role(row: SourceRow, key: str, value: Any) -> str:
    role = _ROLES.get(value.strip().lower()) if isinstance(value, str) else None
    if role is None:
        raise row.error(f"`{key}`: expected one of {listed(_ROLES)}, got {shown(value)}")
    return role


def _content(row: SourceRow, at: str, turn: dict[str, Any]) -> str:
    content = turn.get("content")
    if content is None and (turn.get("tool_calls") or turn.get("role") == "assistant"):
        return ""  # a call; or an answer that is not there, which is dropped as empty
    if isinstance(content, list):
        parts = []
        for number, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text":
                raise row.error(
                    f"`{at}.content[{number}]`: expected {{type: text, text}}, got {shown(part)}; "
                    "only text can be learnt"
                )
            parts.append(_text(row, f"{at}.content[{number}].text", part.get("text")))
        return "".join(parts)
    return _text(row, f"{at}.content", content)


def _sharegpt(row: SourceRow) -> Normal:
    value, column, turns = _turns_of(row, "sharegpt", "{from, value}")
    messages: list[Message] = []
    for place, turn in enumerate(turns):
        at = f"{column}[{place}]"
        if not isinstance(turn, dict):
            raise row.error(f"`{at}`: expected {{from, value}}, got {shown(turn)}")
        role = _role(row, f"{at}.from", turn.get("from"))
        text = _text(row, f"{at}.value", turn.get("value"))
        if role == "call":
            calls = _tool_calls(row, f"{at}.value", _json(row, f"{at}.value", text))
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        else:
            messages.append({"role": role, "content": text})
    _with_system(row, value, messages)
    return _conversation(row, messages, _tools(row, value))


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


def _tools(row: SourceRow, value: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = value.get("tools") or []
    if isinstance(tools, str):
        tools = _json(row, "tools", tools) if tools.strip() else []
    if not isinstance(tools, list):
        raise row.error(f"`tools`: expected a list of tools, got {shown(tools)}")
    for place, tool in enumerate(tools):
        if not isinstance(tool, dict):
            raise row.error(f"`tools[{place}]`: expected an object, got {shown(tool)}")
    return tuple(
        tool if "function" in tool else {"type": "function", "function": tool} for tool in tools
    )


def _conversation(
    row: SourceRow,
    messages: list[Message],
    tools: tuple[dict[str, Any], ...] = (),
    masked: frozenset[int] | set[int] = frozenset(),
    plain: tuple[str, str] | None = None,
) -> Normal:
    learnt = [
        message
        for place, message in enumerate(messages)
        if message["role"] == "assistant" and place not in masked
    ]
    if not learnt:
        return Dropped(row, NO_ANSWER)
    if any(not m["content"].strip() and not m.get("tool_calls") for m in learnt):
        return Dropped(row, EMPTY_ANSWER)
    return Conversation(row, tuple(messages), tools, frozenset(masked), plain)


_READERS: dict[str, Callable[[SourceRow], Normal]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "text": _text_row,
}
