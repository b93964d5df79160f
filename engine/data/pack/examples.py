"""What is trained on, as columns: millions of examples in a few arrays.

An object for each example would cost several times its tokens; so the tokens of all lie end to end, and an
`Example` is a view that is made when it is asked for. The columns are also what a cache file holds.

Light: numpy alone, since the processes that tokenise ahead import it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

ROWS_OF_A_FILE = 1 << 40
"""More than a file has."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """What is trained on as one document."""

    ids: np.ndarray
    """Token ids, int32 [tokens]."""
    trained: np.ndarray
    """Which tokens are learnt, bool [tokens]; never the first."""
    number: int
    """The row (the line, for JSON Lines) of its file that it comes from."""
    file: str = ""
    """That file, as an error names it."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        return int(self.trained.sum())


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples(Sequence[Example]):
    """E examples of R rows, T tokens together."""

    ids: np.ndarray
    """int32 [T]."""
    trained: np.ndarray
    """bool [T]."""
    lengths: np.ndarray
    """Tokens of each example, int64 [E]."""
    numbers: np.ndarray
    """`Example.number` of each, int64 [E]."""
    rows: np.ndarray
    """Which row each is of, int64 [E], 0 to R - 1, ascending: a row can make several."""
    files: tuple[str, ...]
    file: np.ndarray
    """Each one's place in `files`, int32 [E]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", np.cumsum(self.lengths, dtype=np.int64))

    @staticmethod
    def of(examples: Iterable[Example]) -> "Examples":
        """The columns of examples, each of which is a row."""
        return Examples.of_rows([one] for one in examples)

    @staticmethod
    def of_rows(rows: Iterable[Sequence[Example]]) -> "Examples":
        """The columns of the examples of each row."""
        whole: list[Example] = []
        places: list[int] = []
        for place, examples in enumerate(rows):
            whole += examples
            places += [place] * len(examples)
        files: dict[str, int] = {}
        file = [files.setdefault(one.file, len(files)) for one in whole]
        return Examples(
            ids=np.concatenate([one.ids for one in whole]).astype(np.int32) if whole else _empty(np.int32),
            trained=np.concatenate([one.trained for one in whole]) if whole else _empty(np.bool_),
            lengths=np.array([len(one) for one in whole], np.int64),
            numbers=np.array([one.number for one in whole], np.int64),
            rows=np.array(places, np.int64),
            files=tuple(files),
            file=np.array(file, np.int32),
        )  # fmt: skip

    @staticmethod
    def joined(parts: Sequence["Examples"]) -> "Examples":
        """All of them, one after the other; the rows of each follow those of the one before."""
        if len(parts) == 1:
            return parts[0]
        files: dict[str, int] = {}
        file, rows, before = [], [], 0
        for part in parts:
            new = [files.setdefault(name, len(files)) for name in part.files]
            file.append(np.array(new, np.int32)[part.file])
            rows.append(part.rows + before)
            before += part.row_count
        return Examples(
            ids=_joined([part.ids for part in parts], np.int32),
            trained=_joined([part.trained for part in parts], np.bool_),
            lengths=_joined([part.lengths for part in parts], np.int64),
            numbers=_joined([part.numbers for part in parts], np.int64),
            rows=_joined(rows, np.int64),
            files=tuple(files),
            file=_joined(file, np.int32),
        )

    def of_these_rows(self, rows: np.ndarray) -> "Examples":
        """The examples of some rows, in the order given; a row may be given more than once.

        Args:
            rows: row numbers, int64 [N], each 0 to R - 1.
        """
        firsts = np.searchsorted(self.rows, rows, "left")
        counts = np.searchsorted(self.rows, rows, "right") - firsts
        chosen = ranges(firsts, counts)
        starts, lengths = self._starts[chosen], self.lengths[chosen]
        tokens = ranges(starts, lengths)
        return Examples(
            ids=self.ids[tokens], trained=self.trained[tokens], lengths=lengths, numbers=self.numbers[chosen],
            rows=np.repeat(np.arange(len(rows), dtype=np.int64), counts), files=self.files, file=self.file[chosen],
        )  # fmt: skip

    @property
    def row_count(self) -> int:
        return int(self.rows[-1]) + 1 if len(self.rows) else 0

    @property
    def tokens(self) -> int:
        return len(self.ids)

    @property
    def trained_tokens(self) -> int:
        return int(np.count_nonzero(self.trained))

    @property
    def _starts(self) -> np.ndarray:
        return self._ends - self.lengths  # type: ignore[attr-defined]

    @property
    def places(self) -> np.ndarray:
        """Which row of which file each is of, as one number that sorts by file, then row, int64 [E]."""
        return self.file.astype(np.int64) * ROWS_OF_A_FILE + self.numbers

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        end = self._ends[index]  # type: ignore[attr-defined]
        start = end - self.lengths[index]
        return Example(
            ids=self.ids[start:end],
            trained=self.trained[start:end],
            number=int(self.numbers[index]),
            file=self.files[self.file[index]],
        )


def _empty(kind: type) -> np.ndarray:
    return np.zeros(0, kind)


def _joined(parts: list[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate(parts) if parts else _empty(kind)


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`starts[i]`, `starts[i] + 1`, ..., `counts[i]` of them, for each i, one after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
