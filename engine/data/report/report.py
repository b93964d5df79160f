"""The account of the data: what was read, what became of every row, what an epoch holds.

    rows read = rows kept + rows held out + rows dropped (each under its reason)

Light: events carry it, and the screens draw from it.
"""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """Of one data set."""

    path: str
    format: str
    reason: str
    """What the format was told from."""
    rows: int
    """Rows read."""
    kept: int
    """Rows that are trained on."""
    held_out: int
    """Rows kept for evaluation."""
    dropped: dict[str, int]
    """Reason -> rows."""
    cut: int
    """Rows whose end was cut at max_length."""
    weight: float = 1.0
    """Passes over its kept rows in an epoch."""
    found: dict[str, int] = field(default_factory=dict)
    """What is wrong with rows that are not dropped (`problems.py`) -> rows."""
    confidence: str = "certain"
    """Of the format: `certain`, or `likely` where it was told from names that say little."""
    columns: dict[str, str] = field(default_factory=dict)
    """The format's key -> the column that it is read from."""
    unread: tuple[str, ...] = ()
    """Columns that nothing is read from."""
    only_first: bool = False
    """Whether there may be more rows, which data.max_rows leaves alone."""
    system: str = ""
    """The system text that every conversation begins with; empty: there is none, or not one for all."""
    roles: dict[str, int] = field(default_factory=dict)
    """Role -> messages of the rows that have something to learn, the most frequent first."""


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """Of all data sets together: of a stream, tokens and bins of its first window, and the rows that were
    read so far."""

    sources: list[SourceReport]
    eval_rows: int
    """Rows to evaluate on."""
    tokens: int
    """Tokens that are packed."""
    trained_tokens: int
    """Of these, tokens that are learnt."""
    bins: int
    """Bins that they are packed into."""
    max_length: int
    lengths: list[int]
    """Tokens of each example before it is cut (of a document whole), at most 2,000, evenly spaced in sorted
    order."""
    notes: dict[str, int]
    """What was done to rows that the chat template could not take as they are -> rows."""
    evaluation: SourceReport | None = None
    """The file of its own that is evaluated on (data.eval_path)."""
    share: float = 1.0
    """The part of all rows that were read: 1, or less of a stream."""

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources)

    @property
    def kept(self) -> int:
        return sum(source.kept for source in self.sources)

    @property
    def cut(self) -> int:
        return sum(source.cut for source in self.sources)

    @property
    def dropped(self) -> dict[str, int]:
        """Reason -> rows, the most frequent first."""
        total: Counter[str] = Counter()
        for source in self.sources:
            total.update(source.dropped)
        return dict(total.most_common())

    @property
    def format(self) -> str:
        """The formats, each once."""
        return " + ".join(dict.fromkeys(source.format for source in self.sources))

    @property
    def has_chats(self) -> bool:
        """Whether some rows are written by the chat template, which ends their turns."""
        return any(source.format not in ("text", "tokens", "segments") for source in self.sources)
