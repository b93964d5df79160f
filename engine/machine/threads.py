"""How many threads torch computes with on a CPU.

At the end of each operator OpenMP's threads wait for the last of them, and for the first milliseconds they do so by
spinning: asleep they would wake up too late for operators as short as a tiny model's. Where other programs use the
cores too, the last one is often not running at all, and the others spin on the core that it waits for: the demo's steps
then took fifty times as long on two threads as on one. So a tiny model computes with one thread, and while it trains
(`SharedCores`) with as many as there are idle cores for.

Its numbers do not hang on that: of what torch cuts up for its threads, each computes whole results. Only a sum of more
than 32,768 numbers into one rounds otherwise with another number of threads, and a step of a tiny model makes none but
of the losses of as many tokens at once. A larger model computes with the number that torch takes by itself, the
same on each resume. What OMP_NUM_THREADS or MKL_NUM_THREADS say goes before both.

This module is light; torch must have been imported when threads are counted.
"""

import functools
import os
import time
from typing import NamedTuple

import psutil

TINY = 20_000_000
"""Parameters below which a model computes with one thread, or with those that idle cores are there for."""

_EVERY = 0.5
"""Seconds that the use of the cores is measured over: the system counts it in hundredths."""


@functools.cache
def most_threads() -> int:
    """As many as torch takes by itself, or was told to before this was first asked."""
    import torch

    return torch.get_num_threads()


def set_threads(parameters: int) -> None:
    """Let torch compute on the CPU, in this thread and in those to come, with as many threads as a
    model of `parameters` gains from."""
    import torch

    if not _told():
        most = most_threads()  # asked for in any case, since the first answer is kept
        torch.set_num_threads(1 if parameters < TINY else most)


class SharedCores:
    """A tiny model's training among other programs: it takes idle cores, and leaves busy ones alone."""

    def __init__(self, parameters: int) -> None:
        self._most = 1 if _told() or parameters >= TINY else most_threads()
        self._seen = _CpuTimes.now()

    def settle(self) -> None:
        """Between two updates: look at the cores every half second, and set the number of threads."""
        if self._most == 1:
            return
        now = _CpuTimes.now()
        seconds = now.clock - self._seen.clock
        if seconds < _EVERY:
            return
        free = (now.idle - self._seen.idle + now.ours - self._seen.ours) / seconds
        self._seen = now
        import torch

        threads = min(self._most, max(1, round(free)))
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


class _CpuTimes(NamedTuple):
    """Seconds since some moment: by the clock, of idle cores together, and of this process's threads together."""

    clock: float
    idle: float
    ours: float

    @classmethod
    def now(cls) -> "_CpuTimes":
        return cls(time.monotonic(), psutil.cpu_times().idle, time.process_time())


def _told() -> bool:
    """Whether the user gave a number."""
    return "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ
