"""The pieces of rows: three tokens that follow each other in an example, as one hash; and what each weighs.

Rows lie in a matrix for it, one of like length beside the other, so that numpy hashes and sorts all of them in a few
calls, in blocks that a core's cache holds: a hundred million tokens take little more memory than they have themselves.
"""

from collections.abc import Iterator

import numpy as np

from ..pack.examples import Examples, ranges

_WEIGHED_FROM = 5  # rows: of fewer, how many have a piece says nothing
_COMMON_FROM = 20  # rows: of fewer, half of them may well be alike
_LOOKED_AT = 4_000_000  # tokens, from which how rare a piece is is told
_HELD = 16_000_000  # tokens: of more, pieces are made again whenever they are asked for
_BLOCK = 65_536  # of a matrix
_PAD = np.uint64(2**64 - 1)
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in SplitMix64
_TIMES = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class Lists:
    """The pieces of some rows, each once, ascending: those of row n are `flat[starts[n] : starts[n] + counts[n]]`."""

    def __init__(self, flat: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> None:
        self.flat, self.starts, self.counts = flat, starts, counts

    def at(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Where the first pieces of some rows are, `width` of each, int64 [N, width]; of a row with fewer the last
        again and again. Every row has some."""
        places = np.minimum(np.arange(width), self.counts[rows, None] - 1)
        places += self.starts[rows, None]
        return places

    def of(self, row: int) -> np.ndarray:
        return self.flat[self.starts[row] : self.starts[row] + self.counts[row]]

    def only(self, rows: np.ndarray) -> "Lists":
        """The pieces of some rows."""
        counts = self.counts[rows]
        starts = np.cumsum(counts) - counts
        return Lists(self.flat[ranges(self.starts[rows], counts)], starts, counts)

    def matrix(self, rows: np.ndarray) -> np.ndarray:
        """The pieces of some rows, uint64 [N, most pieces of one], the largest number behind those of a shorter row."""
        width = int(self.counts[rows].max())
        pieces = self.flat[self.at(rows, width)]
        pieces[np.arange(width) >= self.counts[rows, None]] = _PAD
        return pieces

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Of a value of each piece, those of each row added up, float64 [rows].

        Args:
            values: float64 [pieces].
        """
        order = np.argsort(self.starts, kind="stable")
        return np.bincount(np.repeat(order, self.counts[order]), values, len(order))


class Pieces:
    """Those of the rows of some examples."""

    def __init__(self, examples: Examples) -> None:
        self.tokens = np.bincount(examples.rows, examples.lengths, examples.row_count).astype(np.int64)
        """Of each row, int64 [R]."""
        self._starts = np.cumsum(self.tokens) - self.tokens
        self._ids = examples.ids
        self._begins = np.ones(len(examples.ids), bool)
        """Whether a piece begins at a token: not at the last two of an example."""
        ends = np.cumsum(examples.lengths)
        for back in (1, 2):
            self._begins[np.maximum(ends - back, 0)] = False
        few = len(examples.ids) <= _HELD
        self._held = self._made(np.arange(len(self.tokens))) if few else None

    def of(self, rows: np.ndarray) -> Lists:
        """The pieces of some rows, int64 [N]."""
        if self._held is None:
            return self._made(rows)
        return self._held.only(rows)

    def _made(self, rows: np.ndarray) -> Lists:
        parts, starts, counts = [np.zeros(0, np.uint64)], np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        done = 0
        for some in blocks(self.tokens[rows]):
            own, count = self._sorted(rows[some])
            parts.append(own)
            counts[some] = count
            starts[some] = done + np.cumsum(count) - count
            done += len(own)
        return Lists(np.concatenate(parts), starts, counts)

    def _sorted(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of a few rows, one row after the other, and how many each has."""
        tokens = self.tokens[rows, None]
        width = int(tokens.max()) - 2
        if width < 1:
            return np.zeros(0, np.uint64), np.zeros(len(rows), np.int64)
        at = self._starts[rows, None] + np.arange(width + 2)
        np.minimum(at, len(self._ids) - 1, out=at)
        ids = self._ids[at].astype(np.uint64)
        hashed, spare = mixed(ids[:, :-2], np.uint64(0)), np.empty((len(rows), width), np.uint64)
        for more in (ids[:, 1:-1], ids[:, 2:]):
            mixed(hashed, more, hashed, spare)
        begins = self._begins[at[:, :-2]] & (np.arange(width) < tokens)
        hashed[~begins] = _PAD
        hashed.sort(axis=1)
        once = np.arange(width) < begins.sum(axis=1)[:, None]
        once[:, 1:] &= hashed[:, 1:] != hashed[:, :-1]
        return hashed[once], once.sum(axis=1)


class Weights:
    """How much pieces say of the rows that have them, told from rows spread over all."""

    def __init__(self, pieces: Pieces) -> None:
        step = max(1, int(pieces.tokens.sum()) // _LOOKED_AT)
        rows = np.arange(0, len(pieces.tokens), step)
        self._rows = len(rows)
        told = pieces.of(rows).flat
        told.sort()
        again = np.r_[False, told[1:] == told[:-1], False]
        first, last = np.flatnonzero(~again[:-1] & again[1:]), np.flatnonzero(again[:-1] & ~again[1:])
        self._shared, self._counts = told[first], last - first + 1
        weighed = self._rows >= _WEIGHED_FROM and len(self._shared) > 0
        self._alone = np.log(np.float64(self._rows + 1)) ** 2 if weighed else 1.0
        self._weights = self._weight(self._counts) if weighed else np.ones(len(self._shared))
        often = self._counts > self._rows // 2
        self._common = self._shared[often] if weighed and self._rows >= _COMMON_FROM else self._shared[:0]
        self._maybe_common = np.zeros(1 << 16, bool)
        self._maybe_common[self._common >> np.uint64(48)] = True
        bits = max(1, min(30, len(self._shared).bit_length() + 1))
        self._shift = np.uint64(64 - bits)
        self._bucket = np.searchsorted(self._shared >> self._shift, np.arange((1 << bits) + 1)).astype(np.int32)

    def _weight(self, counts: np.ndarray) -> np.ndarray:
        return np.log((self._rows + 1) / counts) ** 2

    def telling(self, lists: Lists) -> Lists:
        """Without the pieces that more than half of the rows have: they would fill the sketches, and weigh next to
        nothing."""
        maybe = np.flatnonzero(self._maybe_common[lists.flat >> np.uint64(48)])
        if not len(maybe):
            return lists
        out = maybe[_is_in(self._common, lists.flat[maybe])]
        kept = np.ones(len(lists.flat), bool)
        kept[out] = False
        before = np.cumsum(~kept)
        before = np.concatenate([[0], before])  # of the first n pieces, so many are left out
        starts = lists.starts - before[lists.starts]
        counts = lists.counts - (before[lists.starts + lists.counts] - before[lists.starts])
        return Lists(lists.flat[kept], starts, counts)

    def of(self, pieces: np.ndarray) -> np.ndarray:
        """What each weighs, float64 [N]."""
        weights = np.full(len(pieces), self._alone)
        if not len(self._shared):
            return weights
        at = self._bucket[pieces >> self._shift]
        last = np.int32(len(self._shared) - 1)
        np.minimum(at, last, out=at)
        found = self._shared[at]
        behind = np.flatnonzero(found < pieces)
        while len(behind):
            at[behind] += 1
            behind = behind[at[behind] <= last]
            found[behind] = self._shared[at[behind]]
            behind = behind[found[behind] < pieces[behind]]
        equal = np.flatnonzero(found == pieces)
        weights[equal] = self._weights[at[equal]]
        return weights


def blocks(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Places in `sizes`, int64 [N], a few of about the same size at a time: a matrix of them is small."""
    order = np.argsort(sizes, kind="stable")
    ascending = sizes[order]
    end = len(order)
    while end:
        begin = max(0, end - max(1, _BLOCK // max(1, int(ascending[end - 1]))))
        yield order[begin:end]
        end = begin


def mixed(
    values: np.ndarray, salt: np.ndarray | np.uint64, out: np.ndarray | None = None, spare: np.ndarray | None = None
) -> np.ndarray:
    """The finaliser of SplitMix64 of `values ^ salt`, uint64 of the shape of the values.

    Args:
        out: where it goes; may be the values.
        spare: room for what is between.
    """
    out = np.bitwise_xor(values, salt, out=out)
    spare = np.empty_like(out) if spare is None else spare
    np.add(out, _MIX, out=out)
    for shift, times in zip(_SHIFTS, _TIMES, strict=False):
        np.bitwise_xor(out, np.right_shift(out, shift, out=spare), out=out)
        np.multiply(out, times, out=out)
    return np.bitwise_xor(out, np.right_shift(out, _SHIFTS[-1], out=spare), out=out)


def _is_in(ascending: np.ndarray, values: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return ascending[at] == values
