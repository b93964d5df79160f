"""Any row of the data, as the model will see it: the token inspector.

What is trained on is not made anew for display. A row's tokens and what is learnt of them are taken out of the very
batch that the loop gets, so a fault anywhere before it (a mask, a cut, a packing) shows. Only what is in no batch is
rendered again from the file: the tail that `max_length` cuts off, and rows that are left out.

Not light: it makes batches, so it is imported where a job runs.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...config.run_config import RunConfig
from ..errors import DataError
from ..formats.normal import Document, Dropped, Normal
from ..formats.normalise import normalise
from ..pack.examples import ROWS_OF_A_FILE, Example, Examples
from ..pack.windows import Bins
from ..prepare.block import Account, fit_length, make_block
from ..prepare.prepare import is_streamed
from ..prepare.source import Source
from ..problems.codes import BAD, CUT, DROP_CODES, DUPLICATE, LEAK, in_words
from ..problems.duplicates import Seen, row_hashes
from ..problems.rows import BIT, RowProblems
from ..render.mask import Encoded
from ..render.special import special_ids
from ..report.findings import DataCheck, Place
from ..row import SourceRow
from .reread import Reread, TellRows, all_rows, silent
from .token_text import as_text, raw_text, token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Fate = Literal["trained", "read", "cut"]

_MOST_TOKENS = 20_000
"""Tokens taken apart of a row: a book is one row, and nobody reads all of it here."""
_ROWS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class InspectedToken:
    id: int
    text: str
    """Empty where its character ends in a later token."""
    fate: Fate
    """`cut`: in no batch."""
    special: bool


@dataclass(frozen=True, kw_only=True)
class InspectedRow:
    place: Place
    tokens: tuple[InspectedToken, ...]
    """At most the first 20,000."""
    starts: tuple[int, ...]
    """Where in `tokens` its documents begin: a row can make several."""
    length: int
    """Tokens that are in bins."""
    trained: int
    """Of these, tokens that are learnt."""
    raw: str
    """The row as it stands in the file."""
    problems: tuple[str, ...]
    """Codes of `problems.py`."""
    left_out: str
    """Why it is not trained on; empty where it is."""
    bin: int | None
    """That of its first document; None: it is in no bin."""


@dataclass
class _Piece:
    """A document of a row."""

    ids: np.ndarray
    fates: list[Fate]


class _Places(Sequence[Place]):
    """The rows of examples, each once, in the order of the file: two numbers a row, whatever their count."""

    def __init__(self, examples: Examples) -> None:
        self._files = examples.files
        self._keys, self.firsts = np.unique(examples.places, return_index=True)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        file, number = divmod(int(self._keys[index]), ROWS_OF_A_FILE)
        return Place(self._files[file], number)

    def index_at(self, place: Place) -> int:
        """How many rows come before a place, whether it is one of them or not."""
        if place.file not in self._files:
            return len(self)
        key = self._files.index(place.file) * ROWS_OF_A_FILE + place.number
        return int(np.searchsorted(self._keys, key))

    def __contains__(self, place: object) -> bool:
        if not isinstance(place, Place):
            return False
        at = self.index_at(place)
        return at < len(self) and self[at] == place


class Inspector:
    """Looks at rows. Its methods may read a file for a while, so they belong in a job; one at a time is let in.

    Args:
        bins: of the first window.
        tested: the file of its own that is evaluated on: its rows can be looked at too.
    """

    def __init__(
        self,
        config: RunConfig,
        tokenizer: "PreTrainedTokenizerBase",
        sources: Sequence[Source],
        bins: Bins,
        tested: Source | None = None,
    ) -> None:
        self._data, self._sources, self._bins = config.data, tuple(sources), bins
        self._tested = tested
        self._all_sources = (*self._sources, tested) if tested else self._sources
        self._tokenizer = tokenizer
        self._renderer = self._sources[0].settings.renderer(tokenizer)
        self._look = RowProblems(tokenizer)
        self._special = special_ids(tokenizer)
        self._rereads = [Reread(source) for source in self._all_sources]
        self._known = _Places(bins.examples)
        self._bin_of = np.empty(len(bins.examples), np.int64)
        places = np.fromiter(itertools.chain.from_iterable(bins.bins), np.int64)
        self._bin_of[places] = np.repeat(np.arange(len(bins)), [len(one) for one in bins.bins])
        self._hashes: Seen | None = None
        self._one_at_a_time = threading.Lock()

    @property
    def places(self) -> Sequence[Place]:
        """The rows that are trained on, each once, in the order of the file."""
        return self._known

    def index_at(self, place: Place) -> int:
        """How many of `places` come before a row, whether it is trained on or not."""
        return self._known.index_at(place)

    # One row

    def look(self, place: Place, tell: TellRows = silent) -> InspectedRow:
        """Take a row apart.

        Raises:
            DataError: there is no such row.
        """
        with self._one_at_a_time:
            inside = place in self._known
            try:
                source, row = self._row(place, tell)
            except DataError as error:
                if not inside:
                    raise
                return self._trained_on(place, None, None, str(error))
            if inside:
                return self._trained_on(place, source, row, raw_text(row))
            return self._left_out(place, source, row)

    def _row(self, place: Place, tell: TellRows) -> tuple[Source, SourceRow]:
        for reread in self._rereads:
            if place.file.startswith(reread.source.config.path.rstrip("/")):
                row = reread.row(place, tell)
                if row is not None:
                    return reread.source, row
        raise DataError(f"{place.file}: there is no row {place.number}")

    def _trained_on(self, place: Place, source: Source | None, row: SourceRow | None, raw: str) -> InspectedRow:
        first = int(self._known.firsts[self._known.index_at(place)])
        rows = self._bins.examples.rows
        last = int(np.searchsorted(rows, rows[first], "right"))
        pieces = list(self._from_batches(first, last))
        length = int(self._bins.examples.lengths[first:last].sum())
        trained = sum(self._bins.examples[at].trained_tokens for at in range(first, last))
        problems: tuple[str, ...] = ()
        if source is not None and row is not None:
            pieces, problems = self._with_tails(pieces, source, row)
        return self._inspected(place, pieces, length, trained, raw, problems, "", int(self._bin_of[first]))

    def _from_batches(self, first: int, last: int) -> Iterator[_Piece]:
        """Documents as they lie in their batches, as many as are shown."""
        shown = 0
        for example in range(first, last):
            if shown >= _MOST_TOKENS:
                return
            number = int(self._bin_of[example])
            batch = self._bins.batch([number])
            at = self._bins.bins[number].index(example)
            start, end = batch.cu_seqlens[at : at + 2].tolist()
            learnt = np.zeros(batch.tokens, bool)
            learnt[batch.label_positions.numpy() + 1] = True
            ids = batch.input_ids[0, start:end].numpy()
            fates: list[Fate] = ["trained" if one else "read" for one in learnt[start:end].tolist()]
            yield _Piece(ids, fates)
            shown += len(ids)

    def _with_tails(self, pieces: list[_Piece], source: Source, row: SourceRow) -> tuple[list[_Piece], tuple[str, ...]]:
        """The documents with what was cut off them, and what is wrong with the row."""
        try:
            normal = _normal(source, row)
            if isinstance(normal, Dropped):
                return pieces, ()
            if isinstance(normal, Document):  # in pieces, never cut; a book would take minutes
                return pieces, _codes(self._look.of(normal, ()))
            whole = self._renderer.encode(self._renderer.render(normal))
        except DataError:  # the file is another one by now
            return pieces, ()
        bits = self._look.of(normal, whole)
        longest = source.settings.max_length
        if any(len(one.ids) > longest for one in whole):
            bits |= BIT[CUT]
        return _joined(pieces, whole, longest), _codes(bits)

    def _left_out(self, place: Place, source: Source, row: SourceRow) -> InspectedRow:
        raw = raw_text(row)
        if row.broken:
            return self._inspected(place, [], 0, 0, raw, (BAD,), row.broken, None)
        try:
            normal = _normal(source, row)
            if isinstance(normal, Dropped):
                return self._inspected(place, [], 0, 0, raw, (), normal.reason, None)
            whole = self._renderer.encode(self._renderer.render(normal))
        except DataError as error:
            return self._inspected(place, [], 0, 0, raw, (BAD,), str(error), None)
        account = Account()
        examples, cut = fit_length(normal, whole, source.settings, account)
        bits = self._look.of(normal, whole) | (BIT[CUT] if cut and examples else 0)
        reason = next(iter(account.dropped.counts), "") or self._why_out(source, examples, bits)
        pieces = [_Piece(one.ids, ["cut"] * len(one.ids)) for one in whole]
        return self._inspected(place, pieces, 0, 0, raw, _codes(bits), reason, None)

    def _why_out(self, source: Source, examples: list[Example], bits: int) -> str:
        """Why a row that could be trained on is not: of some reasons only what can be is known."""
        data = self._data
        if source is self._tested:
            return "evaluated on (data.eval_path)"
        for code in DROP_CODES:
            if code in data.drop and bits & BIT.get(code, 0):
                return in_words(code)
        if DUPLICATE in data.drop and self._is_trained_on(examples):
            return in_words(DUPLICATE)
        possible = []
        if data.eval_fraction and data.eval_path is None:
            possible.append("held out for evaluation")
        if LEAK in data.drop:
            possible.append(in_words(LEAK))
        if source.config.weight < 1:
            possible.append(f"not chosen (weight {source.config.weight:g})")
        if is_streamed(data, sum(one.size for one in self._sources)):
            possible.append("beyond the first window")
        return " or ".join(possible) or "not among the rows that were read"

    def _is_trained_on(self, examples: list[Example]) -> bool:
        if self._hashes is None:
            self._hashes = Seen(row_hashes(self._bins.examples))
        return bool(self._hashes.has(row_hashes(Examples.of_rows([examples])))[0])

    def _inspected(
        self,
        place: Place,
        pieces: list[_Piece],
        length: int,
        trained: int,
        raw: str,
        problems: tuple[str, ...],
        left_out: str,
        number: int | None,
    ) -> InspectedRow:
        tokens: list[InspectedToken] = []
        starts: list[int] = []
        for piece in pieces:
            room = _MOST_TOKENS - len(tokens)
            if room <= 0:
                break
            starts.append(len(tokens))
            ids = piece.ids[:room].tolist()
            texts = token_texts(self._tokenizer, ids)
            tokens += [
                InspectedToken(id=one, text=text, fate=fate, special=one in self._special)
                for one, text, fate in zip(ids, texts, piece.fates, strict=False)
            ]
        return InspectedRow(
            place=place,
            tokens=tuple(tokens),
            starts=tuple(starts),
            length=length,
            trained=trained,
            raw=raw,
            problems=problems,
            left_out=left_out,
            bin=number,
        )

    # Other rows

    def find(self, text: str, start: Place | None, back: bool = False, tell: TellRows = silent) -> Place | None:
        """The next row (or the one before) whose raw text holds the text, whatever its case; wrapping round.

        Raises:
            DataError: the file cannot be read.
        """
        wanted = text.casefold()
        before = after = None
        passed = start is None
        for _, row in all_rows(self._all_sources, tell):
            place = Place(row.file, row.number)
            if place == start:
                passed = True
                if back and before is not None:
                    return before
                continue
            if wanted not in as_text(row).casefold():
                continue
            if passed and not back:
                return place
            if passed:
                after = place
            elif back or before is None:
                before = place
        found = after or before
        if found is None and start is not None and self._holds(start, wanted, tell):
            return start
        return found

    def _holds(self, place: Place, wanted: str, tell: TellRows) -> bool:
        with self._one_at_a_time:
            return wanted in as_text(self._row(place, tell)[1]).casefold()

    def next_problem(
        self, start: Place | None, check: DataCheck | None = None, tell: TellRows = silent
    ) -> Place | None:
        """The next row with which something is wrong, by itself or in what a check found; wrapping round.

        Raises:
            DataError: the file cannot be read.
        """
        known = {place for one in check.findings for place in one.places} if check else set()
        passed, first = start is None, None
        rows = all_rows(self._all_sources, tell)
        while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            odd = known | self._odd(chunk)
            for _, row in chunk:
                place = Place(row.file, row.number)
                if place in odd:
                    if passed and place != start:
                        return place
                    first = first or place
                passed = passed or place == start
        return first

    def _odd(self, chunk: Sequence[tuple[Source, SourceRow]]) -> set[Place]:
        odd = set()
        for source, group in itertools.groupby(chunk, lambda one: one[0]):
            rows = [row for _, row in group]
            block = make_block(rows, source.settings, self._renderer)
            found = block.account.found.first.values()
            bad = block.account.dropped.first.get(in_words(BAD), [])
            odd |= {Place(*place) for places in (*found, bad) for place in places}
        return odd


def _normal(source: Source, row: SourceRow) -> Normal:
    settings = source.settings
    return normalise(row, settings.format, dict(settings.columns), drop_system=settings.drop_system)


def _joined(pieces: list[_Piece], whole: Sequence[Encoded], longest: int) -> list[_Piece]:
    """All documents of a row: those of the batches, each with its tail, and those of which nothing is left."""
    batches = iter(pieces)
    joined: list[_Piece] = []
    for one in whole:
        kept = next(batches, None) if one.trained[:longest].any() else None
        if kept is None:
            joined.append(_Piece(one.ids, ["cut"] * len(one.ids)))
            continue
        if not np.array_equal(kept.ids, one.ids[: len(kept.ids)]):
            return pieces  # the file is another one by now
        tail = one.ids[len(kept.ids) :]
        cut: list[Fate] = ["cut"] * len(tail)
        joined.append(_Piece(np.concatenate([kept.ids, tail]), kept.fates + cut))
    return joined


def _codes(bits: int) -> tuple[str, ...]:
    return tuple(code for code, bit in BIT.items() if bits & bit)
