"""From a configuration to windows of packed bins, with the account of every row.

Rows are read in slices, brought into one form, rendered and encoded (`block.py`, on other cores), held out,
weighted, packed. What the loop trains on and what the Data screen shows are the same `Example`s, made here and
nowhere else.

Data sets that together are larger than `STREAM_ABOVE` are not held: they become a stream, and what is told of
them is what its first window shows. The others are held whole and packed as one.

Rows are held out before a data set is weighted, so a row that is taken twice is never in both parts.
"""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..config import DataConfig, DatasetConfig, RunConfig
from .ahead import Ahead
from .block import CUT_AWAY, TOO_LONG, Account, Block, Recipe
from .errors import DataError
from .examples import Examples
from .formats import Detection, detect
from .problems import CUT
from .read import size_of
from .report import DataReport, SourceReport
from .row import SourceRow
from .slices import SLICE_BYTES, Slice, slices_of
from .stream import Stream
from .windows import Bins, OneWindow, Windows, random_keys

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Report = Callable[[str, float | None], None]

STREAM_ABOVE = 128_000_000
"""Bytes of rows that are read whole: some 30 million tokens, made in half a minute on a few cores."""
_SMALLEST_SLICE = 65_536


@dataclass(frozen=True)
class PreparedData:
    train: Windows
    evaluation: Bins | None
    account: Callable[[], DataReport]
    """What has become of the rows that were read so far: of a stream more as training goes on."""
    shown: tuple[SourceRow, ...]
    """The first rows that are trained on, as they stand in the file."""

    @property
    def report(self) -> DataReport:
        return self.account()


@dataclass(frozen=True)
class _Source:
    """A data set that is about to be read."""

    config: DatasetConfig
    detection: Detection
    recipe: Recipe
    size: int
    """Bytes of content, about."""
    slice_bytes: int
    first: Slice

    def slices(self) -> Iterator[Slice]:
        return slices_of(self.config, self.slice_bytes)


def prepare(
    config: RunConfig, tokenizer: "PreTrainedTokenizerBase", report: Report, shown: int = 50
) -> PreparedData:
    """Read, render and pack what `config.data` names.

    Args:
        report: is told the stage and how far it is; what it raises ends the work.
        shown: source rows to keep for a preview.

    Raises:
        DataError: something cannot be read or rendered, or there is nothing left to learn.
    """
    data = config.data
    sizes = [size_of(source) for source in data.sources]
    total = sum(sizes)
    streamed = total > STREAM_ABOVE and all(source.max_rows is None for source in data.sources)
    sources = []
    for source, size in zip(data.sources, sizes, strict=True):
        report(f"reading {source.path}", None)
        part = max(_SMALLEST_SLICE, SLICE_BYTES * size // total) if streamed else SLICE_BYTES
        sources.append(_begun(data, source, size, part))
    evaluation, eval_rows = None, 0
    if data.eval_path is not None:
        evaluation, eval_rows = _evaluation_file(config, tokenizer, report)
    if not streamed:
        return _held_whole(config, tokenizer, sources, evaluation, eval_rows, report, shown)
    return _streamed(config, tokenizer, sources, evaluation, eval_rows, report, shown)


def _begun(data: DataConfig, source: DatasetConfig, size: int, slice_bytes: int) -> _Source:
    """Read the first slice of a data set, and tell its format."""
    first = next(slices_of(source, slice_bytes), None)
    if first is None:
        raise DataError(f"{source.path}: holds no rows")
    detection = (
        detect(first.rows, source.columns)
        if source.format == "auto"
        else Detection(source.format, f"data.format={source.format}")
    )
    recipe = Recipe.of(data, source, detection.format)
    return _Source(source, detection, recipe, size, slice_bytes, first)


# Held whole


def _held_whole(
    config: RunConfig,
    tokenizer: "PreTrainedTokenizerBase",
    sources: list[_Source],
    evaluation: Bins | None,
    eval_rows: int,
    report: Report,
    shown: int,
) -> PreparedData:
    data, seed = config.data, config.train.seed
    accounts, parts = [], []
    with Ahead(tokenizer, sum(source.size for source in sources), report) as ahead:
        for source in sources:
            whole = _whole(source, ahead, data)
            accounts.append(whole.account)
            parts.append(whole.examples)
    kept = [np.arange(part.row_count) for part in parts]
    held = [np.arange(0)] * len(parts)
    if data.eval_fraction and evaluation is None:
        names = ", ".join(source.config.path for source in sources)
        kept, held = hold_out([len(rows) for rows in kept], data.eval_fraction, seed, names)
        held_out = [part.of_these_rows(rows) for part, rows in zip(parts, held, strict=True)]
        evaluation = Bins.packed(Examples.joined(held_out), data.max_length)
        eval_rows = sum(map(len, held))
    report("packing", None)
    train = []
    for place, (source, part, rows) in enumerate(zip(sources, parts, kept, strict=True)):
        weighted = weighted_rows(rows, source.config.weight, seed, place)
        everything = len(weighted) == part.row_count and source.config.weight == 1
        train.append(part if everything else part.of_these_rows(weighted))
    bins = Bins.packed(Examples.joined(train), data.max_length)
    account = _report_of(
        config, sources, accounts, [len(rows) for rows in held], eval_rows, bins, 1.0
    )
    first = _shown(sources[0], bins.examples, shown)
    return PreparedData(OneWindow(bins), evaluation, lambda: account, first)


def _whole(source: _Source, ahead: Ahead, data: DataConfig) -> Block:
    """All of a data set as one block."""
    account, parts = Account(), []
    rows = source.config.max_rows or 0
    per_row = sum(len(row.content) for row in source.first.rows) / len(source.first.rows)

    def at(done: int) -> float | None:
        guess = rows or source.size / per_row
        return min(1.0, done / guess) if guess else None

    for block in ahead.blocks(source.slices(), source.recipe, source.config.path, at):
        account.add(block.account)
        parts.append(block.examples)
    whole = Examples.joined(parts)
    if not len(whole):
        raise DataError(_nothing_left(source.config.path, account, data))
    return Block(whole, account)


def _evaluation_file(
    config: RunConfig, tokenizer: "PreTrainedTokenizerBase", report: Report
) -> tuple[Bins, int]:
    data = config.data
    assert data.eval_path is not None
    own = DatasetConfig(path=data.eval_path, format=data.format, columns=data.columns)
    report(f"reading {own.path}", None)
    source = _begun(data, own, size_of(own), SLICE_BYTES)
    with Ahead(tokenizer, source.size, report) as ahead:
        examples = _whole(source, ahead, data).examples
    return Bins.packed(examples, data.max_length), examples.row_count


def hold_out(
    counts: Sequence[int], fraction: float, seed: int, path: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Choose a random share of the rows (at least one) for evaluation.

    Args:
        counts: rows of each data set.

    Returns:
        The rows of each data set that are trained on, and those that are held out; in order.

    Raises:
        DataError: fewer than two rows.
    """
    total = sum(counts)
    if total < 2:
        raise DataError(
            f"{path}: data.eval_fraction={fraction} holds rows out, but there is {total} row "
            "to learn from; set data.eval_path to a file of its own, or data.eval_fraction=0"
        )
    count = min(max(1, round(fraction * total)), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.argsort(random_keys(total, seed, _EVALUATION_STREAM), kind="stable")[:count]] = True
    each = np.split(chosen, np.cumsum(counts)[:-1])
    return [np.flatnonzero(~one) for one in each], [np.flatnonzero(one) for one in each]


def weighted_rows(rows: np.ndarray, weight: float, seed: int, *stream: int) -> np.ndarray:
    """The rows of an epoch: each `weight` times, a random part of them for the fraction that is
    left, at least one row."""
    if weight == 1:
        return rows
    whole = int(weight)
    count = max(round((weight - whole) * len(rows)), 0 if whole else 1)
    first, *more = stream
    keys = random_keys(len(rows), seed, _WEIGHT_STREAM - first, *more)
    part = np.sort(np.argsort(keys, kind="stable")[:count])
    return np.concatenate([*[rows] * whole, rows[part]])


_EVALUATION_STREAM = 2**32 - 1  # no epoch has these numbers
_WEIGHT_STREAM = 2**32 - 2


# Streamed


@dataclass
class _SoFar:
    """What was read of a stream, by any pass over it."""

    accounts: list[Account]
    """Of each data set."""
    rounds: set[int] = field(default_factory=set)
    """Those that are in the accounts."""
    whole: bool = False


def _streamed(
    config: RunConfig,
    tokenizer: "PreTrainedTokenizerBase",
    sources: list[_Source],
    evaluation: Bins | None,
    eval_rows: int,
    report: Report,
    shown: int,
) -> PreparedData:
    """Windows that are made while training runs; the account is that of the first."""
    data, seed = config.data, config.train.seed
    ahead = Ahead(tokenizer, sum(source.size for source in sources), _silent)

    def blocks(source: _Source, slices: Iterator[Slice]) -> Generator[Block]:
        return ahead.blocks(slices, source.recipe, source.config.path, lambda rows: None)

    report("rendering the first rows", None)
    begin = [ahead.block(source.first, source.recipe) for source in sources]
    for source, block in zip(sources, begin, strict=True):
        if not len(block.examples):
            raise DataError(_nothing_left(source.config.path, block.account, data))
    held = [np.arange(0)] * len(sources)
    if data.eval_fraction and evaluation is None:
        evaluation, held = _held_out_of_first(config, sources, begin)
        eval_rows = sum(map(len, held))

    def rows_of(round_: int, place: int, part: Examples) -> Examples:
        rows = np.arange(part.row_count)
        if round_ == 0:
            rows = np.setdiff1d(rows, held[place])
        weight = sources[place].config.weight
        chosen = weighted_rows(rows, weight, seed, place, round_)
        return part if weight == 1 and len(rows) == part.row_count else part.of_these_rows(chosen)

    so_far = _SoFar([Account() for _ in sources])

    def rounds(skip: int) -> Generator[Examples]:
        each = [blocks(source, itertools.islice(source.slices(), skip, None)) for source in sources]
        for round_ in itertools.count(skip):
            parts = []
            for place, made in enumerate(each):
                block = next(made, None)
                if block is not None:
                    parts.append(rows_of(round_, place, block.examples))
                    if round_ not in so_far.rounds:
                        so_far.accounts[place].add(block.account)
            if not parts:
                so_far.whole = len(so_far.rounds) == round_
                return
            so_far.rounds.add(round_)
            yield Examples.joined(parts)

    size = sum(source.size for source in sources)
    share = min(1.0, sum(source.first.size for source in sources) / size)
    stream = Stream(rounds, data.max_length, share, ahead.close)
    while not stream.ready(0, 0):
        report("packing the first rows", None)
        time.sleep(0.02)
    first = stream.window(0, 0)
    assert first is not None
    held_counts = [len(rows) for rows in held]
    per_row = sum(source.first.size for source in sources) / sum(
        len(source.first.rows) for source in sources
    )

    def account() -> DataReport:
        rows = sum(one.rows for one in so_far.accounts)
        part = 1.0 if so_far.whole else min(0.99, per_row * rows / size)
        return _report_of(config, sources, so_far.accounts, held_counts, eval_rows, first, part)

    return PreparedData(stream, evaluation, account, _shown(sources[0], first.examples, shown))


def _held_out_of_first(
    config: RunConfig, sources: list[_Source], begin: list[Block]
) -> tuple[Bins, list[np.ndarray]]:
    """Hold out of the first slices as many rows as the fraction means of all, at most half of them."""
    fraction, seed = config.data.eval_fraction, config.train.seed
    counts = [block.examples.row_count for block in begin]
    share = sum(source.first.size for source in sources) / sum(source.size for source in sources)
    names = ", ".join(source.config.path for source in sources)
    _, held = hold_out(counts, min(0.5, fraction / share), seed, names)
    parts = [block.examples.of_these_rows(rows) for block, rows in zip(begin, held, strict=True)]
    return Bins.packed(Examples.joined(parts), config.data.max_length), held


def _silent(stage: str, fraction: float | None) -> None:
    """Nobody waits for what is made ahead."""


# The account


def _report_of(
    config: RunConfig,
    sources: list[_Source],
    accounts: list[Account],
    held: list[int],
    eval_rows: int,
    bins: Bins,
    share: float,
) -> DataReport:
    lengths = np.sort(bins.examples.lengths).tolist()
    notes = sum((account.notes for account in accounts), Counter())
    return DataReport(
        sources=[
            SourceReport(
                path=source.config.path,
                format=source.detection.format,
                reason=source.detection.reason,
                rows=account.rows,
                kept=account.rows - account.dropped.total - held[place],
                held_out=held[place],
                dropped=dict(account.dropped.ranked()),
                cut=account.found.counts[CUT],
                weight=source.config.weight,
            )
            for place, (source, account) in enumerate(zip(sources, accounts, strict=True))
        ],
        eval_rows=eval_rows,
        tokens=bins.examples.tokens,
        trained_tokens=bins.examples.trained_tokens,
        bins=len(bins),
        max_length=config.data.max_length,
        lengths=_evenly(lengths, 2000),
        notes=dict(notes),
        share=share,
    )


def _shown(source: _Source, examples: Examples, count: int) -> tuple[SourceRow, ...]:
    """The rows of a data set's beginning that the first examples are of."""
    wanted = {(one.file, one.number) for one in examples[:count]}
    return tuple(row for row in source.first.rows if (row.file, row.number) in wanted)


def _evenly(values: list[int], most: int) -> list[int]:
    if len(values) <= most:
        return values
    return [values[place * (len(values) - 1) // (most - 1)] for place in range(most)]


def _nothing_left(path: str, account: Account, data: DataConfig) -> str:
    reasons = ", ".join(f"{rows} x {reason}" for reason, rows in account.dropped.ranked().items())
    text = f"{path}: nothing is left to learn of {account.rows} rows: {reasons}"
    if account.dropped.counts.keys() & {CUT_AWAY, TOO_LONG}:
        text += f"; raise data.max_length (now {data.max_length})"
    return text
