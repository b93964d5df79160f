"""What a row looks like: the formats that it fits, each with the columns that it would be read from.

One row is looked at here; `detect.py` decides over many. The names of columns and their aliases stand
in the tables below, in one place. In which order formats are tried (the first that fits wins):

* tokens             `input_ids`; `attention_mask`, `labels` (-100: not learnt)
* segments           `segments`: [{`text`, `label`}]
* preference         `chosen` and `rejected`, as texts, lists of messages, or one message each; and pairs of other names
* kto                any of the next three, with a true/false `label` or `kto_tag`
* messages           `messages`: [{`role`, `content`}], OpenAI's; `system` and `tools` beside it
* sharegpt           `conversations`: [{`from`, `value`}]; `system` and `tools` beside it
* alpaca             `instruction`, `input` (optional), `output` or `response`; `system`, `history`, `tools`
* prompt_completion  `prompt` and `completion`, texts or messages, and pairs of other names; `system`, `history`
* text               `text`, or the document of a text file; else the only column of text

So an alpaca file with a pre-rendered `text` column is alpaca, and a chat beats a `prompt` beside it.
The names of the one before win over a column of turns of any other name; alpaca and the pairs are
equals, and a row that fits two of them is a tie. Names are tried as they are first, then in small letters:
`Instruction` and `Output` are alpaca.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...config.run_config import DataFormat
from .columns import CHAT_COLUMNS
from .dialogue import read_dialogue
from .turns import ROLES, style_of

Value = dict[str, Any]
Level = Callable[[Value], list["Fit"]]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A format that a row fits."""

    format: DataFormat
    columns: dict[str, str]
    """The format's key -> the column that it is read from."""
    reason: str
    """The observation that tells it."""
    likely: bool = False
    """Told from a name that says less than the format's own names do."""
    loose: bool = False
    """Told from the values alone: the columns' names say nothing."""
    inner: "Fit | None" = None
    """KTO: what the row is without its label."""

    @property
    def required(self) -> dict[str, str]:
        """Those of `columns` without which the row would not fit."""
        return {key: column for key, column in self.columns.items() if key not in OPTIONAL}


OPTIONAL = {"input", "system", "history", "tools", "context", "attention_mask", "labels"}
"""Keys of formats that a row may lack."""
_SYSTEM = ("system", "system_prompt", "systemInstruction", "system_instruction")
_TOOLS = ("tools", "toolConfig")
READ_BESIDE = {*_SYSTEM, *_TOOLS, "functions"}
"""Columns that go with every conversation."""
_OPTIONAL_COLUMNS = {*OPTIONAL, *_SYSTEM, *_TOOLS}

_ALPACA = (
    ("instruction", "output", False), ("instruction", "response", True), ("instruct", "output", True),
    ("INSTRUCTION", "RESPONSE", True),
)  # fmt: skip
"""(instruction, output, whether that is merely likely)."""
_PAIRS = (
    ("prompt", "completion", False), ("question", "answer", False), ("query", "response", False),
    ("question", "response", True), ("prompt", "response", True), ("prompt", "generation", True),
    ("problem", "solution", True), ("article", "summary", True), ("message_1", "message_2", True),
    ("input", "output", True), ("inputs", "targets", True),
)  # fmt: skip
"""(prompt, completion, whether that is merely likely)."""
_PREFERENCES = (
    ("chosen", "rejected"), ("chosen_response", "rejected_response"),
    ("messages", "rejected_response"), ("messages", "rejected_messages"), ("chosen_messages", "rejected_messages"),
    ("preferred_output", "non_preferred_output"),
)  # fmt: skip
_BETTER = (
    ("_j", "_k"), ("_w", "_l"), ("_chosen", "_rejected"), ("_good", "_bad"), ("_better", "_worse"), ("_win", "_lose"),
    ("_preferred", "_dispreferred"), ("_accepted", "_rejected"),
)  # fmt: skip
"""How the names of two answers to one prompt end, of which the first is the better one."""
WORSE_ENDINGS = tuple(bad for _, bad in _BETTER)
_PROMPTS = ("prompt", *CHAT_COLUMNS, "instruction", "question", "query", "input")
"""Where the prompt of preference data is."""
_LABELS = ("kto_tag", "label")
_LABEL_WORDS = {
    **dict.fromkeys(("true", "1", "yes", "good", "desirable"), True),
    **dict.fromkeys(("false", "0", "no", "bad", "undesirable"), False),
}
_TEXTS = ("content", "document")
_NO_CHAT = {"prompt", "completion", "chosen", "rejected", "tools", "segments"}
"""Columns that may hold turns and are not the conversation."""
_NO_TEXT = {
    *(name for row in (*_ALPACA, *_PAIRS) for name in row[:2]),
    *(name for row in _PREFERENCES for name in row),
    *CHAT_COLUMNS, *_SYSTEM, *_TOOLS, *_LABELS, *OPTIONAL, "input_ids",
}  # fmt: skip
"""Parts of other formats: alone they are no documents."""
ANSWERS = {
    *(completion for _, completion, _ in (*_ALPACA, *_PAIRS)),
    *("target", "targets", "label_text", "answers", "ideal", "reply", "assistant"),
}  # fmt: skip
"""Columns that hold an answer wherever they are found."""
BESIDE = {
    "id", "uuid", "index", "idx", "url", "uri", "source", "date", "time", "timestamp", "created",
    "score", "lang", "language", "split", "license", "licence", "author", "category",
    "meta", "metadata", "dataset", "domain", "tags", "role",
}  # fmt: skip
"""Columns of text that say something about a row, and are not the row."""
NAMES = {*_NO_TEXT, *ANSWERS, *BESIDE, *_TEXTS, "text", "segments"}
"""Names that say what a column is."""


def fits_of(value: Value, format: DataFormat = "auto", named: Collection[str] = ()) -> list[Fit] | None:
    """The shapes that fit a row, several where it is a tie.

    Args:
        value: the row, renamed by `data.columns`.
        format: the only format to think of; it is then taken at its word, so what is wrong with the
            row is for its reader to say.
        named: keys of `data.columns`: what does not read all of them does not fit.

    Returns:
        None where the row says nothing: an empty conversation, which any chat may have.
    """
    value = {key: item for key, item in value.items() if item is not None}
    if format != "auto":
        return _using(_FORMATS[format](value), value, named) or _as_written(value, named, _FORMATS[format])
    for level in _LEVELS:
        if found := _using(level(value), value, named):
            return found
        if level is _named_chats and any(value.get(column) == [] for column in CHAT_COLUMNS[:3]):
            return None
        if level is _pairs_and_alpaca and (found := _as_written(value, named, *_LEVELS[:-1])):
            return found
    return _as_written(value, named, _text)


def without_nulls(value: Value) -> Value:
    """The row with an empty conversation or text where it has null."""
    empty = {key: [] if key in CHAT_COLUMNS else "" for key, item in value.items() if item is None}
    return {**value, **empty}


def is_history(column: str) -> bool:
    """Whether a column's name says that it holds what was said before the row: it is no conversation by itself."""
    return column.strip().lower().endswith("history")


def is_answer_name(column: str) -> bool:
    """Whether a column's name, or its last word, is one of an answer: `canonical_solution`."""
    name = column.strip().lower()
    return name in ANSWERS or name.rpartition("_")[2] in ANSWERS


def text_columns(value: Value) -> list[str]:
    """The columns of text that are not about something else."""
    return [
        column
        for column, item in value.items()
        if isinstance(item, str) and len(column) > 2
        and column.lower() not in BESIDE and not column.lower().endswith("_id")
    ]  # fmt: skip


def _in_small_letters(value: Value) -> dict[str, str]:
    """Small letters -> the column so named; empty where no name changes, or two become one."""
    small = {column.strip().lower(): column for column in value}
    return small if len(small) == len(value) and any(new != old for new, old in small.items()) else {}


def _as_written(value: Value, named: Collection[str], *levels: Level) -> list[Fit]:
    """What the row is by its names in small letters, with its columns as they are written."""
    small = _in_small_letters(value)
    lower = {new: value[old] for new, old in small.items()}
    for level in levels if small else ():
        if found := [_written(shape, small) for shape in level(lower)]:
            return _using(found, value, named)
    return []


def _written(shape: Fit, small: Mapping[str, str]) -> Fit:
    columns = {key: small[column] for key, column in shape.columns.items()}
    inner = _written(shape.inner, small) if shape.inner else None
    return replace(
        shape, columns=columns, inner=inner, likely=True, reason=f"{shape.reason}, but for capital letters"
    )  # fmt: skip


def _using(shapes: list[Fit], value: Value, named: Collection[str]) -> list[Fit]:
    """Those that read all named columns, without those whose columns another has and more."""
    fit = [
        shape
        for shape in shapes
        if all(key in shape.columns.values() or (key in _OPTIONAL_COLUMNS and key not in value) for key in named)
    ]
    held = [set(shape.columns.values()) for shape in fit]
    return [shape for shape, own in zip(fit, held, strict=True) if not any(own < other for other in held)]


def _first(value: Value, key: str, *names: str) -> dict[str, str]:
    return next(({key: name} for name in names if name in value), {})


def _beside(value: Value, **keys: tuple[str, ...]) -> dict[str, str]:
    return {k: c for key, names in keys.items() for k, c in _first(value, key, *names).items()}


def _tokens(value: Value) -> list[Fit]:
    if "input_ids" not in value:
        return []
    columns = _beside(value, input_ids=("input_ids",), attention_mask=("attention_mask",), labels=("labels",))
    return [Fit(format="tokens", columns=columns, reason=" and ".join(f"`{name}`" for name in columns))]


def _segments(value: Value) -> list[Fit]:
    if "segments" not in value:
        return []
    return [
        Fit(
            format="segments",
            columns={"segments": "segments"},
            reason="`segments` with text and label",
        )
    ]


def _certain_segments(value: Value) -> list[Fit]:
    segments = value.get("segments")
    fits = isinstance(segments, list) and segments and all(
        isinstance(one, dict) and "text" in one and "label" in one for one in segments
    )  # fmt: skip
    return _segments(value) if fits else []


def _preferences(value: Value) -> list[Fit]:
    pairs = [*_PREFERENCES, *_pairs_by_ending(value)]
    chosen, rejected = next((pair for pair in pairs if pair[0] in value and pair[1] in value), ("", ""))
    if not chosen:
        return []
    best = value[chosen]
    columns = {"chosen": chosen, "rejected": rejected}
    columns |= _beside(value, system=_SYSTEM, tools=_TOOLS)
    pair = f"`{chosen}` and `{rejected}`"
    if isinstance(best, list) and _opens(best):
        return [
            Fit(
                format="preference",
                columns=columns,
                reason=f"{pair} as whole conversations (implicit prompt)",
            )
        ]
    kind = {list: "lists of messages", dict: "one message each", str: "texts"}
    said = kind.get(type(best), "neither texts nor messages")
    prompt = next((name for name in _PROMPTS if name in value and name != chosen), None)
    if prompt is None and isinstance(best, str) and read_dialogue(best):
        return [Fit(format="preference", columns=columns, reason=f"{pair} as dialogues, each in one text")]
    if prompt is None:
        return [Fit(format="preference", columns=columns, reason=f"{pair} as {said}, without a prompt")]
    columns["prompt"] = prompt
    if prompt != "input" and isinstance(value[prompt], str):
        columns |= _beside(value, input=("input",))
    more = " with `input`" if "input" in columns else ""
    return [Fit(format="preference", columns=columns, reason=f"`{prompt}`{more}, {pair} as {said}")]


def _pairs_by_ending(value: Value) -> Iterator[tuple[str, str]]:
    """`response_j` and `response_k`: two texts or lists whose names differ in which is the better one."""
    for column in value:
        for good, bad in _BETTER:
            other = column.removesuffix(good) + bad
            if column.endswith(good) and other in value and type(value[column]) is type(value[other]) in (str, list):
                yield column, other


def _opens(turns: list[Any]) -> bool:
    """Whether messages are a conversation from its beginning, not an answer alone."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    if "human" in first:
        return True
    role = first.get("role") or first.get("from")
    return isinstance(role, str) and ROLES.get(role.strip().lower()) in ("user", "system")


def _kto(value: Value) -> list[Fit]:
    label = next((name for name in _LABELS if as_label(value.get(name)) is not None), None)
    return _labelled(value, label) if label else []


def as_label(value: Any) -> bool | None:
    """True or false; 1 or 0, and words that say so, since tables may hold nothing else. None: no label."""
    if isinstance(value, str):
        return _LABEL_WORDS.get(value.strip().lower())
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _labelled(value: Value, label: str) -> list[Fit]:
    """What the row is without its label, which may be missing."""
    return [
        replace(
            inner, format="kto", columns={**inner.columns, "label": label},
            reason=f"{inner.reason}, with a true/false `{label}`", inner=inner,
        )
        for inner in _named_chats(value) or _loose_chats(value) or _pairs_and_alpaca(value)
        or _as_chat("messages")(value)
    ]  # fmt: skip


def _chat(value: Value, column: str, *, loose: bool = False) -> list[Fit]:
    style = style_of(value[column])
    if style is None:
        return []
    columns = {"messages": column, **_beside(value, system=_SYSTEM, tools=_TOOLS)}
    pair = "role and content" if style == "messages" else "from and value"
    return [
        Fit(
            format=style,
            columns=columns,
            reason=f"`{column}` with {pair}",
            likely=loose,
            loose=loose,
        )
    ]


def _named_chats(value: Value) -> list[Fit]:
    found = (_chat(value, column) for column in CHAT_COLUMNS if isinstance(value.get(column), list))
    return [shape for shapes in found for shape in shapes]


def _loose_chats(value: Value) -> list[Fit]:
    found: list[Fit] = []
    for column, turns in value.items():
        if isinstance(turns, list) and column not in {*_NO_CHAT, *CHAT_COLUMNS} and not is_history(column):
            objects = [turn for turn in turns if isinstance(turn, dict)]
            keys = {key for turn in objects for key in turn}
            pairs = ({"role", "content"}, {"from", "value"}, {"human", "assistant"})
            if len(objects) == len(turns) and any(pair <= keys for pair in pairs):
                found += _chat(value, column, loose=True)
    return found


def _as_chat(style: DataFormat) -> Level:
    """The shapes of a chat whose format is given: a column of its name need not hold turns."""

    def shapes(value: Value) -> list[Fit]:
        for found in (_named_chats(value), _loose_chats(value)):
            if fit := [shape for shape in found if shape.format == style]:
                return fit
        there = [column for column in CHAT_COLUMNS if column in value]
        beside = _beside(value, system=_SYSTEM, tools=_TOOLS)
        return [Fit(format=style, columns={"messages": column, **beside}, reason=f"`{column}`") for column in there[:1]]

    return shapes


def _alpaca(value: Value) -> list[Fit]:
    return [
        Fit(
            format="alpaca",
            columns={
                "instruction": instruction, "output": output,
                **_beside(value, input=("input", "context"), system=_SYSTEM, history=("history",), tools=_TOOLS),
            },
            reason=f"`{instruction}` and `{output}`", likely=likely,
        )
        for instruction, output, likely in _ALPACA
        if instruction in value and output in value
    ]  # fmt: skip


def _pairs(value: Value) -> list[Fit]:
    found = [shape for row in _PAIRS for shape in _pair(value, *row)]
    return found or [*_pair(value, "question", "answers", True)]  # SQuAD's and others' accepted answers


def _pair(value: Value, prompt: str, completion: str, likely: bool) -> Iterator[Fit]:
    if prompt not in value or completion not in value:
        return
    columns = {"prompt": prompt, "completion": completion}
    columns |= _beside(value, system=_SYSTEM, tools=_TOOLS)
    if isinstance(value[prompt], str):  # messages have their own
        columns |= _beside(value, history=("history",))
    reason = f"`{prompt}` and `{completion}`"
    if prompt == "question" and isinstance(value.get("context"), str):
        columns["context"] = "context"
        reason, likely = f"`context`, {reason}", True
    yield Fit(format="prompt_completion", columns=columns, reason=reason, likely=likely)


def _pairs_and_alpaca(value: Value) -> list[Fit]:
    return _alpaca(value) + _pairs(value)


def _text(value: Value) -> list[Fit]:
    if "text" in value:
        return [Fit(format="text", columns={"text": "text"}, reason="`text`")]
    if found := [name for name in _TEXTS if isinstance(value.get(name), str)]:
        return [Fit(format="text", columns={"text": name}, reason=f"`{name}`", likely=True) for name in found]
    texts = text_columns(value)
    if len(texts) != 1 or texts[0] in _NO_TEXT:
        return []
    reason = f"`{texts[0]}`, the only column of text"
    return [Fit(format="text", columns={"text": texts[0]}, reason=reason, likely=True, loose=True)]


_LEVELS: tuple[Level, ...] = (
    _tokens, _certain_segments, _preferences, _kto, _named_chats, _loose_chats, _pairs_and_alpaca,
    _text,
)  # fmt: skip
_FORMATS: dict[DataFormat, Level] = {
    "tokens": _tokens,
    "segments": _segments,
    "preference": _preferences,
    "kto": lambda value: _labelled(value, next((name for name in _LABELS if name in value), "label")),
    "messages": _as_chat("messages"),
    "sharegpt": _as_chat("sharegpt"),
    "alpaca": _alpaca,
    "prompt_completion": _pairs,
    "text": _text,
}
