"""Which format the rows have.

Detect, never guess: rows spread over the whole file are looked at, all must have the same shape
(`fits.py` says which there are), and what is told is shown with the columns that are read. What
is told from a name that says little counts as likely, and is shown as such. Where two shapes fit
or none does, `UndecidedFormat` asks: it holds what there is to choose from, for a form on screen,
and its message the keys to set, for the command line. What has to be asked though the format is certain
stands in `ask.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ...config.run_config import DataFormat
from ..errors import listed, shown
from ..row import SourceRow
from .answers import by_chat_and_answer, by_columns_of_text
from .columns import CHAT_COLUMNS, renamed, row_keys
from .fits import Fit, fits_of, without_nulls
from .leftover import parts_of_the_row, unread_columns
from .turns import style_of
from .ways import UndecidedFormat, candidate_of, columns_of, in_file, turns_of_other_keys, with_the_rest

Confidence = Literal["certain", "likely"]

LOOKED_AT = 200
"""Rows of which a format is told."""


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
    unread: tuple[str, ...] = ()
    """Columns of the rows looked at that nothing is read from, as the file names them."""
    parts: tuple[str, ...] = ()
    """Those of them that are likely part of the row."""


def detect(
    rows: Sequence[SourceRow],
    columns: Mapping[str, str] | None = None,
    sample: int = LOOKED_AT,
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
    originals = spread(rows, sample)
    count = len(originals)
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
        key = (shape.reason, *shape.required.values())
        # A column that rows may lack may be in a later one: a history, tools.
        seen[key] = replace(shape, columns={**shape.columns, **seen[key].columns}) if key in seen else shape
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
    unread = unread_columns(originals, shapes, columns)
    # Whoever names columns has said which.
    parts = () if row_keys(columns) else tuple(parts_of_the_row(originals, shapes[0], unread))
    likely = not given and (any(shape.likely for shape in shapes) or bool(parts))
    return Detection(
        format=shapes[0].format,
        reason=given or observed,
        confidence="likely" if likely else "certain",
        columns=in_file(every, columns),
        settled=_settled(shapes[0], columns, bool(given)) if same else {},
        shapes=shapes,
        unread=unread,
        parts=parts,
    )


def spread(rows: Sequence[SourceRow], sample: int) -> list[SourceRow]:
    """Up to `sample` rows, spread evenly over all."""
    count = min(sample, len(rows))
    return [rows[place * (len(rows) - 1) // max(count - 1, 1)] for place in range(count)]


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
        found = [*by_chat_and_answer(row, columns, picked), *(candidate_of(shape, columns) for shape in shapes)]
        if not row_keys(columns):
            found = [more for one in found for more in with_the_rest(one, picked)]
        raise UndecidedFormat(f"fits more than one format ({ways})", found, columns_of(row, columns), row)
    raise _unknown(row, columns, picked)


def _has_null(row: SourceRow) -> bool:
    return isinstance(row.value, dict) and None in row.value.values()


def _undecided(row: SourceRow, message: str, shapes: Iterable[Fit], columns: Mapping[str, str]) -> UndecidedFormat:
    return UndecidedFormat(message, [candidate_of(shape, columns) for shape in shapes], columns_of(row, columns), row)


def _unknown(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> UndecidedFormat:
    assert isinstance(row.value, dict)
    message = f"no known format: it has {listed(columns_of(row, columns))}"
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
        *turns_of_other_keys(row, columns, picked),
        *by_chat_and_answer(row, columns, picked),
        *by_columns_of_text(row, columns, picked),
    ]
    if not row_keys(columns):
        found = [more for one in found for more in with_the_rest(one, picked)]
    return UndecidedFormat(message, found, columns_of(row, columns), row)


def ways_to_read(row: SourceRow) -> UndecidedFormat | None:
    """The ways in which a row may be read, though it was told how it is; None for running text."""
    if not isinstance(row.value, dict):
        return None
    fit = [candidate_of(shape, {}) for shape in fits_of(row.value) or []]
    known = [(one.format, one.columns) for one in fit]
    other = [one for one in by_columns_of_text(row, {}, [row]) if (one.format, one.columns) not in known]
    return UndecidedFormat("can be read otherwise", [*fit, *other], list(row.value), row)
