"""What a check of the data found, and what can be done about it.

`check.py` makes it; the command line, the screens and a run's events show it. Light: no numpy, no torch.
"""

from dataclasses import dataclass, field, replace

from ..problems.codes import Level
from .report import DataReport


@dataclass(frozen=True)
class Place:
    """A row of a file."""

    file: str
    number: int
    """The row; for JSON Lines the line."""


@dataclass(frozen=True)
class Fix:
    """Something that settles a finding."""

    verb: str
    """`drop`, `cut`, `keep`, or `length` (another data.max_length)."""
    override: str
    """The setting, as `RunConfig.with_overrides` takes it."""
    meaning: str
    """What comes of it, in words."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for, found or not."""

    code: str
    level: Level
    """Green: it is not there, or is settled by data.drop or data.keep."""
    count: int
    """Rows; 0 where it is not there. For the tokenizer 1."""
    text: str
    """What was found, in words, with the number of rows."""
    meaning: str = ""
    """What comes of it; empty where it is not there."""
    places: tuple[Place, ...] = ()
    """The first of the rows."""
    fixes: tuple[Fix, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of what is trained on; of a stream, of its first window."""

    percentiles: dict[str, int]
    """`p50`, `p90`, `p95`, `p99`, `longest` -> tokens of an example before it is cut."""
    recommended_length: int
    """A data.max_length that holds 95 of 100 rows, rounded up; at most the model's context."""
    over_recommended: int
    """Examples that are longer than that."""
    trained_share: float
    """Of the tokens, those that are learnt."""
    packing: float
    """Of the bins' room, what is filled."""
    tokens: int
    """Of an epoch."""
    bins: int
    """Of an epoch."""
    steps: int
    """Optimiser steps of the run."""
    seconds: float | None = None
    """How long the run will take, by the pace of the last run of this model here; None: none is known."""
    context: int | None = None
    """The positions that the model was made for; None: not known."""
    documents: bool = False
    """Whether all of them are documents, which become pieces of data.max_length."""


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    report: DataReport
    findings: tuple[Finding, ...]
    """The gravest first."""
    statistics: Statistics
    drop_all: str = ""
    """The setting that leaves out all rows found that can be left out, but for those that are merely alike, which
    somebody should look at; empty where that are fewer than two kinds."""
    notes: tuple[str, ...] = field(default=())
    """What was not looked at, and why."""

    @property
    def level(self) -> Level:
        """That of the gravest."""
        return self.findings[0].level if self.findings else "green"

    def problems(self, places: int) -> tuple[Finding, ...]:
        """What was found, settled or not, each with at most so many places."""
        return tuple(replace(one, places=one.places[:places]) for one in self.findings if one.count)

    def of_level(self, level: Level) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == level]
