"""From a configuration to windows of packed bins, with the account of every row.

Rows are read in slices, brought into one form, rendered and encoded (`block.py`, on other cores), held out,
weighted, packed. What the loop trains on and what the Data screen shows are the same `Example`s, made here and
nowhere else.

Data sets that together are larger than `STREAM_ABOVE` are not held: they become a stream, and what is told of
them is what its first window shows. The others are held whole and packed as one.

Rows are held out before a data set is weighted, so a row that is taken twice is never in both parts.
"""

import datetime
import hashlib
import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ...config.run_config import DataConfig, DatasetConfig, RunConfig
from ...machine.jobs import TellStage
from ..errors import DataError
from ..pack.examples import Examples
from ..pack.stream import Stream
from ..pack.windows import Bins, OneWindow, Windows, random_keys
from ..problems.codes import CUT, DUPLICATE, LEAK, NEAR_DUPLICATE, NEAR_LEAK, in_words
from ..problems.duplicates import Seen
from ..problems.near_duplicates import near_copies
from ..read.read import size_of
from ..read.slices import SLICE_BYTES
from ..render.chat_template import writes_the_date
from ..report.report import DataReport, SourceReport
from .ahead import Ahead
from .block import Account, Block, note_rows
from .dropping import NEAR, Dropping, without_near_duplicates
from .held_out import Tested, evaluation_file, held_out, hold_out, leaks_of
from .source import Source, begin, nothing_left, whole_block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STREAM_ABOVE = 128_000_000
"""Bytes of rows that are read whole: some 30 million tokens, made in half a minute on a few cores."""
_SMALLEST_SLICE = 65_536


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    train: Windows
    tested: Tested | None
    """What is evaluated on."""
    account: Callable[[], DataReport]
    """What has become of the rows that were read so far: of a stream more as training goes on."""
    sources: tuple[Source, ...]
    """The data sets, as they were begun."""
    accounts: Sequence[Account]
    """Of each data set, its rows before any are held out: of a stream it grows as `account` does."""

    @property
    def evaluation(self) -> Bins | None:
        return self.tested and self.tested.bins

    @property
    def report(self) -> DataReport:
        return self.account()

    def fingerprint(self) -> str:
        """The same for the same rows, tokens and masks in the same order; of a stream, for the same first rows of data
        sets of the same size."""
        digest = hashlib.blake2b(digest_size=16)
        if isinstance(self.train, OneWindow):
            examples = self.train.bins.examples
            for column in (examples.ids, examples.trained, examples.lengths):
                digest.update(column.tobytes())
        else:
            for source in self.sources:
                digest.update(source.first.digest + f"{source.size}\0".encode())
        return digest.hexdigest()


def prepare(
    config: RunConfig,
    tokenizer: "PreTrainedTokenizerBase",
    report: TellStage,
    *,
    begun: bool = False,
    first_begun: Callable[[Source], None] = lambda source: None,
) -> PreparedData:
    """Read, render and pack what `config.data` names.

    Args:
        report: is told the stage and how far it is; what it raises ends the work.
        begun: the run has learnt from these data before: whether a column is part of the row is not asked any more.
        first_begun: is told the first data set, its format known and its first slice read, before the rest is.

    Raises:
        DataError: something cannot be read or rendered, or there is nothing left to learn.
    """
    config = with_date(config, tokenizer)
    data = config.data
    _require_different(data.sources)
    sizes = [size_of(source) for source in data.sources]
    total = sum(sizes)
    streamed = is_streamed(data, total)
    sources = []
    for source, size in zip(data.sources, sizes, strict=True):
        report(f"reading {source.path}", None)
        part = max(_SMALLEST_SLICE, SLICE_BYTES * size // total) if streamed else SLICE_BYTES
        sources.append(begin(data, source, size, part, ask=not begun))
        if len(sources) == 1:
            first_begun(sources[0])
    tested = evaluation_file(config, tokenizer, report) if data.eval_path is not None else None
    if not streamed:
        return _held_whole(config, tokenizer, sources, tested, report)
    return _streamed(config, tokenizer, sources, tested, report)


def with_date(config: RunConfig, tokenizer: "PreTrainedTokenizerBase") -> RunConfig:
    """The configuration with the day that its chat template writes, where it writes one: else the same rows would
    have other tokens tomorrow."""
    if config.data.date is not None or not writes_the_date(tokenizer):
        return config
    data = config.data.model_copy(update={"date": datetime.date.today()})
    return config.model_copy(update={"data": data})


def _require_different(sources: Sequence[DatasetConfig]) -> None:
    """A file that is named twice would be learnt twice, and no check could tell its rows from duplicates."""
    known: dict[tuple[object, ...], int] = {}
    for place, one in enumerate(sources):
        path = os.path.realpath(one.path) if os.path.exists(one.path) else one.path
        key = (path, one.name, one.split, one.format, tuple(sorted(one.columns.items())))
        first = known.setdefault(key, place)
        if first != place:
            raise DataError(
                f"data.datasets[{place}]: {one.path} is data.datasets[{first}] once more; to learn it twice "
                "an epoch, set weight: 2 there"
            )


def is_streamed(data: DataConfig, size: int) -> bool:
    """Whether data sets of so many bytes together are read while training runs."""
    return size > STREAM_ABOVE and all(source.max_rows is None for source in data.sources)


# Held whole


def _held_whole(
    config: RunConfig,
    tokenizer: "PreTrainedTokenizerBase",
    sources: list[Source],
    tested: Tested | None,
    report: TellStage,
) -> PreparedData:
    data, seed = config.data, config.train.seed
    dropping = Dropping(data.drop, tested and tested.hashes)
    with Ahead(tokenizer, sum(source.size for source in sources), report) as ahead:
        blocks = [whole_block(source, ahead, data, dropping) for source in sources]
    if NEAR_DUPLICATE in data.drop:
        report("looking for near-duplicates", None)
        blocks = without_near_duplicates(blocks)
        for source, block in zip(sources, blocks, strict=True):
            if not len(block.examples):
                raise DataError(nothing_left(source.config.path, block.account, data))
    accounts, parts = [block.account for block in blocks], [block.examples for block in blocks]
    kept = [np.arange(part.row_count) for part in parts]
    held = [np.arange(0)] * len(parts)
    if data.eval_fraction and tested is None:
        names = ", ".join(source.config.path for source in sources)
        kept, held = hold_out([len(rows) for rows in kept], data.eval_fraction, seed, names)
        tested = held_out(parts, held, data.max_length)
        if LEAK in data.drop:
            evaluated = Seen(tested.hashes)
            leaks = [leaks_of(part, evaluated, out) for part, out in zip(parts, held, strict=True)]
            kept = _without(LEAK, leaks, parts, kept, accounts)
    if NEAR_LEAK in data.drop and tested is not None:
        report("looking for rows that are nearly evaluated on", None)
        leaks = [near_copies(part, tested.examples) for part in parts]
        kept = _without(NEAR_LEAK, leaks, parts, kept, accounts)
    report("packing", None)
    train = []
    for place, (source, part, rows) in enumerate(zip(sources, parts, kept, strict=True)):
        weighted = weighted_rows(rows, source.config.weight, seed, place)
        everything = len(weighted) == part.row_count and source.config.weight == 1
        train.append(part if everything else part.of_these_rows(weighted))
    bins = Bins.packed(Examples.joined(train), data.max_length)
    held_counts = [len(rows) for rows in held]
    account = _report_of(config, sources, accounts, held_counts, tested, bins, 1.0)
    return PreparedData(
        train=OneWindow(bins),
        tested=tested,
        account=lambda: account,
        sources=tuple(sources),
        accounts=accounts,
    )


def _without(
    code: str,
    found: list[np.ndarray],
    parts: list[Examples],
    kept: list[np.ndarray],
    accounts: list[Account],
) -> list[np.ndarray]:
    """The rows of each data set that are trained on, without those that a problem was found with: these
    go to its account."""
    left = []
    for there, part, rows, account in zip(found, parts, kept, accounts, strict=True):
        out = np.zeros(part.row_count, bool)
        out[rows] = there[rows]
        note_rows(account.dropped, in_words(code), part, out)
        left.append(rows[~out[rows]])
    if not any(map(len, left)):
        raise DataError(f"nothing is left to learn: every row is {in_words(code)} (data.drop)")
    return left


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


_WEIGHT_STREAM = 2**32 - 2  # no epoch has this number


# Streamed


@dataclass
class _SoFar:
    """What was read of a stream, by any pass over it."""

    accounts: list[Account]
    """Of each data set."""
    rounds: set[int] = field(default_factory=set)
    """Those that are in the accounts."""
    whole: bool = False


class _Rounds:
    """The rows of streamed sources, a slice of each in a round, as they are trained on."""

    def __init__(self, config: RunConfig, sources: list[Source], ahead: Ahead, separate: np.ndarray | None) -> None:
        self.held: list[np.ndarray] = [np.arange(0)] * len(sources)
        """Of each source, the rows of its first slice that are held out."""
        self.evaluated: Seen | None = None
        """Rows that are evaluated on, where rows like them are to be dropped."""
        self.so_far = _SoFar([Account() for _ in sources])
        self._drop, self._seed = config.data.drop, config.train.seed
        self._sources, self._ahead, self._separate = sources, ahead, separate

    def after(self, skip: int) -> Generator[Examples]:
        """Each round from the `skip`-th on."""
        # Which rows are copies is known only from the rounds before: they are gone through again,
        # which takes little time where their tokens are in the cache.
        begin = 0 if DUPLICATE in self._drop else skip
        dropping = Dropping(self._drop, self._separate)
        each = [self._blocks(source, begin) for source in self._sources]
        for round_ in itertools.count(begin):
            parts = []
            for place, made in enumerate(each):
                block = next(made, None)
                if block is not None:
                    parts.append(self._taken(round_, place, dropping.of(block)))
            if not parts:
                self.so_far.whole = len(self.so_far.rounds) == round_
                return
            self.so_far.rounds.add(round_)
            if round_ >= skip:
                yield Examples.joined(parts)

    def _blocks(self, source: Source, begin: int) -> Generator[Block]:
        slices = itertools.islice(source.slices(), begin, None)
        return self._ahead.blocks(slices, source.settings, source.config.path, lambda rows: None)

    def _taken(self, round_: int, place: int, block: Block) -> Examples:
        """The rows of a block that are trained on, weighted; the account takes note the first time."""
        part = block.examples
        out = self.held[place] if round_ == 0 else self.held[place][:0]
        leaks = np.zeros(part.row_count, bool)
        if self.evaluated is not None:
            leaks = leaks_of(part, self.evaluated, out)
        if round_ not in self.so_far.rounds:
            account = self.so_far.accounts[place]
            account.add(block.account)
            note_rows(account.dropped, in_words(LEAK), part, leaks)
        keep = ~leaks
        keep[out] = False
        weight = self._sources[place].config.weight
        if weight == 1 and keep.all():
            return part
        rows = weighted_rows(np.flatnonzero(keep), weight, self._seed, place, round_)
        return part.of_these_rows(rows)


def _streamed(
    config: RunConfig,
    tokenizer: "PreTrainedTokenizerBase",
    sources: list[Source],
    tested: Tested | None,
    report: TellStage,
) -> PreparedData:
    """Windows that are made while training runs; the account is that of the first."""
    data = config.data
    for code in data.drop:
        if code in NEAR:
            raise DataError(
                f"data.drop: {code} needs all rows at once, and more than {STREAM_ABOVE / 1e6:.0f} MB "
                "are read while training runs; take it out, or take fewer rows with data.max_rows"
            )
    ahead = Ahead(tokenizer, sum(source.size for source in sources), _silent)
    report("rendering the first rows", None)
    separate = tested and tested.hashes
    dropping = Dropping(data.drop, separate)
    firsts = [dropping.of(ahead.block(source.first, source.settings)) for source in sources]
    for source, block in zip(sources, firsts, strict=True):
        if not len(block.examples):
            raise DataError(nothing_left(source.config.path, block.account, data))
    rounds = _Rounds(config, sources, ahead, separate)
    if data.eval_fraction and tested is None:
        rounds.held = _held_out_of_first(config, sources, firsts)
        parts = [block.examples for block in firsts]
        tested = held_out(parts, rounds.held, data.max_length)
        rounds.evaluated = Seen(tested.hashes) if LEAK in data.drop else None
    so_far = rounds.so_far
    size = sum(source.size for source in sources)
    share = min(1.0, sum(source.first.size for source in sources) / size)
    stream = Stream(rounds.after, data.max_length, share, ahead.close)
    while not stream.ready(0, 0):
        report("packing the first rows", None)
        time.sleep(0.02)
    first = stream.window(0, 0)
    assert first is not None
    held_counts = [len(rows) for rows in rounds.held]
    per_row = sum(source.first.size for source in sources) / sum(len(source.first.rows) for source in sources)

    def account() -> DataReport:
        rows = sum(one.rows for one in so_far.accounts)
        part = 1.0 if so_far.whole else min(0.99, per_row * rows / size)
        return _report_of(config, sources, so_far.accounts, held_counts, tested, first, part)

    return PreparedData(
        train=stream,
        tested=tested,
        account=account,
        sources=tuple(sources),
        accounts=so_far.accounts,
    )


def _held_out_of_first(config: RunConfig, sources: list[Source], firsts: list[Block]) -> list[np.ndarray]:
    """Hold out of the first slices as many rows as the fraction means of all, at most half of them."""
    fraction, seed = config.data.eval_fraction, config.train.seed
    counts = [block.examples.row_count for block in firsts]
    share = sum(source.first.size for source in sources) / sum(source.size for source in sources)
    names = ", ".join(source.config.path for source in sources)
    return hold_out(counts, min(0.5, fraction / share), seed, names)[1]


def _silent(stage: str, fraction: float | None) -> None:
    """Nobody waits for what is made ahead."""


# The account


def _report_of(
    config: RunConfig,
    sources: list[Source],
    accounts: list[Account],
    held: list[int],
    tested: Tested | None,
    bins: Bins,
    share: float,
) -> DataReport:
    lengths, _ = lengths_of(sources, accounts)
    notes = sum((account.notes for account in accounts), Counter())
    evaluation = None
    if tested is not None and tested.source is not None and tested.account is not None:
        evaluation = _source_report(tested.source, tested.account, 0)
    return DataReport(
        sources=list(map(_source_report, sources, accounts, held)),
        evaluation=evaluation,
        eval_rows=tested.examples.row_count if tested else 0,
        tokens=bins.examples.tokens,
        trained_tokens=bins.examples.trained_tokens,
        bins=len(bins),
        max_length=config.data.max_length,
        lengths=_evenly(lengths, 2000),
        notes=dict(notes),
        share=share,
    )


def _source_report(source: Source, account: Account, held: int) -> SourceReport:
    return SourceReport(
        path=source.config.path,
        format=source.detection.format,
        reason=source.detection.reason,
        rows=account.rows,
        kept=account.rows - account.dropped.total - held,
        held_out=held,
        dropped=dict(account.dropped.ranked()),
        cut=account.found.counts[CUT],
        weight=source.config.weight,
        found=dict(account.found.ranked()),
        confidence=source.detection.confidence,
        columns=source.detection.columns,
        unread=source.detection.unread,
        only_first=account.rows == source.config.max_rows,
        system=next(iter(account.systems)) if len(account.systems) == 1 else "",
        roles=dict(account.roles.most_common()),
    )


def lengths_of(sources: Sequence[Source], accounts: Sequence[Account]) -> tuple[Counter[int], bool]:
    """Length before anything is cut -> how many examples have it, and whether they are documents. Those become
    pieces, so their lengths ask for no max_length: they are left out where there are other rows.
    """
    rows: Counter[int] = Counter()
    documents: Counter[int] = Counter()
    for source, account in zip(sources, accounts, strict=True):
        (documents if source.settings.format == "text" else rows).update(account.lengths)
    return (rows, False) if rows else (documents, True)


def _evenly(lengths: Counter[int], most: int) -> list[int]:
    """At most so many of all lengths, sorted and evenly spaced, the first and the last among them.

    Args:
        lengths: length -> how many there are.
    """
    each = sorted(lengths)
    ends = np.cumsum([lengths[length] for length in each])
    count = min(most, int(ends[-1]))
    places = np.arange(count) * (ends[-1] - 1) // max(1, count - 1)
    return [each[at] for at in np.searchsorted(ends, places, side="right").tolist()]
