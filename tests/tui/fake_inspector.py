"""An inspector of rows that are made up, for tests of the screens."""

import bisect
from collections.abc import Sequence
from typing import Any

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.inspector.inspect import InspectedRow, InspectedToken
from evenfall.engine.data.report.findings import DataCheck, Finding, Fix, Place, Statistics
from evenfall.engine.data.report.report import DataReport


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
        place=Place(file, number),
        tokens=tuple(tokens),
        starts=(0,),
        length=len(kept),
        trained=trained,
        raw=raw,
        problems=problems,
        left_out=left_out,
        bin=None if left_out else 0,
    )


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


FINDINGS = (
    Finding(
        code="end_untrained",
        level="red",
        count=1431,
        text="rows that do not learn to end the answer: 1,431",
        meaning="a model that learns no end of turn goes on for ever",
        places=tuple(Place("chats.jsonl", number) for number in (4, 1200)),
        fixes=(
            Fix("drop", "data.drop=[end_untrained]", "leave these rows out"),
            Fix("keep", "data.keep=[end_untrained]", "it is meant: say no more of it"),
        ),
    ),
    Finding(
        code="cut",
        level="amber",
        count=12,
        text="rows that are cut at data.max_length: 12",
        meaning="the end of the answer, and to stop after it, is not learnt from them",
        places=(Place("chats.jsonl", 4),),
        fixes=(
            Fix("drop", "data.over_long=drop", "leave out rows that are too long"),
            Fix("length", "data.max_length=512", "longer bins"),
        ),
    ),
    Finding(
        code="too_long",
        level="green",
        count=2,
        text="rows that are longer than data.max_length and left out: 2",
        meaning="",
        places=(Place("chats.jsonl", 9),),
        fixes=(Fix("cut", "data.over_long=cut", "keep them, their ends cut"),),
    ),
    Finding(code="duplicate", level="green", count=0, text="no duplicates"),
)
FIGURES = Statistics(
    percentiles={"p50": 70, "p90": 130, "p95": 256, "p99": 300, "longest": 412},
    recommended_length=320,
    over_recommended=9,
    trained_share=0.335,
    packing=0.991,
    tokens=1_200_345,
    bins=612,
    steps=77,
    seconds=754.0,
)


def checked(report: DataReport, findings: tuple[Finding, ...] = FINDINGS) -> DataCheck:
    return DataCheck(report=report, findings=findings, statistics=FIGURES, notes=("leaks were not looked for",))
