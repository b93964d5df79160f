"""How many threads torch computes with on a CPU, and how they wait for one another.

At the end of each operator OpenMP's threads wait for the last of them, and as they come they do so by spinning, for
milliseconds. Where other programs use the cores too, the last one is often not running at all, and the others spin on
the core that it waits for: the demo's steps then took ten times as long. So

* they wait asleep: OpenMP reads how when it is loaded, so it must be told before torch is imported;
* a tiny model computes with one thread. Its operators are over before a second one has woken up.

What OMP_NUM_THREADS, MKL_NUM_THREADS, OMP_WAIT_POLICY or GOMP_SPINCOUNT say goes before both. The number depends on
nothing but the model and the machine, since a resumed run repeats its numbers only with the threads that it had.

This module is light; torch must have been imported when threads are counted.
"""

import contextlib
import functools
import os
from collections.abc import Iterator

TINY = 20_000_000
"""Parameters below which a model computes with one thread."""


@contextlib.contextmanager
def waiting_asleep() -> Iterator[None]:
    """An OpenMP that is loaded meanwhile lets its threads wait asleep; processes started later are
    left to themselves."""
    name = "OMP_WAIT_POLICY"
    told = name in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not told:
        os.environ[name] = "PASSIVE"
    try:
        yield
    finally:
        if not told:
            del os.environ[name]


def set_threads(parameters: int) -> None:
    """Let torch compute on the CPU, in this thread and in those to come, with as many threads as a
    model of `parameters` gains from."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and "MKL_NUM_THREADS" not in os.environ:
        most = _threads_at_first()  # asked for in any case, since the first answer is kept
        torch.set_num_threads(1 if parameters < TINY else most)


@functools.cache
def _threads_at_first() -> int:
    """As many as torch takes by itself, or was told to by the program that uses the engine."""
    import torch

    return torch.get_num_threads()
