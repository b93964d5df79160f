"""How many optimiser steps a configuration asks for. Light: the checks of data tell a run's length by it too."""

import math

from .run_config import RunConfig


def in_steps(value: float, total: int) -> int:
    """A number of steps; below 1 it is a share of `total`, rounded up."""
    # 0.07 * 100 is a little more than 7.
    return math.ceil(round(value * total, 6)) if value < 1 else int(value)


def total_steps(config: RunConfig, bins: int, bins_per_update: int) -> int:
    """Optimiser steps of the whole run: `max_steps`, or epochs times updates in an epoch."""
    if config.train.max_steps is not None:
        return config.train.max_steps
    per_epoch = math.ceil(bins / bins_per_update)  # the last update takes what is left
    return max(1, math.ceil(config.train.num_train_epochs * per_epoch))
