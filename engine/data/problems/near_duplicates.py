"""Rows that nearly repeat another one: MinHash finds who may be alike, and their pieces are then compared.

A row is the set of its pieces of three tokens, each weighing the squared logarithm of how rare it is among the rows:
what many
rows share (a system prompt, a template's words) says little about two of them. Two rows nearly repeat each other where
the sets' weighted Jaccard similarity (the weight of what is in both, of what is in either) is at least 0.8. A row's 128
smallest hashes stand for it (a bottom-k sketch), and 64 minima of these under other hashes, in 16 bands of four, bring
two
rows that share 0.8 of their pieces together with a chance above 0.99 (Broder 1997; Leskovec et al., Mining of Massive
Datasets, ch. 3). What is reported is then compared exactly, all pieces of both rows, so nothing is reported that is
not alike.

Rows are taken a few million tokens at a time, and how rare a piece is is told from as many, spread over all: a hundred
million tokens take little more memory than they have themselves.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from ..pack.examples import Examples

SIMILAR = 0.8
_SKETCH = 128
_MINIMA = 64
_BAND = 4
_COMMON_FROM = 20  # rows: of fewer, half of them may well be alike
_WEIGHED_FROM = 5  # rows: of fewer, how many have a piece says nothing
_TOKENS_AT_ONCE = 4_000_000
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in SplitMix64


def near_duplicates(examples: Examples) -> np.ndarray:
    """Which rows nearly repeat one before them, and are not equal to it, bool [R]."""
    found = np.zeros(examples.row_count, bool)
    for early, late in _pairs(examples, lambda early, late: not found[late]):
        found[late] = not _equal(examples, early, late)
    return found


def near_copies(examples: Examples, of: Examples) -> np.ndarray:
    """Which rows nearly repeat one of another set, or equal it, bool [R]."""
    before = of.row_count
    found = np.zeros(before + examples.row_count, bool)
    both = Examples.joined([of, examples])
    for _, late in _pairs(both, lambda early, late: early < before <= late and not found[late]):
        found[late] = True
    return found[before:]


def _pairs(examples: Examples, asked: Callable[[int, int], bool]) -> Iterator[tuple[int, int]]:
    """Rows that are alike, the earlier first: of many that are, each with some.

    Args:
        asked: of which two rows it is to be told, if they may be alike.
    """
    rarity = _Rarity(examples)
    owners, keys = [np.zeros(0, np.int64)], [np.zeros((0, _MINIMA // _BAND), np.uint64)]
    for rows in _parts(examples):
        pieces, weights, at = rarity.weighed(examples.of_these_rows(rows))
        if len(pieces):
            starts = np.flatnonzero(np.r_[True, at[1:] != at[:-1]])
            owners.append(rows[at[starts]])
            keys.append(_bands(pieces, starts))
    owner = np.concatenate(owners)

    @lru_cache(maxsize=256)
    def whole(row: int) -> tuple[np.ndarray, np.ndarray]:
        return rarity.weighed(examples.of_these_rows(np.array([row])))[:2]

    for early, late in _candidates(np.concatenate(keys)):
        one, other = int(owner[early]), int(owner[late])
        if not asked(one, other):
            continue
        (pieces, weights), (others, other_weights) = whole(one), whole(other)
        _, shared, _ = np.intersect1d(pieces, others, assume_unique=True, return_indices=True)
        both = weights[shared].sum()
        if both >= SIMILAR * (weights.sum() + other_weights.sum() - both):
            yield one, other


def _parts(examples: Examples) -> Iterator[np.ndarray]:
    """The rows, in order, some millions of tokens at a time."""
    tokens = np.cumsum(np.bincount(examples.rows, examples.lengths, examples.row_count))
    parts = (tokens // _TOKENS_AT_ONCE).astype(np.int64)
    yield from np.split(np.arange(len(parts)), np.flatnonzero(np.diff(parts)) + 1)


class _Rarity:
    """How much pieces say of the rows that have them, told from rows spread over all."""

    def __init__(self, examples: Examples) -> None:
        step = max(1, examples.tokens // _TOKENS_AT_ONCE)
        looked_at = np.arange(0, examples.row_count, step)
        self._rows = len(looked_at)
        pieces, _ = _pieces(examples.of_these_rows(looked_at))
        pieces, counts = np.unique(pieces, return_counts=True)
        shared = counts > 1
        self._shared, self._counts = pieces[shared], counts[shared]

    def weighed(self, examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pieces of each row, each once, with the weight and the row of each; by row, then by piece.
        Without those that more than half of the rows have: they would fill the sketches, and weigh next to
        nothing.
        """
        pieces, rows = _pieces(examples)
        if self._rows < _WEIGHED_FROM or not len(self._shared):
            return pieces, np.ones(len(pieces)), rows
        at = np.minimum(np.searchsorted(self._shared, pieces), len(self._shared) - 1)
        counts = np.where(self._shared[at] == pieces, self._counts[at], 1)
        weights = np.log((self._rows + 1) / counts) ** 2
        if self._rows < _COMMON_FROM:
            return pieces, weights, rows
        told = counts <= self._rows // 2
        return pieces[told], weights[told], rows[told]


def _pieces(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of each row, each once, and the row of each; by row, then by piece."""
    of = np.repeat(np.arange(len(examples)), examples.lengths)
    ids = examples.ids.astype(np.uint64)
    if len(ids) < 3:
        return ids[:0], of[:0]
    inside = of[2:] == of[:-2]
    hashed = _mixed(ids[:-2])
    hashed = _mixed(hashed ^ ids[1:-1])
    hashed = _mixed(hashed ^ ids[2:])[inside]
    rows = examples.rows[of[2:][inside]]
    order = np.lexsort((hashed, rows))
    hashed, rows = hashed[order], rows[order]
    first = np.r_[True, (hashed[1:] != hashed[:-1]) | (rows[1:] != rows[:-1])][: len(rows)]
    return hashed[first], rows[first]


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, uint64 [N]."""
    values = values + _MIX
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bands(pieces: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Rows that agree in a column may be alike, uint64 [rows with pieces, 16].

    Args:
        pieces: of each row, ascending.
        starts: where the pieces of each row begin.
    """
    counts = np.diff(starts, append=len(pieces))
    sketched = pieces[np.arange(len(pieces)) - np.repeat(starts, counts) < _SKETCH]
    counts = np.minimum(counts, _SKETCH)
    starts = np.cumsum(counts) - counts
    keys = np.zeros((len(starts), _MINIMA // _BAND), np.uint64)
    for place in range(_MINIMA):
        salt = _mixed(np.array([place + 1], np.uint64))
        band = keys[:, place // _BAND]
        band[:] = _mixed(band ^ np.minimum.reduceat(_mixed(sketched ^ salt), starts))
    return keys


def _candidates(keys: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, the earlier first, that agree in a column: each row with the first of those that agree,
    and with the one before it."""
    pairs: set[tuple[int, int]] = set()
    for key in keys.T:
        order = np.argsort(key, kind="stable")
        same = key[order][1:] == key[order][:-1]
        first = 0
        for at in np.flatnonzero(same).tolist():
            if at == 0 or not same[at - 1]:
                first = at
            late = int(order[at + 1])
            pairs.add((int(order[first]), late))
            pairs.add((int(order[at]), late))
    return sorted(pairs)


def _equal(examples: Examples, one: int, other: int) -> bool:
    first, second = (examples.of_these_rows(np.array([row])).ids for row in (one, other))
    return np.array_equal(first, second)
