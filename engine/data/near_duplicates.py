"""Rows that nearly repeat an earlier one: MinHash finds who may be alike, and their pieces are then compared.

A row is the set of its pieces of three tokens. Two rows nearly repeat each other where the sets' Jaccard similarity (what
is in both, of what is in either) is at least 0.8. A row's 128 smallest hashes stand for it (a bottom-k sketch), and 64
minima of these under other hashes, in 16 bands of four, bring two such rows together with a chance above 0.99 (Broder
1997; Leskovec et al., Mining of Massive Datasets, ch. 3). What is reported is then compared exactly, all pieces of both
rows, so nothing is reported that is not alike.

Pieces that more than half of the rows have are the template's, and say nothing.
"""

import numpy as np

from .examples import Examples

SIMILAR = 0.8
_SKETCH = 128
_MINIMA = 64
_BAND = 4
_COMMON_FROM = 20  # rows: of fewer, half of them may well be alike
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in SplitMix64


def near_duplicates(examples: Examples) -> np.ndarray:
    """Which rows nearly repeat one before them, and are not equal to it, bool [R]."""
    found = np.zeros(examples.row_count, bool)
    pieces, rows = _pieces(examples)
    if not len(pieces):
        return found
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])
    ends = np.r_[starts[1:], len(rows)]
    owners = rows[starts]
    counts = np.minimum(ends - starts, _SKETCH)
    sketched = np.arange(len(pieces)) - np.repeat(starts, ends - starts) < _SKETCH
    candidates = _candidates(_minima(pieces[sketched], np.cumsum(counts) - counts))
    for early, late in candidates:
        if found[owners[late]]:
            continue
        one, other = (pieces[starts[at] : ends[at]] for at in (early, late))
        both = len(np.intersect1d(one, other, assume_unique=True))
        either = len(one) + len(other) - both
        if both >= SIMILAR * either and not _equal(examples, owners[early], owners[late]):
            found[owners[late]] = True
    return found


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
    hashed, rows = hashed[first], rows[first]
    if examples.row_count >= _COMMON_FROM:
        _, place, counts = np.unique(hashed, return_inverse=True, return_counts=True)
        told = counts[place] <= examples.row_count // 2
        hashed, rows = hashed[told], rows[told]
    return hashed, rows


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
