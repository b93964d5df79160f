"""Rows that nearly repeat another one: MinHash finds who may be alike, and their pieces are then compared.

A row is the set of its pieces of three tokens (`pieces.py`), each weighing the squared logarithm of how rare it is
among the rows: what many rows share (a system prompt, a template's words) says little about two of them. Two rows
nearly repeat each other where the sets' weighted Jaccard similarity (the weight of what is in both, of what is in
either) is at least 0.8. A row's 128 smallest hashes stand for it (a bottom-k sketch), and 64 minima of these under
other hashes, in 16 bands of four, bring two rows that share 0.8 of their pieces together with a chance above 0.99
(Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3). What is reported is then compared exactly, all
pieces of both rows, so nothing is reported that is not alike.

Rows and pairs are taken a million tokens at a time, and how rare a piece is is told from a few millions, spread over
all.
"""

from collections.abc import Iterator

import numpy as np

from ..pack.examples import Examples
from .pieces import Lists, Pieces, Weights, blocks, mixed

SIMILAR = 0.8
_SKETCH = 128
_MINIMA = 64
_BAND = 4
_TOKENS_AT_ONCE = 1_000_000
_ROWS_AT_ONCE = 256  # a core's cache holds their sketches
_DOUBT = 1e-9
"""Of the weights: sums of them that are nearer to what is asked are taken in one order, whoever asks."""


def near_duplicates(examples: Examples) -> np.ndarray:
    """Which rows nearly repeat one before them, and are not equal to it, bool [R]."""
    alike = _Alike(examples)
    return _found(alike, *_candidates(*alike.keys()), differ=True)


def near_copies(examples: Examples, of: Examples) -> np.ndarray:
    """Which rows nearly repeat one of another set, or equal it, bool [R]."""
    before = of.row_count
    alike = _Alike(Examples.joined([of, examples]))
    early, late = _candidates(*alike.keys())
    across = (early < before) & (late >= before)
    return _found(alike, early[across], late[across], differ=False)[before:]


def _found(alike: "_Alike", early: np.ndarray, late: np.ndarray, differ: bool) -> np.ndarray:
    """Which rows are alike with the earlier one of a pair, bool [R].

    Args:
        early, late: rows of pairs, by the earlier one, int64 [P].
        differ: where both are not equal.
    """
    found = np.zeros(alike.rows, bool)
    while len(late):
        # The first pair of each row: most that are found at all are found by it.
        first = np.unique(late, return_index=True)[1]
        true = first[alike.are(early[first], late[first])]
        if differ:
            true = true[~alike.equal(early[true], late[true])]
        found[late[true]] = True
        left = ~found[late]
        left[first] = False
        early, late = early[left], late[left]
    return found


class _Alike:
    """Which rows of some examples are alike."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._pieces = Pieces(examples)
        self._weights = Weights(self._pieces)
        self.rows = examples.row_count

    def keys(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows that agree in a column may be alike: the rows with pieces, int64 [N], ascending, and their keys,
        uint64 [N, 16]."""
        keys = np.zeros((self.rows, _MINIMA // _BAND), np.uint64)
        some = np.zeros(self.rows, bool)
        for rows in _parts(self._pieces.tokens):
            lists = self._weights.telling(self._pieces.of(rows))
            having = np.flatnonzero(lists.counts)
            some[rows[having]] = True
            for few in np.array_split(having, len(having) // _ROWS_AT_ONCE + 1):
                keys[rows[few]] = _bands(lists.flat[lists.at(few, _SKETCH)])
        return np.flatnonzero(some), keys[some]

    def are(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether rows that have pieces are alike, those of a pair each, bool [P].

        Args:
            one, other: the rows of each pair, int64 [P].
        """
        found = np.zeros(len(one), bool)
        for part in _parts(self._pieces.tokens[one] + self._pieces.tokens[other]):
            found[part] = self._few_are(one[part], other[part])
        return found

    def _few_are(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        rows, at = np.unique(np.concatenate([one, other]), return_inverse=True)
        lists = self._weights.telling(self._pieces.of(rows))
        weight = lists.sums(self._weights.of(lists.flat))
        at, others = at[: len(one)], at[len(one) :]
        both, together = np.zeros(len(one)), weight[at] + weight[others]
        for few in blocks(lists.counts[at] + lists.counts[others]):
            apart, pair = _apart(lists, at[few], others[few])
            both[few] = (together[few] - np.bincount(pair, self._weights.of(apart), len(few))) / 2
        beyond = both - SIMILAR * (together - both)
        found = beyond >= 0
        for place in np.flatnonzero(np.abs(beyond) <= _DOUBT * together):
            found[place] = self._are_exactly(lists.of(at[place]), lists.of(others[place]))
        return found

    def _are_exactly(self, one: np.ndarray, other: np.ndarray) -> bool:
        """As `are`, each row's weights summed by itself, in the order of its pieces."""
        _, shared, _ = np.intersect1d(one, other, assume_unique=True, return_indices=True)
        weights, others = self._weights.of(one), self._weights.of(other)
        both = weights[shared].sum()
        return bool(both >= SIMILAR * (weights.sum() + others.sum() - both))

    def equal(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Whether rows have the same tokens, those of a pair each, bool [P]."""
        tokens, ids = self._pieces.tokens, self._examples.ids
        starts = np.cumsum(tokens) - tokens
        same = tokens[one] == tokens[other]
        for place in np.flatnonzero(same):
            a, b, size = starts[one[place]], starts[other[place]], tokens[one[place]]
            same[place] = np.array_equal(ids[a : a + size], ids[b : b + size])
        return same


def _parts(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Places, in order, about a million tokens at a time, int64 [N].

    Args:
        tokens: of each, int64.
    """
    if len(tokens):
        parts = np.cumsum(tokens) // _TOKENS_AT_ONCE
        yield from np.split(np.arange(len(parts)), np.flatnonzero(np.diff(parts)) + 1)


def _apart(lists: Lists, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces that one row of a pair has and the other has not, uint64 [N], and the pair of each, int64 [N]. They
    are fewer than those that both have, of nearly all pairs that are asked about.

    Args:
        one, other: the rows of each pair, int64 [P].
    """
    counts = lists.counts[one] + lists.counts[other]
    pieces = np.concatenate([lists.matrix(one), lists.matrix(other)], axis=1)
    pieces.sort(axis=1)
    twice = pieces[:, 1:] == pieces[:, :-1]
    apart = np.arange(pieces.shape[1]) < counts[:, None]
    apart[:, 1:] &= ~twice
    apart[:, :-1] &= ~twice
    last = np.arange(len(counts)), counts - 1  # what is behind may look like it
    apart[last] = pieces[last] != pieces[last[0], last[1] - 1]
    pair, place = np.nonzero(apart)
    return pieces[pair, place], pair


def _bands(sketches: np.ndarray) -> np.ndarray:
    """A key of each band of minima, uint64 [N, 16].

    Args:
        sketches: the smallest pieces of each row, uint64 [N, 128].
    """
    keys = np.zeros((len(sketches), _MINIMA // _BAND), np.uint64)
    hashed, spare = np.empty_like(sketches), np.empty_like(sketches)
    for place in range(_MINIMA):
        salt = mixed(np.array([place + 1], np.uint64), np.uint64(0))
        least = mixed(sketches, salt, hashed, spare).min(axis=1)
        keys[:, place // _BAND] = mixed(keys[:, place // _BAND], least)
    return keys


def _candidates(owner: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that agree in a column, sorted, each once: each row with the first of those that agree, and with
    the one before it.

    Args:
        owner: the row of each of the keys, int64 [N], ascending.
        keys: uint64 [N, 16].

    Returns:
        The earlier row and the later one of each pair, int64 [P].
    """
    pairs = np.zeros(0, np.int64)
    places = np.arange(len(owner))
    for key in keys.T:
        order = np.argsort(key, kind="stable")
        again = np.r_[False, key[order][1:] == key[order][:-1]][: len(order)]
        late = np.flatnonzero(again)
        first = np.maximum.accumulate(np.where(again, 0, places))[late]
        new = [order[early] * len(owner) + order[late] for early in (first, late - 1)]
        pairs = np.sort(np.concatenate([pairs, *new]))
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    early, late = np.divmod(pairs, max(1, len(owner)))
    return owner[early], owner[late]
