"""A data set larger than memory, as windows that are made while training runs.

Each data set of a mix is read in slices, in the order of its file. Round k takes slice k of each, the slices as
large as the data set's part of the whole, so all come to their end together and every window
holds the mix. A window is a few rounds packed best-fit together: the first ones are small, so that
training begins within seconds, later ones large, so that bins are full and rows well mixed. Rounds, windows and what
is in them depend on the data and the configuration alone: a resumed run finds the same.

A thread makes the window after the one that the loop is at, not more: what is made longer ahead would have to be kept.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import closing

import numpy as np

from .examples import Examples
from .windows import Bins

Rounds = Callable[[int], Generator[Examples]]
"""Given a number of rounds to leave out, the rows of each that follows."""

_LARGEST = 4
_HELD = 3


def rounds_of(window: int) -> range:
    """The rounds that a window takes: 1, 1, 2, 4, 4, 4, ... of them."""
    if window < 3:
        return range((0, 1, 2)[window], (1, 2, 4)[window])
    return range(_LARGEST * (window - 2), _LARGEST * (window - 1))


class Stream:
    """Windows over rounds.

    Args:
        rounds: begins an epoch's rounds anew.
        max_length: tokens of a bin.
        share: the part of an epoch that the first window is, 0 to 1.
        ended: is called when nothing will be asked for any more.
    """

    def __init__(self, rounds: Rounds, max_length: int, share: float, ended: Callable[[], None]) -> None:
        self._rounds, self._max_length, self._share = rounds, max_length, share
        self._ended = ended
        self._bins_in_epoch = 0
        self._changed = threading.Condition()
        self._held: dict[tuple[int, int], Bins | None] = {}
        self._failed: dict[tuple[int, int], BaseException] = {}
        self._wanted = (0, 0)
        self._next: tuple[int, int] | None = None
        """The place that is being made."""
        self._generation = 0

    @property
    def bins_in_epoch(self) -> int:
        if not self._bins_in_epoch:
            first = self.window(0, 0)
            assert first is not None
            self._bins_in_epoch = max(1, round(len(first) / self._share))
        return self._bins_in_epoch

    def ready(self, epoch: int, index: int) -> bool:
        with self._changed:
            self._want((epoch, index))
            return (epoch, index) in self._held or (epoch, index) in self._failed

    def window(self, epoch: int, index: int) -> Bins | None:
        place = (epoch, index)
        with self._changed:
            self._want(place)
            while place not in self._held and place not in self._failed:
                self._changed.wait()
            if place in self._failed:
                raise self._failed[place]
            return self._held[place]

    def lengths(self) -> np.ndarray:
        with self._changed:
            held = [bins.examples.lengths for bins in self._held.values() if bins is not None]
        return np.concatenate([np.zeros(0, np.int64), *held])

    def close(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
        self._ended()

    def _want(self, place: tuple[int, int]) -> None:
        self._wanted = place
        if place not in self._held and place not in self._failed and place != self._next:
            self._begin(place)
        self._changed.notify_all()

    def _begin(self, place: tuple[int, int]) -> None:
        self._generation += 1
        self._failed.clear()
        self._held.clear()
        self._next = place
        threading.Thread(target=self._make, args=(self._generation, *place), name="evenfall-data", daemon=True).start()

    def _make(self, generation: int, epoch: int, index: int) -> None:
        while True:
            try:
                with closing(self._windows(index)) as windows:
                    for bins in windows:
                        if not self._put(generation, (epoch, index), bins):
                            return
                        index += 1
            except Exception as error:  # noqa: BLE001 - raised in the loop, which waits for it
                with self._changed:
                    if generation == self._generation:
                        self._failed[epoch, index] = error
                        self._changed.notify_all()
                return
            if not self._put(generation, (epoch, index), None):
                return
            epoch, index = epoch + 1, 0

    def _windows(self, first: int) -> Generator[Bins]:
        window = first
        with closing(self._rounds(rounds_of(first).start)) as rounds:
            parts: list[Examples] = []
            for one in rounds:
                parts.append(one)
                if len(parts) == len(rounds_of(window)):
                    yield Bins.packed(Examples.joined(parts), self._max_length)
                    parts = []
                    window += 1
        if parts:
            yield Bins.packed(Examples.joined(parts), self._max_length)

    def _put(self, generation: int, place: tuple[int, int], bins: Bins | None) -> bool:
        """Hold a window once the loop is near it; False: nobody wants it any more."""
        with self._changed:
            while generation == self._generation and any(place > held > self._wanted for held in self._held):
                self._changed.wait()
            if generation != self._generation:
                return False
            self._held[place] = bins
            epoch, index = place
            self._next = (epoch + 1, 0) if bins is None else (epoch, index + 1)
            while len(self._held) > _HELD:
                del self._held[min(self._held)]
            self._changed.notify_all()
            return True
