"""Which format the rows have.

Detect, never guess: rows spread over the whole file are looked at, all must have the same shape
(`fits.py` says which there are), and what is told is shown with the columns that are read. What
is told from a name that says little counts as likely, and is shown as such. Where two shapes fit
or none does, `UndecidedFormat` asks: it holds what there is to choose from, for a form on screen,
and its message the keys to set, for the command line. So does data that supervised fine-tuning can
only learn in part: of preference data and of labelled answers, the good ones.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...config.run_config import DataFormat
from ..errors import DataError, listed, shown
from ..row import SourceRow
from .columns import CHAT_COLUMNS, TURN_KEYS, renamed, row_keys
from .fits import ANSWERS, Fit, fits_of, text_columns, without_nulls
from .normalise import ACCEPTED, columns_text
from .turns import ROLES, style_of

Confidence = Literal["certain", "likely"]

_FEW_VALUES = 8  # a key of turns that takes no more values is taken for the role, if asked


@dataclass(frozen=True)
class Candidate:
    """A way in which rows can be read."""

    format: DataFormat
    columns: dict[str, str]
    """`data.columns` that settles it: the format's key -> the column in the file."""
    reason: str
    """Why it fits, in words."""

    @property
    def overrides(self) -> list[str]:
        """The settings, each as `RunConfig.with_overrides` takes it."""
        columns = [f"data.columns={columns_text(self.columns)}"] if self.columns else []
        return [f"data.format={self.format}", *columns]

    @property
    def override(self) -> str:
        """The settings in one line, as a shell takes them."""
        return shlex.join(self.overrides)


class UndecidedFormat(DataError):
    """More than one way to read the rows, or none that is known: somebody has to say.

    Args:
        message: what was found, as an error says it.
        candidates: what there is to choose from, the likeliest first; may be empty.
        columns: the row's columns.
        row: the row that it was seen in.
    """

    def __init__(self, message: str, candidates: Sequence[Candidate], columns: Sequence[str], row: SourceRow) -> None:
        self.candidates = tuple(candidates)
        self.columns = tuple(columns)
        self.row = row
        if candidates:
            ways = "".join(f"\n  {one.override}\n    {one.reason}" for one in self.candidates)
            message += f". To choose, set one of:{ways}"
        else:
            message += (
                f"; {ACCEPTED}. Name a format and its columns, such as data.format=prompt_completion "
                "data.columns={prompt: COLUMN, completion: COLUMN}, or data.format=text "
                "data.columns={text: COLUMN}"
            )
        super().__init__(f"{row.place}: {message}")


@dataclass(frozen=True, kw_only=True)
class Detection:
    """The format, and the observation that it rests on."""

    format: DataFormat
    reason: str
    confidence: Confidence = "certain"
    columns: dict[str, str] = field(default_factory=dict)
    """The format's key -> the column in the file that it is read from."""
    settled: dict[str, str] = field(default_factory=dict)
    """What to add to `data.columns` so that every row is read from the same columns, where the rows
    themselves do not tell."""
    shapes: tuple[Fit, ...] = ()
    """What the rows look like, renamed by `data.columns`."""


def detect(
    rows: Sequence[SourceRow],
    columns: Mapping[str, str] | None = None,
    sample: int = 200,
    format: DataFormat = "auto",
) -> Detection:
    """Tell the format from up to `sample` rows, spread evenly over all, renamed by `columns`.

    Args:
        format: the format that was given, of which only the columns are told; or `auto`.

    Raises:
        UndecidedFormat: a row has no known shape, or several.
        DataError: two rows have different ones.
    """
    columns = columns or {}
    count = min(sample, len(rows))
    originals = [rows[place * (len(rows) - 1) // max(count - 1, 1)] for place in range(count)]
    picked = [renamed(row, columns) for row in originals]
    seen: dict[tuple[str, ...], Fit] = {}
    first: tuple[SourceRow, Fit] | None = None
    blank: SourceRow | None = None
    for row in picked:
        shape = _shape(row, format, columns, picked)
        if shape is None:
            blank = blank or row
            continue
        first = first or (row, shape)
        if shape.format != first[1].format:
            start, found = first
            raise row.error(
                f"is {shape.format} ({shape.reason}), but {start.unit} {start.number} is "
                f"{found.format} ({found.reason}); a file holds rows of one format: split it, or set "
                "data.format= if both fit one"
            )
        seen.setdefault((shape.reason, *shape.required.values()), shape)
        others = [one for one in seen.values() if one.loose and one.required != shape.required]
        if others:
            raise _undecided(row, "rows differ in which column fits", [*others, shape], columns)
    given = f"data.format={format}" if format != "auto" else ""
    if first is None and not given and blank is not None and _has_null(blank):
        raise _unknown(blank, columns, picked)
    if first is None:
        return Detection(
            format=format if given else "messages",
            reason=given or f"{_among(count, len(rows))} a conversation, empty",
        )
    shapes = tuple(seen.values())
    observed = f"{_among(count, len(rows))} {' or '.join(dict.fromkeys(s.reason for s in shapes))}"
    every = {key: column for shape in reversed(shapes) for key, column in shape.columns.items()}
    same = all(shape.required == shapes[0].required for shape in shapes)
    return Detection(
        format=shapes[0].format,
        reason=given or observed,
        confidence="likely" if not given and any(shape.likely for shape in shapes) else "certain",
        columns=_in_file(every, columns),
        settled=_settled(shapes[0], columns, bool(given)) if same else {},
        shapes=shapes,
    )


def _settled(shape: Fit, columns: Mapping[str, str], given: bool) -> dict[str, str]:
    """The columns that names do not tell; and those that have the names of a given format."""
    return {
        key: column
        for key, column in shape.required.items()
        if column not in columns and (shape.loose or (given and key == column))
    }


def _among(count: int, rows: int) -> str:
    if count == 1:
        return "the row has"
    return f"all {count} rows have" if count == rows else f"{count} rows looked at all have"


def _in_file(keys: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    return {key: columns.get(column, column) for key, column in keys.items()}


def _shape(row: SourceRow, format: DataFormat, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> Fit | None:
    """The one shape of a row; None for what says nothing (an empty conversation, an object without anything, null
    where the text would be), and for what does not fit a given format, since reading it will say so better."""
    if isinstance(row.value, str):
        return Fit(format="text", columns={}, reason="running text") if format in ("auto", "text") else None
    shapes = fits_of(row.value, format, row_keys(columns))
    if shapes is None or (not shapes and format != "auto") or not row.value:
        return None
    if not shapes and _has_null(row):
        filled = fits_of(without_nulls(row.value), format, row_keys(columns))
        if filled is None or filled:
            return None
    if format != "auto" and len(shapes) > 1:  # its own names are what it was given for
        own = [shape for shape in shapes if all(k == c for k, c in shape.required.items())]
        shapes = own or shapes
    if len(shapes) == 1:
        return shapes[0]
    if shapes:
        ways = "; or ".join(f"{shape.format}: {shape.reason}" for shape in shapes)
        raise _undecided(row, f"fits more than one format ({ways})", shapes, columns)
    raise _unknown(row, columns, picked)


def _has_null(row: SourceRow) -> bool:
    return isinstance(row.value, dict) and None in row.value.values()


def _undecided(row: SourceRow, message: str, shapes: Iterable[Fit], columns: Mapping[str, str]) -> UndecidedFormat:
    return UndecidedFormat(message, [_candidate(shape, columns) for shape in shapes], _columns_of(row, columns), row)


def _candidate(shape: Fit, columns: Mapping[str, str]) -> Candidate:
    """A shape as settings: its required columns, and others where they have names of their own."""
    own = {k: c for k, c in shape.columns.items() if k in shape.required or k != c}
    turns = {key: name for key, name in columns.items() if key in TURN_KEYS}
    return Candidate(shape.format, _in_file(own, columns) | turns, shape.reason)


def _columns_of(row: SourceRow, columns: Mapping[str, str]) -> list[str]:
    """The columns as the file names them."""
    assert isinstance(row.value, dict)
    return [columns.get(column, column) for column in row.value]


def ways_to_read(row: SourceRow) -> UndecidedFormat | None:
    """The ways in which a row may be read, though it was told how it is; None for running text."""
    if not isinstance(row.value, dict):
        return None
    fit = [_candidate(shape, {}) for shape in fits_of(row.value) or []]
    known = [(one.format, one.columns) for one in fit]
    other = [one for one in _by_columns_of_text(row, {}, [row]) if (one.format, one.columns) not in known]
    return UndecidedFormat("can be read otherwise", [*fit, *other], list(row.value), row)


# Rows of no known shape


def _unknown(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> UndecidedFormat:
    assert isinstance(row.value, dict)
    message = f"no known format: it has {listed(_columns_of(row, columns))}"
    if columns:
        message += f", of which data.columns names {listed(row_keys(columns).values())}"
    for column in CHAT_COLUMNS[:3]:
        turns = row.value.get(column)
        if isinstance(turns, list) and style_of(turns) is None:
            message += (
                f"; `{columns.get(column, column)}`: turns need role and content, or from and value; got {shown(turns)}"
            )
        elif isinstance(turns, str) and turns.startswith("["):
            message += (
                f"; `{columns.get(column, column)}` is text ({shown(turns)}) that spells no turns: it takes "
                "JSON (json.dumps(), not str()) of known roles"
            )
    found = [
        *_in_other_case(row, columns),
        *_turns_of_two_keys(row, columns, picked),
        *_by_columns_of_text(row, columns, picked),
    ]
    return UndecidedFormat(message, found, _columns_of(row, columns), row)


def _in_other_case(row: SourceRow, columns: Mapping[str, str]) -> list[Candidate]:
    """What the row would be if its columns were written in small letters: `Instruction`, `Output`."""
    assert isinstance(row.value, dict)
    small = {column.strip().lower(): column for column in row.value}
    if len(small) < len(row.value):
        return []
    value = {name: row.value[column] for name, column in small.items()}
    return [
        Candidate(
            shape.format,
            _in_file({key: small[name] for key, name in shape.columns.items()}, columns),
            f"{shape.reason}, but for capital letters",
        )
        for shape in fits_of(value) or []
    ]


def _turns_of_two_keys(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Columns whose turns have two keys each, of which one takes few values: that may be the role."""
    assert isinstance(row.value, dict)
    found = []
    for column in row.value:
        lists = [one.value.get(column) for one in picked if isinstance(one.value, dict)]
        turns = [turn for one in lists if isinstance(one, list) for turn in one]
        keys = list(turns[0]) if turns and isinstance(turns[0], dict) else []
        if len(keys) != 2 or not all(isinstance(t, dict) and set(t) == set(keys) for t in turns):
            continue
        values = {key: {turn[key] for turn in turns if isinstance(turn[key], str)} for key in keys}
        role, content = sorted(keys, key=lambda key: len(values[key]))
        few = 1 < len(values[role]) <= min(_FEW_VALUES, len(values[content]))
        if few and all(name.strip().lower() in ROLES for name in values[role]):
            found.append(
                Candidate(
                    "messages",
                    {"messages": columns.get(column, column), "role": role, "content": content},
                    f"turns of `{role}` ({', '.join(sorted(values[role]))}) and `{content}`",
                )
            )
    return found


def _by_columns_of_text(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Two columns of text may be a prompt and, the longer one, its answer; each may be a document."""
    assert isinstance(row.value, dict)
    texts = text_columns(row.value)
    if not 1 <= len(texts) <= 3:
        return []

    def length(column: str) -> int:
        values = [one.value.get(column) for one in picked if isinstance(one.value, dict)]
        return sum(len(value) for value in values if isinstance(value, str))

    # Rows are written in the order in which they are read, and a longer text is no proof of an answer.
    known = [one for one in texts if one.lower() in ANSWERS]
    answer = max(known, key=length) if known else texts[-1]
    others = [one for one in texts if one != answer]
    pairs: list[dict[str, str]] = [{"prompt": one, "completion": answer} for one in others]
    if len(texts) == 2 and not known:
        pairs.append({"prompt": answer, "completion": others[0]})
    return [
        *(
            Candidate(
                "prompt_completion", _in_file(pair, columns),
                f"`{columns.get(pair['completion'], pair['completion'])}` is learnt as the answer to "
                f"`{columns.get(pair['prompt'], pair['prompt'])}`",
            )
            for pair in pairs
        ),
        Candidate(
            "text", _in_file({"text": answer}, columns),
            f"each `{columns.get(answer, answer)}` a document, learnt whole",
        ),
    ]  # fmt: skip


# Data of which a part can be learnt


def ask_what_to_learn(found: Detection, row: SourceRow, columns: Mapping[str, str]) -> None:
    """Refuse to learn the good answers of preference or labelled data unless that was asked for.

    Raises:
        UndecidedFormat: the format is one of these two.
    """
    if found.format not in ("preference", "kto"):
        return
    shape = found.shapes[0]
    if found.format == "kto":
        what = f"answers labelled good or bad, KTO data ({shape.reason})"
        why = "supervised fine-tuning would learn the bad ones too"
        ways = [Candidate("kto", _settings(shape, columns), "learns the answers labelled true; the "
                          "others are dropped and counted")]  # fmt: skip
    else:
        what = f"preference data ({' or '.join(dict.fromkeys(s.reason for s in found.shapes))})"
        why = "supervised fine-tuning learns one answer, not which of two is better"
        ways = [
            Candidate("preference", _settings(shape, columns), "learns the chosen answers"),
            *_chosen_answers(shape, columns),
        ]
    raise UndecidedFormat(f"is {what}; {why}", ways, _columns_of(row, columns), row)


def _settings(shape: Fit, columns: Mapping[str, str]) -> dict[str, str]:
    own = {key: column for key, column in shape.columns.items() if key != column}
    turns = {key: name for key, name in columns.items() if key in TURN_KEYS}
    return _in_file(own, columns) | row_keys(columns) | turns


def _chosen_answers(shape: Fit, columns: Mapping[str, str]) -> list[Candidate]:
    """The chosen answers as data of another format."""
    keys = shape.columns
    if "prompt" not in keys:
        if "texts" in shape.reason:
            reason = "learns the chosen texts whole"
            return [Candidate("text", _in_file({"text": keys["chosen"]}, columns), reason)]
        turns = _in_file({"messages": keys["chosen"]}, columns)
        return [Candidate("messages", turns, "learns every answer of the chosen conversations")]
    alpaca = "input" in keys
    prompt, answer = ("instruction", "output") if alpaca else ("prompt", "completion")
    pair = {prompt: keys["prompt"], answer: keys["chosen"]}
    own = {key: column for key, column in _in_file(pair, columns).items() if key != column}
    turns = {key: name for key, name in columns.items() if key in TURN_KEYS}
    return [Candidate("alpaca" if alpaca else "prompt_completion", own | turns, "the same")]
