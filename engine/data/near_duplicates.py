"""Rows that nearly repeat another one: MinHash finds who may be alike, and their pieces are then compared.

A row is the set of its pieces of three tokens, each weighing the logarithm of how rare it is among the rows: what many
rows share (a system prompt, a template's words) says little about two of them. Two rows nearly repeat each other where
the sets' weighted Jaccard similarity (the weight of what is in both, of what is in either) is at least 0.8. A row's 128
smallest hashes stand for it (a bottom-k sketch), and 64 minima of these under other hashes, in 16 bands of four, bring two
rows that share 0.8 of their pieces together with a chance above 0.99 (Broder 1997; Leskovec et al., Mining of Massive
Datasets, ch. 3). What is reported is then compared exactly, all pieces of both rows, so nothing is reported that is
not alike.
"""

from collections.abc import Callable, Iterator

import numpy as np

from .examples import Examples

SIMILAR = 0.8
_SKETCH = 128
_MINIMA = 64
_BAND = 4
_COMMON_FROM = 20  # rows: of fewer, half of them may well be alike
_WEIGHED_FROM = 5  # rows: of fewer, how many have a piece says nothing
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
    pieces, rows, weights = _pieces(examples)
    if not len(pieces):
        return
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    ends = np.r_[starts[1:], len(rows)]
    owners = rows[starts]
    counts = np.minimum(ends - starts, _SKETCH)
    sketched = np.arange(len(pieces)) - np.repeat(starts, ends - starts) < _SKETCH
    sums = np.add.reduceat(weights, starts)
    for early, late in _candidates(_minima(pieces[sketched], np.cumsum(counts) - counts)):
        if not asked(int(owners[early]), int(owners[late])):
            continue
        one, other = slice(starts[early], ends[early]), slice(starts[late], ends[late])
        _, shared, _ = np.intersect1d(
            pieces[one], pieces[other], assume_unique=True, return_indices=True
        )
        both = weights[one][shared].sum()
        if both >= SIMILAR * (sums[early] + sums[late] - both):
            yield int(owners[early]), int(owners[late])


def _pieces(examples: Examples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of each row, each once, with the row and the weight of each; by row, then by piece."""
    of = np.repeat(np.arange(len(examples)), examples.lengths)
    ids = examples.ids.astype(np.uint64)
    if len(ids) < 3:
        return ids[:0], of[:0], np.zeros(0)
    inside = of[2:] == of[:-2]
    hashed = _mixed(ids[:-2])
    hashed = _mixed(hashed ^ ids[1:-1])
    hashed = _mixed(hashed ^ ids[2:])[inside]
    rows = examples.rows[of[2:][inside]]
    order = np.lexsort((hashed, rows))
    hashed, rows = hashed[order], rows[order]
    first = np.r_[True, (hashed[1:] != hashed[:-1]) | (rows[1:] != rows[:-1])][: len(rows)]
    hashed, rows = hashed[first], rows[first]
    count = examples.row_count
    if count < _WEIGHED_FROM:
        return hashed, rows, np.ones(len(hashed))
    _, place, counts = np.unique(hashed, return_inverse=True, return_counts=True)
    having = counts[place]
    weights = np.log((count + 1) / having)
    if count >= _COMMON_FROM:
        # Pieces that more than half of the rows have would fill the sketches, and weigh next to nothing.
        told = having <= count // 2
        hashed, rows, weights = hashed[told], rows[told], weights[told]
    return hashed, rows, weights


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, uint64 [N]."""
    values = values + _MIX
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _minima(pieces: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """uint64 [rows with pieces, 64]."""
    minima = np.empty((len(starts), _MINIMA), np.uint64)
    for place in range(_MINIMA):
        salt = _mixed(np.array([place + 1], np.uint64))
        minima[:, place] = np.minimum.reduceat(_mixed(pieces ^ salt), starts)
    return minima


def _candidates(minima: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of rows, the earlier first, that agree in a band: each row with the first of those that agree,
    and with the one before it."""
    pairs: set[tuple[int, int]] = set()
    for band in range(0, _MINIMA, _BAND):
        key = minima[:, band]
        for place in range(band + 1, band + _BAND):
            key = _mixed(key ^ minima[:, place])
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
