"""What an epoch is made of: windows of packed bins, one after the other.

A data set that fits into memory is one window: packed best-fit from all of its rows, shuffled as a whole. A larger
one is a stream (`stream.py`) of windows, each packed and shuffled by itself, so that training begins with the first
and holds a few. Either way the loop asks for windows by epoch and number, and gets the same bins for
the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .examples import Example, Examples
from .packing import pack

if TYPE_CHECKING:
    from .batch import Batch


@dataclass(frozen=True)
class Bins:
    """Examples and how they are packed."""

    examples: Examples
    bins: tuple[tuple[int, ...], ...]
    """Indices of examples; each is in one bin."""

    @staticmethod
    def packed(examples: Examples, max_length: int) -> "Bins":
        """All examples in bins of `max_length` tokens, best-fit."""
        return Bins(examples, tuple(map(tuple, pack(examples.lengths.tolist(), max_length))))

    def __len__(self) -> int:
        return len(self.bins)

    def order(self, epoch: int, seed: int, shuffle: bool, window: int = 0) -> list[int]:
        """The order of the bins in an epoch (from 0): the same for the same numbers on every
        machine, whatever other randomness a process uses."""
        if not shuffle:
            return list(range(len(self.bins)))
        stream = (epoch, window) if window else (epoch,)
        return np.argsort(random_keys(len(self.bins), seed, *stream), kind="stable").tolist()

    def rows(self, index: int) -> list[Example]:
        """The examples of a bin."""
        return [self.examples[place] for place in self.bins[index]]

    def batch(self, indices: Sequence[int]) -> "Batch":
        """These bins as one batch, documents end to end."""
        from .batch import collate  # torch, which nothing before the first batch needs

        return collate([example for index in indices for example in self.rows(index)])


class Windows(Protocol):
    """An epoch's bins, a window at a time."""

    @property
    def bins_in_epoch(self) -> int:
        """Of a stream, an estimate from its first window, which is the same every time."""
        ...

    def window(self, epoch: int, index: int) -> Bins | None:
        """A window of an epoch (both from 0); None: the epoch has no more. A stream waits for it.

        Raises:
            DataError: a row in it cannot be read or rendered.
        """
        ...

    def ready(self, epoch: int, index: int) -> bool:
        """Whether `window` would answer at once."""
        ...

    def lengths(self) -> np.ndarray:
        """Tokens of each example that is held at the moment."""
        ...

    def close(self) -> None:
        """Stop what makes windows ahead."""
        ...


@dataclass(frozen=True)
class OneWindow:
    """A data set that is held whole."""

    bins: Bins

    @property
    def bins_in_epoch(self) -> int:
        return len(self.bins)

    def window(self, epoch: int, index: int) -> Bins | None:
        return self.bins if index == 0 else None

    def ready(self, epoch: int, index: int) -> bool:
        return True

    def lengths(self) -> np.ndarray:
        return self.bins.examples.lengths

    def close(self) -> None:
        pass


def random_keys(count: int, seed: int, *stream: int) -> np.ndarray:
    """A random number for each of `count` things, of a stream named by numbers."""
    # numpy promises that SeedSequence and a bit generator's raw output never change (NEP 19); it
    # does not promise that for Generator.permutation.
    return np.random.PCG64(np.random.SeedSequence([seed, *stream])).random_raw(count)
