"""How many threads torch computes with on a CPU.

At the end of each operator OpenMP's threads wait for the last of them, and for the first milliseconds they do so by
spinning: asleep they would wake up too late for operators as short as a tiny model's. Where other programs use the
cores too, the last one is often not running at all, and the others spin on the core that it waits for: the demo's steps
then took twenty times as long on two threads as on one. So a tiny model is trained with as many threads as there are
idle cores when its run begins, and answers with one.

The number stays for the whole run, and a run that is taken up again takes the one that it had: on some machines the
last bits of its numbers hang on it. A larger model computes with the number that torch takes by itself. What
OMP_NUM_THREADS or MKL_NUM_THREADS say goes before all.

This module is light; torch must have been imported when threads are counted.
"""

import functools
import os
import time

import psutil

TINY = 20_000_000
"""Parameters below which a model leaves busy cores to others."""

_LOOK_SECONDS = 0.25
"""For which the use of the cores is watched: the system counts it in hundredths."""


@functools.cache
def most_threads() -> int:
    """As many as torch takes by itself, or was told to before this was first asked."""
    import torch

    return torch.get_num_threads()


def training_threads(parameters: int) -> int:
    """Threads that train a model of `parameters`. For a tiny one the cores are watched for a moment."""
    most = most_threads()
    if most == 1 or parameters >= TINY or user_said():
        return most
    before, start = psutil.cpu_times().idle, time.monotonic()
    ours = time.process_time()
    time.sleep(_LOOK_SECONDS)
    free = psutil.cpu_times().idle - before + time.process_time() - ours
    return min(most, max(1, round(free / (time.monotonic() - start))))


def answering_threads(parameters: int) -> int:
    """Threads that a model of `parameters` answers with: its products are of one row."""
    most = most_threads()
    return 1 if parameters < TINY and not user_said() else most


def set_threads(count: int) -> None:
    """Let torch compute on the CPU with so many threads, in this thread and in those to come.

    Where it does so already it is told nothing: from then on MKL would take all of them for the smallest product too,
    and half of the demo's runs were a tenth slower (`tests/benchmarks/LOG.md`).
    """
    import torch

    most_threads()  # asked for in any case, since the first answer is kept
    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def user_said() -> bool:
    """Whether the user gave a number."""
    return "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ
