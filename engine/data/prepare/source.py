"""A data set that is about to be read: its format told from its first rows, its blocks one after the other."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config.run_config import DataConfig, DatasetConfig
from ..errors import DataError
from ..formats.ask import ask_about_the_rest, ask_what_to_learn
from ..formats.detect import LOOKED_AT, Detection, detect, spread
from ..formats.fits import NAMES
from ..formats.ways import Candidate, UndecidedFormat
from ..pack.examples import Examples
from ..problems.codes import BAD, in_words
from ..read.slices import Slice, slices_of
from ..read.sniff import sniff
from .ahead import Ahead
from .block import CUT_AWAY, TOO_LONG, Account, Block, BlockSettings
from .dropping import LEAVE_OUT, Dropping

_LOOKED_AT_LATER = 20
"""Rows of each slice but the first."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set that is about to be read."""

    config: DatasetConfig
    detection: Detection
    settings: BlockSettings
    size: int
    """Bytes of content, about."""
    slice_bytes: int
    first: Slice

    def slices(self) -> Iterator[Slice]:
        """All of it.

        Raises:
            DataError: as `read_rows`; or later rows are of another format than the first, which it was told from.
        """
        for place, part in enumerate(slices_of(self.config, self.slice_bytes)):
            if place and self.config.format == "auto":
                self._require_same_format(part)
            yield part

    def _require_same_format(self, part: Slice) -> None:
        rows = [row for row in part.rows if not row.broken]
        if not rows:
            return
        try:
            found = detect(rows, dict(self.settings.columns), sample=_LOOKED_AT_LATER)
        except UndecidedFormat:
            return  # one that is of no format is for its reader to tell, with its place
        if found.shapes and found.format != self.settings.format:
            raise rows[0].error(
                f"from about here on rows are {found.format} ({found.reason}), but the first ones are "
                f"{self.settings.format} ({self.detection.reason}); a file holds rows of one format: split it, "
                "or set data.format= if both fit one"
            )


def begin(data: DataConfig, source: DatasetConfig, size: int, slice_bytes: int, *, ask: bool = True) -> Source:
    """Read the first slice of a data set, and tell its format.

    Args:
        ask: refuse to leave out what is likely part of the row.

    Raises:
        DataError: it holds no rows, none that can be read, or (but for `data.drop=[bad]`) one that
            cannot; or its format cannot be told.
    """
    first = next(slices_of(source, slice_bytes), None)
    if first is None:
        raise DataError(f"{source.path}: holds no rows")
    good = [row for row in first.rows if not row.broken]
    if not good or (len(good) < len(first.rows) and BAD not in data.drop):
        broken = next(row.broken for row in first.rows if row.broken)
        raise DataError(f"{broken}; {LEAVE_OUT}" if good else broken)
    try:
        detection = detect(good, source.columns, format=source.format)
    except UndecidedFormat as question:
        raise _or_no_header(question, source) from question
    if source.format == "auto":
        ask_what_to_learn(detection, good[0], source.columns)
        if ask:
            ask_about_the_rest(detection, spread(good, LOOKED_AT), source.columns)
    settled = source.model_copy(update={"columns": {**detection.settled, **source.columns}})
    settings = BlockSettings.of(data, settled, detection.format)
    return Source(
        config=source,
        detection=detection,
        settings=settings,
        size=size,
        slice_bytes=slice_bytes,
        first=first,
    )


def _or_no_header(question: UndecidedFormat, source: DatasetConfig) -> UndecidedFormat:
    """A question about columns of which none has a name that is known, or that only a column has: they may be a row."""
    file = Path(source.path).expanduser()
    if source.header is not None or any(name.strip().lower() in NAMES or "_" in name for name in question.columns):
        return question
    if not question.columns or not file.is_file() or sniff(file, source.path) != "table":
        return question
    way = Candidate(
        format="auto",
        columns={},
        reason="the first line is a row: the columns are column_1, column_2, ...",
        settings=("data.header=false",),
    )
    return question.or_else(way)


def whole_block(source: Source, ahead: Ahead, data: DataConfig, dropping: Dropping) -> Block:
    """All of a data set as one block."""
    account, parts, problems = Account(), [], []
    for block in all_blocks(source, ahead):
        block = dropping.of(block)
        account.add(block.account)
        parts.append(block.examples)
        problems.append(block.problems)
    whole = Examples.joined(parts)
    if not len(whole):
        raise DataError(nothing_left(source.config.path, account, data))
    return Block(whole, account, np.concatenate(problems))


def all_blocks(source: Source, ahead: Ahead) -> Generator[Block]:
    """The blocks of a data set; `ahead` is told how far they are."""
    rows = source.config.max_rows or 0
    per_row = sum(len(row.content) for row in source.first.rows) / len(source.first.rows)

    def at(done: int) -> float | None:
        guess = rows or source.size / per_row
        return min(1.0, done / guess) if guess else None

    yield from ahead.blocks(source.slices(), source.settings, source.config.path, at)


def nothing_left(path: str, account: Account, data: DataConfig) -> str:
    reasons = ", ".join(f"{rows} x {reason}" for reason, rows in account.dropped.ranked().items())
    text = f"{path}: nothing is left to learn of {account.rows} rows: {reasons}"
    if account.errors:
        file, error = account.errors[0]
        text += f"; the first that is {in_words(BAD)}: {file}{error}"
    if account.dropped.counts.keys() & {CUT_AWAY, TOO_LONG}:
        text += f"; raise data.max_length (now {data.max_length})"
    return text
