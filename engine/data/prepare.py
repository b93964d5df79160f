"""From a configuration to packed bins, with the account of every row.

Rows are read, brought into one form, rendered, encoded, held out, weighted, packed. What the loop trains on
and what the Data screen shows are the same `Example`s, made here and nowhere else.

A row longer than `max_length` is cut at its end or dropped. A document is neither: continued
pre-training wants all of it, so it becomes pieces of `max_length` tokens. Each piece begins with
the last token of the one before, which predicts its second token: so all tokens but the document's
first are learnt, each once.

Rows are held out before a data set is weighted, so a row that is taken twice is never in both parts.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..config import DataConfig, DatasetConfig, RunConfig
from .batch import Batch, Example, collate
from .columns import renamed
from .errors import DataError
from .formats import Conversation, Detection, Document, Dropped, detect, normalise
from .packing import pack
from .read import read_rows
from .report import DataReport, SourceReport
from .row import SourceRow
from .template import Encoded, Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Report = Callable[[str, float | None], None]

CUT_AWAY = "answer cut away by data.max_length"
TOO_LONG = "longer than data.max_length"
NOTHING_LEARNT = "nothing to learn after rendering"
_CHUNK = 256  # rows rendered and tokenised between two reports


@dataclass(frozen=True)
class Bins:
    """Examples and how they are packed."""

    examples: tuple[Example, ...]
    bins: tuple[tuple[int, ...], ...]
    """Indices of examples; each is in one bin."""

    def __len__(self) -> int:
        return len(self.bins)

    def order(self, epoch: int, seed: int, shuffle: bool) -> list[int]:
        """The order of the bins in an epoch (from 0): the same for the same numbers on every
        machine, whatever other randomness a process uses."""
        if not shuffle:
            return list(range(len(self.bins)))
        return np.argsort(_random_keys(len(self.bins), seed, epoch), kind="stable").tolist()

    def batch(self, indices: Sequence[int]) -> Batch:
        """These bins as one batch, documents end to end."""
        return collate([self.examples[i] for index in indices for i in self.bins[index]])

    @property
    def tokens(self) -> int:
        return sum(len(example) for example in self.examples)

    @property
    def trained_tokens(self) -> int:
        return sum(example.trained_tokens for example in self.examples)


@dataclass(frozen=True)
class PreparedData:
    train: Bins
    evaluation: Bins | None
    report: DataReport
    shown: tuple[SourceRow, ...]
    """The first rows that are trained on, as they stand in the file."""


@dataclass
class _Usable:
    """A row's examples."""

    source: SourceRow
    examples: list[Example]
    data_set: int = 0
    """Its place in `data.sources`."""


@dataclass
class _Account:
    source: DatasetConfig
    detection: Detection
    rows: int = 0
    cut: int = 0
    dropped: collections.Counter[str] = field(default_factory=collections.Counter)


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
    renderer = Renderer(
        tokenizer, data.assistant_only_loss, last_only=data.assistant_turns == "last"
    )
    usable: list[_Usable] = []
    accounts: list[_Account] = []
    for place, source in enumerate(data.sources):
        rows, account = _usable_rows(data, source, renderer, report)
        if not rows:
            raise DataError(_nothing_left(source.path, account, data))
        usable += [replace(row, data_set=place) for row in rows]
        accounts.append(account)
    held_out: list[_Usable] = []
    eval_rows: list[_Usable] = []
    if data.eval_path is not None:
        eval_rows, account = _usable_rows(
            data, DatasetConfig(path=data.eval_path, format=data.format, columns=data.columns),
            renderer, report,
        )  # fmt: skip
        if not eval_rows:
            raise DataError(_nothing_left(data.eval_path, account, data))
    elif data.eval_fraction:
        names = ", ".join(source.path for source in data.sources)
        usable, held_out = hold_out(usable, data.eval_fraction, config.train.seed, names)
        eval_rows = held_out
    report("packing", None)
    train = _pack(weighted(usable, data.sources, config.train.seed), data.max_length)
    lengths = sorted(len(example) for example in train.examples)
    kept = collections.Counter(row.data_set for row in usable)
    held = collections.Counter(row.data_set for row in held_out)
    return PreparedData(
        train,
        _pack(eval_rows, data.max_length) if eval_rows else None,
        DataReport(
            sources=[
                SourceReport(
                    path=source.path,
                    format=account.detection.format,
                    reason=account.detection.reason,
                    rows=account.rows,
                    kept=kept[place],
                    held_out=held[place],
                    dropped=dict(account.dropped.most_common()),
                    cut=account.cut,
                    weight=source.weight,
                )
                for place, (source, account) in enumerate(zip(data.sources, accounts, strict=True))
            ],
            eval_rows=len(eval_rows),
            tokens=train.tokens,
            trained_tokens=train.trained_tokens,
            bins=len(train),
            max_length=data.max_length,
            lengths=_evenly(lengths, 2000),
            notes=renderer.notes,
        ),
        tuple(row.source for row in usable[:shown]),
    )


def weighted(rows: list[_Usable], sources: Sequence[DatasetConfig], seed: int) -> list[_Usable]:
    """The rows of an epoch: each data set `weight` times, a random part of it for the fraction that
    is left, at least one row of each."""
    if all(source.weight == 1 for source in sources):
        return rows
    result = []
    for place, source in enumerate(sources):
        own = [row for row in rows if row.data_set == place]
        whole = int(source.weight)
        more = round((source.weight - whole) * len(own))
        keys = _random_keys(len(own), seed, _WEIGHT_STREAM - place)
        part = set(np.argsort(keys, kind="stable")[: max(more, 0 if whole else 1)].tolist())
        result += own * whole + [row for index, row in enumerate(own) if index in part]
    return result


def hold_out(
    usable: list[_Usable], fraction: float, seed: int, path: str
) -> tuple[list[_Usable], list[_Usable]]:
    """Split off a random share of the rows (at least one) for evaluation; both stay in order.

    Raises:
        DataError: fewer than two rows.
    """
    if len(usable) < 2:
        raise DataError(
            f"{path}: data.eval_fraction={fraction} holds rows out, but there is {len(usable)} row "
            "to learn from; set data.eval_path to a file of its own, or data.eval_fraction=0"
        )
    count = min(max(1, round(fraction * len(usable))), len(usable) - 1)
    keys = _random_keys(len(usable), seed, _EVALUATION_STREAM)
    chosen = set(np.argsort(keys, kind="stable")[:count].tolist())
    return (
        [row for place, row in enumerate(usable) if place not in chosen],
        [row for place, row in enumerate(usable) if place in chosen],
    )


_EVALUATION_STREAM = 2**32 - 1  # no epoch has these numbers
_WEIGHT_STREAM = 2**32 - 2


def _random_keys(count: int, seed: int, stream: int) -> np.ndarray:
    # numpy promises that SeedSequence and a bit generator's raw output never change (NEP 19); it
    # does not promise that for Generator.permutation.
    return np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(count)


def _usable_rows(
    data: DataConfig, source: DatasetConfig, renderer: Renderer, report: Report
) -> tuple[list[_Usable], _Account]:
    path = source.path
    report(f"reading {path}", None)
    rows = _counted(itertools.islice(read_rows(source), source.max_rows), path, report)
    if not rows:
        raise DataError(f"{path}: holds no rows")
    detection = (
        detect(rows, source.columns)
        if source.format == "auto"
        else Detection(source.format, f"data.format={source.format}")
    )
    account = _Account(source, detection, rows=len(rows))
    usable = []
    for start in range(0, len(rows), _CHUNK):
        report(f"rendering {path}: {start:,} of {len(rows):,} rows", start / len(rows))
        usable += _usable_chunk(rows[start : start + _CHUNK], data, renderer, account)
    return usable, account


def _counted(rows: Iterable[SourceRow], path: str, report: Report) -> list[SourceRow]:
    result = []
    for row in rows:
        result.append(row)
        if len(result) % 10_000 == 0:
            report(f"reading {path}: {len(result):,} rows", None)
    return result


def _usable_chunk(
    rows: list[SourceRow],
    data: DataConfig,
    renderer: Renderer,
    account: _Account,
) -> list[_Usable]:
    kept: list[Conversation | Document] = []
    renderings, counts = [], []
    for row in rows:
        named = renamed(row, account.source.columns)
        normal = normalise(named, account.detection.format, drop_system=data.drop_system)
        if isinstance(normal, Dropped):
            account.dropped[normal.reason] += 1
            continue
        normal = replace(normal, source=row)
        made = renderer.render(normal)
        kept.append(normal)
        renderings += made
        counts.append(len(made))
    encoded = iter(renderer.encode(renderings))
    usable = []
    for normal, count in zip(kept, counts, strict=True):
        examples = _fit_length(normal, list(itertools.islice(encoded, count)), data, account)
        if examples:
            usable.append(_Usable(normal.source, examples))
    return usable


def _fit_length(
    normal: Conversation | Document, encoded: list[Encoded], data: DataConfig, account: _Account
) -> list[Example]:
    """The examples of a row within max_length; none, and the reason counted, where none is left."""
    longest = data.max_length
    if isinstance(normal, Document):
        pieces = [piece for one in encoded for piece in _pieces(one, longest)]
        if not pieces:
            account.dropped[NOTHING_LEARNT] += 1
        return pieces
    long = any(len(one.ids) > longest for one in encoded)
    if long and data.over_long == "drop":
        account.dropped[TOO_LONG] += 1
        return []
    examples = [_example(one, 0, longest) for one in encoded if one.trained[:longest].any()]
    if not examples:
        account.dropped[CUT_AWAY if long else NOTHING_LEARNT] += 1
    elif long:
        account.cut += 1
    return examples


def _pieces(one: Encoded, longest: int) -> list[Example]:
    starts = range(0, len(one.ids) - 1, longest - 1)
    return [_example(one, start, start + longest) for start in starts]


def _example(one: Encoded, start: int, end: int) -> Example:
    trained = one.trained[start:end].copy()
    trained[0] = False
    return Example(one.ids[start:end], trained, one.source.number)


def _pack(rows: list[_Usable], max_length: int) -> Bins:
    examples = tuple(example for row in rows for example in row.examples)
    packed = pack([len(example) for example in examples], max_length)
    return Bins(examples, tuple(tuple(one) for one in packed))


def _evenly(values: list[int], most: int) -> list[int]:
    if len(values) <= most:
        return values
    return [values[place * (len(values) - 1) // (most - 1)] for place in range(most)]


def _nothing_left(path: str, account: _Account, data: DataConfig) -> str:
    reasons = ", ".join(f"{rows} x {reason}" for reason, rows in account.dropped.most_common())
    text = f"{path}: nothing is left to learn of {account.rows} rows: {reasons}"
    if account.dropped.keys() & {CUT_AWAY, TOO_LONG}:
        text += f"; raise data.max_length (now {data.max_length})"
    return text
