"""From a slice of rows to a block of examples, with the account of every row.

This is all that is done to a row by itself, so it runs as well on another process, or is taken from a cache:
a block depends on nothing but its rows, the settings and the tokenizer. What is wrong with a row is told beside it and
decided on later (`dropping.py`): so what `data.drop` says changes nothing that was tokenised.

A row longer than `max_length` is cut at its end or dropped. A document is neither: continued
pre-training wants all of it, so it becomes pieces of `max_length` tokens. Each piece begins with
the last token of the one before, which predicts its second token: so all tokens but the document's
first are learnt, each once.

Light: no torch.
"""

import datetime
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...config.run_config import DataConfig, DataFormat, DatasetConfig
from ..errors import DataError
from ..formats.normal import Conversation, Document, Dropped, Learnable, Message
from ..formats.normalise import normalise
from ..pack.examples import Example, Examples
from ..problems.codes import BAD, CUT, PROMPT_DIFFERS, in_words
from ..problems.rows import BIT, RowProblems
from ..render.mask import Encoded
from ..render.template import Renderer
from ..report.places import Places
from ..row import SourceRow

CUT_AWAY = "answer cut away by data.max_length"
TOO_LONG = "longer than data.max_length"
NOTHING_LEARNT = "nothing to learn after rendering"
_ERRORS = 20  # as many messages are kept
_SYSTEMS = 2  # system texts told apart: whether there is one for all rows
_CHUNK = 64  # rows rendered and tokenised at once: what the tokenizer tells of each takes memory


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """What decides what a row becomes, besides the tokenizer."""

    format: DataFormat
    """Not `auto`."""
    columns: tuple[tuple[str, str], ...]
    drop_system: bool
    assistant_only_loss: bool
    assistant_turns: str
    max_length: int
    over_long: str
    date: datetime.date | None
    """The day that a chat template which writes one is given."""

    @staticmethod
    def of(data: DataConfig, source: DatasetConfig, format: DataFormat) -> "BlockSettings":
        return BlockSettings(
            format=format,
            columns=tuple(sorted(source.columns.items())),
            drop_system=data.drop_system,
            assistant_only_loss=data.assistant_only_loss,
            assistant_turns=data.assistant_turns,
            max_length=data.max_length,
            over_long=data.over_long,
            date=data.date,
        )

    def renderer(self, tokenizer: object) -> Renderer:
        return Renderer(
            tokenizer,  # type: ignore[arg-type]
            self.assistant_only_loss,
            last_only=self.assistant_turns == "last",
            date=self.date,
        )


@dataclass(kw_only=True)
class Account:
    """What became of rows. `rows` = rows with examples + `dropped`."""

    rows: int = 0
    dropped: Places = field(default_factory=Places)
    """By reason."""
    found: Places = field(default_factory=Places)
    """Rows that are kept, by what is odd about them (`problems.py`)."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was done to rows that the template could not take as they are -> rows."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Tokens of an example before it is cut or dropped for its length (of a document whole) -> examples."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Why the first of the rows that cannot be read or rendered cannot: the file, what follows its name."""
    roles: Counter[str] = field(default_factory=Counter)
    """Role -> messages of the rows with examples."""
    systems: Counter[str] = field(default_factory=Counter)
    """System text that a conversation begins with (none: empty) -> such rows; no more than a few texts are kept."""

    def add(self, other: "Account") -> None:
        self.rows += other.rows
        self.dropped.add(other.dropped)
        self.found.add(other.found)
        self.notes.update(other.notes)
        self.lengths.update(other.lengths)
        self.roles.update(other.roles)
        self._note_systems(other.systems)
        self.errors += other.errors[: _ERRORS - len(self.errors)]

    def note_messages(self, messages: Sequence[Message]) -> None:
        self.roles.update(message["role"] for message in messages)
        leading = itertools.takewhile(lambda message: message["role"] == "system", messages)
        text = "\n\n".join(message["content"] for message in leading)
        self._note_systems({text.encode(errors="replace").decode(): 1})  # half of a surrogate pair cannot be kept

    def _note_systems(self, found: Mapping[str, int]) -> None:
        for text, rows in found.items():
            if text in self.systems or len(self.systems) < _SYSTEMS:
                self.systems[text] += rows

    def note_bad(self, row: SourceRow, error: str) -> None:
        self.dropped.note(in_words(BAD), row)
        if len(self.errors) < _ERRORS:
            self.errors.append((row.file, error.removeprefix(row.file)))


@dataclass(frozen=True)
class Block:
    examples: Examples
    account: Account
    problems: np.ndarray
    """What is wrong with each row that has examples (`row_problems.BIT`), uint16 [R]."""


def make_block(
    rows: Sequence[SourceRow],
    settings: BlockSettings,
    renderer: Renderer,
    tell: Callable[[int], None] = lambda done: None,
) -> Block:
    """Render, encode and cut rows. Those that do not fit the format, or that the template cannot
    render, are left out and counted; `Account.errors` says why.

    Args:
        tell: is told how many rows are done; what it raises ends the work.
    """
    account = Account(rows=len(rows))
    columns = dict(settings.columns)
    look = RowProblems(renderer.tokenizer)
    kept: list[list[Example]] = []
    problems: list[int] = []
    for start in range(0, len(rows), _CHUNK):
        tell(start)
        normal: list[Learnable] = []
        renderings, counts = [], []
        for row in rows[start : start + _CHUNK]:
            if row.broken:
                account.note_bad(row, row.broken)
                continue
            try:
                one = normalise(row, settings.format, columns, drop_system=settings.drop_system)
                if isinstance(one, Dropped):
                    account.dropped.note(one.reason, row)
                    continue
                made = renderer.render(one)
            except DataError as error:
                account.note_bad(row, str(error))
                continue
            normal.append(one)
            renderings += made
            counts.append(len(made))
        encoded = iter(renderer.encode(renderings))
        for one, count in zip(normal, counts, strict=True):
            whole = list(itertools.islice(encoded, count))
            account.lengths.update(len(example.ids) for example in whole)
            examples, cut = fit_length(one, whole, settings, account)
            if examples:
                kept.append(examples)
                differs = any(example.prompt_differs for example in whole)
                problems.append(
                    look.of(one, whole) | (BIT[CUT] if cut else 0) | (BIT[PROMPT_DIFFERS] if differs else 0)
                )
                if isinstance(one, Conversation):
                    account.note_messages(one.messages)
    account.notes.update(renderer.take_notes())
    block = Block(Examples.of_rows(kept), account, np.array(problems, np.uint16))
    account.found = found_in(block)
    return block


def found_in(block: Block) -> Places:
    """The rows of a block by what is wrong with them."""
    found = Places()
    for code, bit in BIT.items():
        note_rows(found, code, block.examples, (block.problems & bit) != 0)
    return found


def note_rows(places: Places, kind: str, examples: Examples, chosen: np.ndarray) -> None:
    """Count some of the rows under a kind.

    Args:
        chosen: which rows, bool [R].
    """
    firsts = np.searchsorted(examples.rows, np.flatnonzero(chosen))
    for first in firsts.tolist():
        places.note_place(kind, examples.files[examples.file[first]], int(examples.numbers[first]))


def fit_length(
    normal: Learnable, encoded: list[Encoded], settings: BlockSettings, account: Account
) -> tuple[list[Example], bool]:
    """The examples of a row within max_length (none, and the reason counted, where none is left), and
    whether they are cut."""
    longest = settings.max_length
    if isinstance(normal, Document):
        pieces = [piece for one in encoded for piece in _pieces(one, longest)]
        if not pieces:
            account.dropped.note(NOTHING_LEARNT, normal.source)
        return pieces, False
    long = any(len(one.ids) > longest for one in encoded)
    if long and settings.over_long == "drop":
        account.dropped.note(TOO_LONG, normal.source)
        return [], False
    examples = [_example(one, 0, longest) for one in encoded if one.trained[:longest].any()]
    if not examples:
        account.dropped.note(CUT_AWAY if long else NOTHING_LEARNT, normal.source)
    return examples, long


def _pieces(one: Encoded, longest: int) -> list[Example]:
    starts = range(0, len(one.ids) - 1, longest - 1)
    return [_example(one, start, start + longest) for start in starts]


def _example(one: Encoded, start: int, end: int) -> Example:
    trained = one.trained[start:end].copy()
    trained[0] = False
    return Example(ids=one.ids[start:end], trained=trained, number=one.source.number, file=one.source.file)
