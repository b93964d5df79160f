"""From a slice of rows to a block of examples, with the account of every row.

This is all that is done to a row by itself, so it runs as well on another process, or is taken from a cache:
a block depends on nothing but its rows, the recipe and the tokenizer.

A row longer than `max_length` is cut at its end or dropped. A document is neither: continued
pre-training wants all of it, so it becomes pieces of `max_length` tokens. Each piece begins with
the last token of the one before, which predicts its second token: so all tokens but the document's
first are learnt, each once.

Light: no torch.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from ..config import DataConfig, DataFormat, DatasetConfig
from .columns import renamed
from .examples import Example, Examples
from .formats import Conversation, Document, Dropped, normalise
from .places import Places
from .problems import CUT
from .row import SourceRow
from .template import Encoded, Renderer

CUT_AWAY = "answer cut away by data.max_length"
TOO_LONG = "longer than data.max_length"
NOTHING_LEARNT = "nothing to learn after rendering"
_CHUNK = 64  # rows rendered and tokenised at once: what the tokenizer tells of each takes memory


@dataclass(frozen=True)
class Recipe:
    """What decides what a row becomes, besides the tokenizer."""

    format: DataFormat
    """Not `auto`."""
    columns: tuple[tuple[str, str], ...]
    drop_system: bool
    assistant_only_loss: bool
    assistant_turns: str
    max_length: int
    over_long: str

    @staticmethod
    def of(data: DataConfig, source: DatasetConfig, format: DataFormat) -> "Recipe":
        return Recipe(
            format, tuple(sorted(source.columns.items())), data.drop_system,
            data.assistant_only_loss, data.assistant_turns, data.max_length, data.over_long,
        )  # fmt: skip

    def renderer(self, tokenizer: object) -> Renderer:
        return Renderer(
            tokenizer,  # type: ignore[arg-type]
            self.assistant_only_loss,
            last_only=self.assistant_turns == "last",
        )


@dataclass
class Account:
    """What became of rows. `rows` = rows with examples + `dropped`."""

    rows: int = 0
    dropped: Places = field(default_factory=Places)
    """By reason."""
    found: Places = field(default_factory=Places)
    """Rows that are kept, by what is odd about them (`problems.py`)."""
    notes: Counter[str] = field(default_factory=Counter)
    """What was done to rows that the template could not take as they are -> rows."""

    def add(self, other: "Account") -> None:
        self.rows += other.rows
        self.dropped.add(other.dropped)
        self.found.add(other.found)
        self.notes.update(other.notes)


@dataclass(frozen=True)
class Block:
    examples: Examples
    account: Account


def make_block(
    rows: Sequence[SourceRow],
    recipe: Recipe,
    renderer: Renderer,
    tell: Callable[[int], None] = lambda done: None,
) -> Block:
    """Render, encode and cut rows.

    Args:
        tell: is told how many rows are done; what it raises ends the work.

    Raises:
        DataError: a row does not fit the format, or the template cannot render it.
    """
    account = Account(rows=len(rows))
    columns = dict(recipe.columns)
    kept: list[list[Example]] = []
    for start in range(0, len(rows), _CHUNK):
        tell(start)
        normal: list[Conversation | Document] = []
        renderings, counts = [], []
        for row in rows[start : start + _CHUNK]:
            one = normalise(renamed(row, columns), recipe.format, drop_system=recipe.drop_system)
            if isinstance(one, Dropped):
                account.dropped.note(one.reason, row)
                continue
            one = replace(one, source=row)
            made = renderer.render(one)
            normal.append(one)
            renderings += made
            counts.append(len(made))
        encoded = iter(renderer.encode(renderings))
        for one, count in zip(normal, counts, strict=True):
            examples = _fit_length(one, list(itertools.islice(encoded, count)), recipe, account)
            if examples:
                kept.append(examples)
    account.notes.update(renderer.take_notes())
    return Block(Examples.of_rows(kept), account)


def _fit_length(
    normal: Conversation | Document, encoded: list[Encoded], recipe: Recipe, account: Account
) -> list[Example]:
    """The examples of a row within max_length; none, and the reason counted, where none is left."""
    longest = recipe.max_length
    if isinstance(normal, Document):
        pieces = [piece for one in encoded for piece in _pieces(one, longest)]
        if not pieces:
            account.dropped.note(NOTHING_LEARNT, normal.source)
        return pieces
    long = any(len(one.ids) > longest for one in encoded)
    if long and recipe.over_long == "drop":
        account.dropped.note(TOO_LONG, normal.source)
        return []
    examples = [_example(one, 0, longest) for one in encoded if one.trained[:longest].any()]
    if not examples:
        account.dropped.note(CUT_AWAY if long else NOTHING_LEARNT, normal.source)
    elif long:
        account.found.note(CUT, normal.source)
    return examples


def _pieces(one: Encoded, longest: int) -> list[Example]:
    starts = range(0, len(one.ids) - 1, longest - 1)
    return [_example(one, start, start + longest) for start in starts]


def _example(one: Encoded, start: int, end: int) -> Example:
    trained = one.trained[start:end].copy()
    trained[0] = False
    return Example(one.ids[start:end], trained, one.source.number, one.source.file)
