"""Figures of data that were prepared: lengths, what an epoch holds, how long a run takes."""

import itertools
import math
from collections.abc import Mapping

from ..config.run_config import RunConfig
from ..config.steps import total_steps
from .pack.windows import Bins
from .prepare.prepare import PreparedData, lengths_of
from .report.findings import Statistics


def statistics_of(
    config: RunConfig,
    prepared: PreparedData,
    window: Bins,
    pace: float | None,
    context: int | None = None,
) -> Statistics:
    """Args:
    window: the first of the epoch.
    pace: tokens/s; None where it is not known.
    context: the positions that the model was made for; None where it is not known.
    """
    data, train = config.data, config.train
    room = len(window) * data.max_length
    filled = window.examples.tokens / room
    bins = prepared.train.bins_in_epoch
    per_update = train.per_device_train_batch_size * train.gradient_accumulation_steps
    steps = total_steps(config, bins, per_update)
    tokens = round(bins * data.max_length * filled)
    of_run = tokens * steps * per_update / max(1, bins)
    lengths, documents = lengths_of(prepared.sources, prepared.accounts)
    recommended = data.max_length if documents else round_up(percentile(lengths, 0.95))
    if context is not None and not documents:
        recommended = min(recommended, context)
    over = 0 if documents else sum(n for length, n in lengths.items() if length > recommended)
    return Statistics(
        percentiles={
            f"p{share}" if share < 100 else "longest": percentile(lengths, share / 100)
            for share in (50, 90, 95, 99, 100)
        },
        recommended_length=recommended,
        over_recommended=over,
        trained_share=window.examples.trained_tokens / max(1, window.examples.tokens),
        packing=filled,
        tokens=tokens,
        bins=bins,
        steps=steps,
        seconds=of_run / pace if pace else None,
        context=context,
        documents=documents,
    )


def percentile(lengths: Mapping[int, int], share: float) -> int:
    """The smallest length that `share` of all are no longer than.

    Args:
        lengths: length -> how many there are.
    """
    each = sorted(lengths)
    sums = list(itertools.accumulate(lengths[length] for length in each))
    wanted = math.ceil(share * sums[-1])
    return next(length for length, total in zip(each, sums, strict=True) if total >= wanted)


def round_up(length: int) -> int:
    """To a multiple of 256, up to 512 of 64."""
    step = 64 if length <= 512 else 256
    return step * math.ceil(length / step)
