"""An inspector of rows that are made up, for tests of the screens."""

import bisect
from collections.abc import Sequence
from typing import Any

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.findings import Place
from evenfall.engine.data.inspect import InspectedRow, InspectedToken


def inspected(
    number: int,
    tokens: Sequence[InspectedToken],
    raw: str = "{}",
    problems: tuple[str, ...] = (),
    left_out: str = "",
    file: str = "chats.jsonl",
) -> InspectedRow:
    """A row of one document."""
    kept = [token for token in tokens if token.fate != "cut"]
    trained = sum(token.fate == "trained" for token in kept)
    return InspectedRow(
        Place(file, number), tuple(tokens), (0,), len(kept), trained, raw, problems, left_out,
        None if left_out else 0,
    )  # fmt: skip


class FakeInspector:
    """As `Inspector`, of rows of one file."""

    def __init__(self, rows: Sequence[InspectedRow]) -> None:
        self.rows = {row.place: row for row in rows}
        self.places = [row.place for row in rows if not row.left_out]

    def index_at(self, place: Place) -> int:
        return bisect.bisect_left([one.number for one in self.places], place.number)

    def look(self, place: Place, tell: Any = None) -> InspectedRow:
        if place not in self.rows:
            raise DataError(f"{place.file}: there is no row {place.number}")
        return self.rows[place]

    def find(self, text: str, start: Place, back: bool = False, tell: Any = None):
        return self._next(start, back, lambda row: text.casefold() in row.raw.casefold())

    def next_problem(self, start: Place, check: object = None, tell: Any = None):
        return self._next(start, False, lambda row: row.problems)

    def _next(self, start, back, wanted):
        places = list(self.rows)
        at = places.index(start)
        round_ = [*places[at + 1 :], *places[: at + 1]]
        if back:
            round_ = [*places[:at][::-1], *places[at:][::-1]]
        return next((place for place in round_ if wanted(self.rows[place])), None)
