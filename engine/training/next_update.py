"""Which rows make the next update, after a resume too: bins in their epoch's order, a fixed number of them an update.

The number of bins in an update is fixed when a run starts. Batch size and accumulation only say how they
are cut into micro-batches, and a shorter max_length only cuts rows and splits bins inside their
update: whatever a recovery changes, each update holds the same rows in the same order.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..config.run_config import RunConfig
from ..data.pack.batch import Batch, collate
from ..data.pack.examples import Example
from ..data.pack.windows import Windows
from .state import LoopState


def next_update(data: Windows, state: LoopState, seed: int, shuffle: bool) -> list[list[Example]]:
    """The bins of the update that follows `state`: of the next window too where one ends, but
    never of the next epoch.

    Raises:
        DataError: a window cannot be made.
    """
    chosen: list[list[Example]] = []
    window, position = state.window, state.position
    while len(chosen) < state.bins_per_update:
        bins = data.window(state.epoch, window)
        if bins is None:
            break
        order = bins.order(state.epoch, seed, shuffle, window)
        until = position + state.bins_per_update - len(chosen)
        chosen += [bins.rows(index) for index in order[position:until]]
        window, position = window + 1, 0
    return chosen


def advance(data: Windows, state: LoopState, done: int) -> None:
    """Move the data position past an update of `done` bins, into the next epoch at the end of one."""
    state.position += done
    state.bins_done += done
    while (bins := data.window(state.epoch, state.window)) is not None:
        if state.position < len(bins):
            return
        state.window, state.position = state.window + 1, state.position - len(bins)
    state.epoch, state.window, state.position, state.bins_done = state.epoch + 1, 0, 0, 0


def micro_batches(chosen: Sequence[list[Example]], config: RunConfig, packed: bool) -> list[Batch]:
    """Batches of the bins of an update, up to `per_device_train_batch_size` bins each, or of one row each if not
    packed.

    Rows longer than `max_length` (which a recovery may have lowered) are cut.
    """
    size, length = config.train.per_device_train_batch_size, config.data.max_length
    groups: list[list[Example]] = []
    for examples in chosen:
        rows = [_cut(one, length) for one in examples]
        groups += _split(rows, length) if packed else [[row] for row in rows]
    if not packed:
        size = 1
    parts = [groups[start : start + size] for start in range(0, len(groups), size)]
    batches = [collate([example for group in part for example in group]) for part in parts]
    return [batch for batch in batches if batch.trained_tokens]


def _cut(example: Example, max_length: int) -> Example:
    if len(example.ids) <= max_length:
        return example
    return replace(example, ids=example.ids[:max_length], trained=example.trained[:max_length])


def _split(examples: list[Example], max_length: int) -> list[list[Example]]:
    groups: list[list[Example]] = [[]]
    room = max_length
    for example in examples:
        if len(example.ids) > room and groups[-1]:
            groups.append([])
            room = max_length
        groups[-1].append(example)
        room -= len(example.ids)
    return groups
