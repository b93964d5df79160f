"""Rows of a file found again by their place, a step at a time.

A data set that was tokenised holds no rows any more, and files of lines have no index: so a row is found by reading
on from the last one. The rows that were passed on the way are kept, some hundred of them, so that a step forward or
back reads next to nothing; a row further back begins the file anew.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..prepare.source import Source
from ..read.read import read_rows
from ..report.findings import Place
from ..row import SourceRow

TellRows = Callable[[int], None]
"""Is told rows that were read; what it raises ends the reading."""

_KEPT = 300
_TOLD = 500  # rows between two tellings


def silent(rows: int) -> None:
    """Nobody waits."""


def rows_of(source: Source) -> Iterator[SourceRow]:
    """The rows of a data set that a run reads, those that cannot be read among them."""
    return itertools.islice(read_rows(source.config, keep_broken=True), source.config.max_rows)


def all_rows(sources: Sequence[Source], tell: TellRows) -> Iterator[tuple[Source, SourceRow]]:
    """Every row of every data set, in order."""
    count = 0
    for source in sources:
        for row in rows_of(source):
            if count % _TOLD == 0:
                tell(count)
            count += 1
            yield source, row


class Reread:
    """Finds rows of one data set again."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._begin()

    def _begin(self) -> None:
        self._ahead = rows_of(self.source)
        self._kept: deque[SourceRow] = deque(maxlen=_KEPT)
        self._read: dict[str, int] = {}  # file -> the last row of it that was read

    def row(self, place: Place, tell: TellRows = silent) -> SourceRow | None:
        """The row, or None where the data set has none there.

        Raises:
            DataError: as `read_rows`.
        """
        for row in reversed(self._kept):
            if (row.file, row.number) == (place.file, place.number):
                return row
        if place.number <= self._read.get(place.file, 0):
            self._begin()
        found = self._read_on(place, tell)
        if found is None:
            self._begin()  # what is read to its end finds nothing any more
        return found

    def _read_on(self, place: Place, tell: TellRows) -> SourceRow | None:
        try:
            for count, row in enumerate(self._ahead):
                self._kept.append(row)
                self._read[row.file] = row.number
                if (row.file, row.number) == (place.file, place.number):
                    return row
                if row.file == place.file and row.number > place.number:
                    return None
                if count % _TOLD == 0:
                    tell(count)
        except Exception:
            self._begin()  # an error ends a generator: the next row would seem not to be there
            raise
        return None
