"""Each row in one normal form: a reader for each format.

Which columns a row is read from is told by its shape (`fits.py`). What does not fit its format is
an error that names the row and the column; what has nothing to learn is dropped under its reason.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from ...config.run_config import DataFormat
from ..errors import DataError, listed, shown
from ..row import SourceRow
from .calls import read_tools
from .cells import text_of
from .columns import renamed, row_keys
from .dialogue import read_dialogue
from .fields import Fields
from .fits import Fit, as_label, fits_of
from .normal import LABELLED_BAD, Conversation, Dropped, Message, Normal, conversation
from .turns import Turns
from .verbatim import document, read_segments, read_text, read_tokens

ACCEPTED = (
    "accepted are: messages [{role, content}], conversations [{from, value}], instruction + output "
    "(input), prompt + completion, question + answer, query + response, text, input_ids (labels), "
    "segments [{text, label}]"
)
_WANTED: dict[str, str] = {
    "alpaca": "`instruction` and `output`",
    "messages": "`messages`",
    "sharegpt": "`conversations`",
    "prompt_completion": "`prompt` and `completion`",
    "text": "`text`",
    "tokens": "`input_ids`",
    "segments": "`segments`",
    "preference": "`chosen` and `rejected`",
    "kto": "an answer and its `label`",
}
NUMBERS_READ = "numbers read as text"
FIRST_OF_SEVERAL = "of several answers in a list the first is learnt"
_CELLS = ("prompt", "completion", "context", "instruction", "input", "output")
"""Keys whose columns hold a text, which JSON may have as a number: the answer 4."""


def normalise(
    row: SourceRow,
    format: DataFormat,
    columns: Mapping[str, str] | None = None,
    *,
    drop_system: bool = False,
) -> Normal:
    """Read one row as `format` (not `auto`).

    Args:
        columns: `data.columns`.
        drop_system: leave out system messages.

    Raises:
        DataError: the row does not fit the format.
    """
    columns = columns or {}
    if isinstance(row.value, str):
        if format != "text":
            raise row.error(f"is running text, expected an object of format {format}")
        normal = document(row, "text", row.value)
    else:
        fields = _fields(row, format, columns)
        cells, notes = _cells_as_text(fields)
        # A system column goes before it is read: what is written without a template has it in its prompt.
        system = fields.shape.columns.get("system") if drop_system else None
        value = {key: item for key, item in fields.value.items() if key != system}
        normal = _READERS[format](replace(fields, value=value | cells))
        if notes and isinstance(normal, Conversation):
            normal = replace(normal, notes=(*normal.notes, *notes))
    if drop_system and isinstance(normal, Conversation):
        return _without_system(normal)
    return normal


def _cells_as_text(row: Fields) -> tuple[dict[str, str], list[str]]:
    """Column -> the text that it stands for, and what is to be said of that: a number, true or false as JSON has it
    (what is not finite is no JSON), and the answer of a list of accepted ones."""
    found: dict[str, str] = {}
    notes: list[str] = []
    for key in _CELLS:
        column = row.shape.columns.get(key)
        cell = row.value.get(column) if column is not None else None
        if type(cell) is str or cell is None:
            continue
        assert column is not None
        if isinstance(cell, int) or (isinstance(cell, float) and math.isfinite(cell)):
            found[column] = json.dumps(cell)
            notes.append(NUMBERS_READ)
        elif key in ("completion", "output") and (answers := _accepted(cell)) and not _is_texts(row.get("prompt")):
            found[column] = answers[0]
            if len(answers) > 1 and key not in row.columns:
                name = row.name(key)
                raise row.source.error(
                    f"`{name}`: holds {len(answers)} texts, expected one; "
                    f"data.columns={{{key}: {name}}} learns the first"
                )
            notes += [FIRST_OF_SEVERAL] if len(answers) > 1 else []
    return found, [*dict.fromkeys(notes)]


def _accepted(cell: Any) -> list[str]:
    """The texts of a list of answers, or of SQuAD's {text: [...], answer_start: [...]}; none where it is neither."""
    texts = cell.get("text") if isinstance(cell, dict) and "answer_start" in cell else cell
    return [*dict.fromkeys(texts)] if _is_texts(texts) else []


def _is_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _fields(row: SourceRow, format: DataFormat, columns: Mapping[str, str]) -> Fields:
    value = renamed(row, columns).value
    assert isinstance(value, dict)
    shapes = fits_of(value, format, row_keys(columns)) or []
    if len(shapes) > 1:
        both = "; or ".join(shape.reason for shape in shapes)
        raise row.error(
            f"can be read as {format} in {len(shapes)} ways ({both}): name the columns with "
            f"data.columns={columns_text(shapes[0].required)}"
        )
    if not shapes:
        raise missing(row, format, columns)
    return Fields(source=row, value=value, shape=shapes[0], columns=columns)


def columns_text(columns: Mapping[str, str] | list[str]) -> str:
    """The value of `data.columns` or `data.ignore` as it is written on the command line and in YAML."""
    import yaml

    return yaml.safe_dump(
        columns if isinstance(columns, list) else dict(columns),
        default_flow_style=True,
        sort_keys=False,
        allow_unicode=True,
        width=10**6,
    ).strip()


def missing(row: SourceRow, format: DataFormat, columns: Mapping[str, str]) -> DataError:
    """The error of a row that lacks what its format needs."""
    keys = row.value if isinstance(row.value, dict) else {}
    nulls = [key for key, item in keys.items() if item is None]
    wanted = _WANTED[format]
    if own := row_keys(columns):
        wanted += f", read from {listed(own.values())}"
    return row.error(
        f"is not {format}: expected {wanted}, got {listed(keys)}"
        + (f" ({listed(nulls)}: null)" if nulls else "")
        + f"; {ACCEPTED}. data.format= forces another"
    )


def _without_system(row: Conversation) -> Conversation:
    kept = [place for place, turn in enumerate(row.messages) if turn["role"] != "system"]
    masked = frozenset(new for new, old in enumerate(kept) if old in row.masked)
    return replace(row, messages=tuple(row.messages[place] for place in kept), masked=masked)


def _tools(row: Fields) -> tuple[dict[str, Any], ...]:
    """The row's tools, from `tools`, from what a service was asked or, as OpenAI had them before, `functions`."""
    tools = row.tools()
    request = row.request("prompt") if "prompt" in row.shape.columns else None
    if request and request.get("tools"):
        tools = read_tools(row.source, f"{row.name('prompt')}.tools", request["tools"])
    functions = row.value.get("functions")
    old = read_tools(row.source, "functions", functions) if functions else ()
    if tools and old and tools != old:
        raise row.source.error(f"has other tools in `{row.name('tools')}` than in `functions`; keep one of them")
    return tools or old


def _with_system(row: Fields, turns: Turns) -> Turns:
    """The row's system text in front of messages, unless they begin with the very same."""
    own = turns[0][0] if turns[0] else {"role": ""}
    if own["role"] == "system" and own["content"].strip() == row.system_text().strip():
        return turns
    return row.with_system(turns)


# Chats


def _messages(row: Fields) -> Normal:
    messages, masked = _with_system(row, row.turns("messages", "messages"))
    return conversation(row.source, messages, _tools(row), masked)


def _sharegpt(row: Fields) -> Normal:
    messages, masked = _with_system(row, row.turns("messages", "sharegpt"))
    return conversation(row.source, messages, _tools(row), masked)


# One answer


def _alpaca(row: Fields) -> Normal:
    instruction, more, answer = (row.text(key) for key in ("instruction", "input", "output"))
    history = _history(row)
    messages = [*row.system(), *history]
    question = _question(instruction, more)
    user: Message = {"role": "user", "content": question or instruction or more}
    # For templates that keep the two apart, as Alpaca's own does.
    messages.append({**user, "instruction": instruction, "input": more} if question else user)
    messages.append({"role": "assistant", "content": answer})
    if history:
        return conversation(row.source, messages, _tools(row))
    plain = (_alpaca_prompt(messages, instruction, more), answer)
    return conversation(row.source, messages, _tools(row), plain=plain)


def _history(row: Fields) -> list[Message]:
    """The turns before a row's own: a list of [user, answer] pairs."""
    history = row.get("history") or []
    name = row.name("history") if "history" in row else ""
    if not isinstance(history, list):
        raise row.source.error(f"`{name}`: expected a list of [user, answer] pairs, got {shown(history)}")
    messages: list[Message] = []
    for place, pair in enumerate(history):
        at = f"{name}[{place}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise row.source.error(f"`{at}`: expected [user, answer], got {shown(pair)}")
        for role, part in zip(("user", "assistant"), pair, strict=True):
            messages.append({"role": role, "content": text_of(row.source, at, part)})
    return messages


def _question(instruction: str, more: str) -> str:
    """Instruction and input as one text; nothing where one of them is empty."""
    return f"{instruction}\n{more}" if instruction.strip() and more.strip() else ""


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
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        )
    middle = f"### Input:\n{more}\n\n" if more.strip() else ""
    return f"{head}\n\n### Instruction:\n{instruction}\n\n{middle}### Response:\n"


def _prompt_completion(row: Fields) -> Normal:
    if (turns := _in_turn(row)) is not None:
        return conversation(row.source, [*row.system(), *turns], _tools(row))
    if isinstance(row.get("prompt"), list | dict) or isinstance(row.get("completion"), list | dict):
        return _continued(row, _prompt_turns(row, "prompt"), "completion")
    prompt, completion = row.text("prompt"), row.text("completion")
    if "context" in row:
        prompt = f"{row.text('context')}\n\n{prompt}"
    system, history = row.system(), _history(row)
    messages = [
        *system,
        *history,
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": completion},
    ]
    if history:
        return conversation(row.source, messages, _tools(row))
    head = f"{system[0]['content']}\n\n" if system else ""
    return conversation(row.source, messages, _tools(row), plain=(head + prompt, completion))


def _in_turn(row: Fields) -> list[Message] | None:
    """The turns of a row that holds what the user said and what was answered as two lists of texts; None: it does
    not."""
    said, answers = row.get("prompt"), row.get("completion")
    if not _is_texts(said) or not _is_texts(answers):
        return None
    if len(said) != len(answers):
        raise row.source.error(
            f"`{row.name('prompt')}` has {len(said)} texts and `{row.name('completion')}` {len(answers)}; expected an "
            "answer to each"
        )
    turns = zip(said, answers, strict=True)
    return [
        {"role": role, "content": text_of(row.source, row.name(key), text)}
        for pair in turns
        for role, key, text in zip(("user", "assistant"), ("prompt", "completion"), pair, strict=True)
    ]


def _prompt_turns(row: Fields, key: str) -> Turns:
    """A prompt as messages, none of which is learnt."""
    if isinstance(row.get(key), list | dict):
        before, _ = row.turns(key)
    else:
        before = [{"role": "user", "content": row.text(key)}]
    return _with_system(row, (before, frozenset()))


def _continued(row: Fields, prompt: Turns, key: str) -> Normal:
    """A prompt and the answer to it: a text, a message, or messages, before which the prompt may
    stand once more."""
    before, _ = prompt
    if isinstance(row.get(key), list | dict):
        after, masked = row.turns(key)
    else:
        after, masked = [{"role": "assistant", "content": row.text(key)}], frozenset()
    begin = _same(before, after)
    if begin and begin == len(before):
        after, masked = after[begin:], frozenset(p - begin for p in masked if p >= begin)
    if after and after[0]["role"] in ("user", "system"):
        raise row.source.error(
            f"`{row.name(key)}`: expected the answer to `{row.name('prompt')}`, got a "
            f"{after[0]['role']} message ({shown(after[0]['content'])}); where it holds whole "
            f"conversations, set data.format=messages data.columns={{messages: {row.name(key)}}}"
        )
    given = {place for place, turn in enumerate(before) if turn["role"] == "assistant"}
    place = len(before)
    return conversation(row.source, before + after, _tools(row), given | {place + one for one in masked})


def _same(one: list[Message], other: list[Message]) -> int:
    """How many messages both begin with."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if (left["role"], left["content"]) != (right["role"], right["content"]):
            break
        count += 1
    return count


def _preference(row: Fields) -> Normal:
    """The chosen answer, as supervised fine-tuning learns it; the rejected one is left out."""
    if "prompt" in row:
        before = _prompt_turns(row, "prompt")
        if more := row.text("input"):
            before[0][-1]["content"] = _question(row.text("prompt"), more) or more
        return _continued(row, before, "chosen")
    name = row.name("chosen")
    messages, masked = _answered(row, "chosen")
    if not messages or messages[0]["role"] == "assistant":
        raise row.source.error(
            f"`{name}`: no column holds the prompt that it answers; name it with "
            "data.columns={prompt: COLUMN}, or, where this is a text with its prompt in it, learn it "
            f"whole with data.format=text data.columns={{text: {name}}}"
        )
    others = _answered(row, "rejected")[0]
    # What both begin with is the prompt; an answer alone was rejected in place of the last turn.
    begin = min(_same(messages, others) if len(others) > 1 else len(messages), len(messages) - 1)
    masked |= {place for place in range(begin) if messages[place]["role"] == "assistant"}
    messages, masked = _with_system(row, (messages, masked))
    return conversation(row.source, messages, _tools(row), masked)


def _answered(row: Fields, key: str) -> Turns:
    """A whole conversation: messages, or a dialogue in one text; nothing where it is another text."""
    value = row.get(key)
    if isinstance(value, str):
        return read_dialogue(text_of(row.source, row.name(key), value)) or [], frozenset()
    return row.turns(key) if value is not None else ([], frozenset())


def _kto(row: Fields) -> Normal:
    """An answer that is labelled good, as supervised fine-tuning learns it."""
    good = as_label(row.get("label"))
    if good is None:
        raise row.source.error(f"`{row.name('label')}`: expected true or false, got {shown(row.get('label'))}")
    inner: Fit | None = row.shape.inner
    assert inner is not None
    normal = _READERS[inner.format](replace(row, shape=inner))
    return normal if good else Dropped(row.source, LABELLED_BAD)


_READERS: dict[DataFormat, Callable[[Fields], Normal]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "text": read_text,
    "tokens": read_tokens,
    "segments": read_segments,
    "preference": _preference,
    "kto": _kto,
}
