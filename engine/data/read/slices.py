"""Rows in slices of a size: what is tokenised at once, kept in the cache as one file, and held in memory.

Where a slice ends depends on the rows alone, so the same file always falls into the same slices.
"""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ...config.run_config import DatasetConfig
from ..row import SourceRow
from .read import read_rows

SLICE_BYTES = 2_000_000
"""A second or two of tokenising; half a million tokens."""
_FIRST = 2  # the first slice is so many times smaller: the first batch waits for it


@dataclass(frozen=True)
class Slice:
    """Rows that follow each other."""

    rows: tuple[SourceRow, ...]
    size: int
    """Bytes that the rows take in their files."""
    digest: bytes
    """A hash of the rows and their places, the files' names apart."""

    @property
    def files(self) -> list[str]:
        """The files that the rows are of, in order."""
        return list(dict.fromkeys(row.file for row in self.rows))


def slices_of(source: DatasetConfig, size: int = SLICE_BYTES) -> Iterator[Slice]:
    """The rows of a data set in slices of at least `size` bytes (half of it for the first); the last
    takes what is left. Rows that cannot be read are among them (`SourceRow.broken`).

    Raises:
        DataError: as `read_rows`.
    """
    rows: list[SourceRow] = []
    held, digest, enough = 0, hashlib.blake2b(digest_size=20), size // _FIRST
    for row in itertools.islice(read_rows(source, keep_broken=True), source.max_rows):
        content = row.content
        changed = bool(rows) and row.file != rows[-1].file
        digest.update(f"\0{changed}\0{row.number}\0{bool(row.broken)}\0{len(content)}\0".encode())
        digest.update(content)
        rows.append(row)
        held += row.size or len(content)
        if held >= enough:
            yield Slice(tuple(rows), held, digest.digest())
            enough = size
            rows, held, digest = [], 0, hashlib.blake2b(digest_size=20)
    if rows:
        yield Slice(tuple(rows), held, digest.digest())
