"""Rows counted under a name, the first of them with their places: an account that stays small over millions of rows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..row import SourceRow

_MOST = 100


@dataclass
class Places:
    """How many rows there are of each kind, and where the first hundred of each are."""

    counts: Counter[str] = field(default_factory=Counter)
    """Kind -> rows."""
    first: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """Kind -> (file, row or line) of each."""

    def note(self, kind: str, row: SourceRow) -> None:
        self.note_place(kind, row.file, row.number)

    def note_place(self, kind: str, file: str, number: int) -> None:
        self.counts[kind] += 1
        places = self.first.setdefault(kind, [])
        if len(places) < _MOST:
            places.append((file, number))

    def add(self, other: "Places") -> None:
        for kind in other.counts:
            self.add_kind(kind, other, kind)

    def add_kind(self, kind: str, other: "Places", of: str) -> None:
        """Count the rows that the other has of one kind under `kind`."""
        self.counts[kind] += other.counts[of]
        own = self.first.setdefault(kind, [])
        own += other.first.get(of, [])[: _MOST - len(own)]

    def ranked(self) -> Mapping[str, int]:
        """Kind -> rows, the most frequent first."""
        return dict(self.counts.most_common())

    @property
    def total(self) -> int:
        return self.counts.total()
