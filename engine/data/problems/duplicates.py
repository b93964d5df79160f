"""Rows that are there more than once, told by a hash of their tokens: eight bytes a row.

Two rows are the same where they become the same tokens, so a trailing space that the template strips makes no
difference. Of 100 million rows, the chance that any two different ones share a hash is below 1 in 1,000.
"""

import hashlib

import numpy as np

from ..pack.examples import Examples


def row_hashes(examples: Examples) -> np.ndarray:
    """A hash of the tokens of each row, uint64 [R]."""
    if not examples.row_count:
        return np.zeros(0, np.uint64)
    tokens = np.bincount(examples.rows, examples.lengths, examples.row_count).astype(np.int64)
    ends = np.cumsum(tokens)
    data, size = examples.ids.tobytes(), examples.ids.itemsize
    digests = b"".join(
        hashlib.blake2b(data[start * size : end * size], digest_size=8).digest()
        for start, end in zip((ends - tokens).tolist(), ends.tolist(), strict=True)
    )
    return np.frombuffer(digests, np.uint64)


class Seen:
    """A growing set of hashes, compact and quick: sorted arrays, each at least twice as long as the next."""

    def __init__(self, hashes: np.ndarray | None = None) -> None:
        self._arrays: list[np.ndarray] = []
        if hashes is not None:
            self.add(hashes)

    def has(self, hashes: np.ndarray) -> np.ndarray:
        """Which are in the set, bool [N]."""
        found = np.zeros(len(hashes), bool)
        for array in self._arrays:
            at = np.minimum(np.searchsorted(array, hashes), len(array) - 1)
            found |= array[at] == hashes
        return found

    def add(self, hashes: np.ndarray) -> np.ndarray:
        """Take hashes in.

        Returns:
            Which of them the set did not have, the first of equal ones alone, bool [N].
        """
        unique, first = np.unique(hashes, return_index=True)
        new = np.zeros(len(hashes), bool)
        new[first] = True
        new &= ~self.has(hashes)
        fresh = np.sort(hashes[new]) if len(unique) else unique
        if len(fresh):
            while self._arrays and len(self._arrays[-1]) < 2 * len(fresh):
                fresh = np.sort(np.concatenate([self._arrays.pop(), fresh]), kind="stable")
            self._arrays.append(fresh)
        return new
