"""The ladder: what helps when memory is out, in order, each rung with its effect on the result and an estimate.

Rungs that change nothing but speed come first, then those that change the result. Estimates are simple on purpose: the
activations of the failed micro-batch are what it had taken when it failed plus what it asked for (a lower bound, so
estimates are marked as such on screen), and they scale with the tokens in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from ..config.run_config import RunConfig
from ..model.trained import TrainedModel
from ..run.events import Rung

MARGIN_STEP = 0.12
WIDEST_MARGIN = 0.54
"""What the memory plan's margin grows by after an error, and to at most."""


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of the model that the estimates need."""

    layers: int
    hidden: int
    logits: int
    """Of a token, held at once: the vocabulary, or 0 where the loss head never holds them all."""

    @classmethod
    def of(cls, trained: TrainedModel) -> Self:
        arch = trained.model.config.get_text_config()
        logits = arch.vocab_size if trained.head is None else 0
        return cls(arch.num_hidden_layers, arch.hidden_size, logits)


def rungs_for_step(
    config: RunConfig,
    lengths: Sequence[int],
    shape: ModelSizes,
    before_gb: float,
    needed_gb: float,
) -> list[Rung]:
    """What helps when a step or an evaluation ran out of memory, in order.

    Args:
        lengths: tokens of each training row.
        before_gb: allocated when the step began (weights, adapter, optimiser).
        needed_gb: the least that the step's activations took: at failure, plus what was asked for.
    """
    train, length = config.train, config.data.max_length
    batch, accumulate = train.per_device_train_batch_size, train.gradient_accumulation_steps
    rungs = []
    if batch > 1:
        smaller = max(d for d in range(1, batch // 2 + 1) if batch % d == 0)
        factor = batch // smaller
        rungs.append(
            Rung(
                "batch",
                f"batch {smaller} × accumulation {accumulate * factor}",
                "the same tokens per update: the result stays (rounding apart)",
                {
                    "train.per_device_train_batch_size": smaller,
                    "train.gradient_accumulation_steps": accumulate * factor,
                },
                before_gb + needed_gb / factor,
                0.95,
                True,
            )
        )
    if not train.gradient_checkpointing:
        rungs.append(
            Rung(
                "recompute",
                "recompute activations",
                "the same numbers, computed twice: the result stays",
                {"train.gradient_checkpointing": True},
                before_gb + _recomputed_gb(batch * length, shape, needed_gb),
                0.7,
                True,
            )
        )
    shorter = _shorter_length(lengths, length)
    if shorter:
        cut = sum(n > shorter for n in lengths)
        rungs.append(
            Rung(
                "shorter",
                f"rows cut to {shorter:,} tokens",
                f"affects {cut:,} rows, {100 * cut / max(1, len(lengths)):.1f} %: "
                + ("their ends are not learnt" if cut else "no row is that long"),
                {"data.max_length": shorter},
                before_gb + needed_gb * shorter / length,
                None,
                cut == 0,
            )
        )
    if config.adapter.r > 4:
        rank = config.adapter.r // 2
        rungs.append(
            Rung(
                "rank",
                f"rank {rank} instead of {config.adapter.r}",
                "restarts the adapter: training begins again at step 0",
                {"adapter.r": rank, "adapter.lora_alpha": config.adapter.lora_alpha / 2},
                None,
                None,
                False,
            )
        )
    return rungs


def rungs_for_load(config: RunConfig) -> list[Rung]:
    """What helps when the model itself did not fit."""
    if config.model.quantization == "nf4":
        return []
    return [
        Rung(
            "nf4",
            "4-bit base weights (NF4)",
            "QLoRA instead of 16-bit LoRA: about a quarter of the weights' memory",
            {"model.quantization": "nf4"},
            None,
            None,
            False,
        )
    ]


def deeper_plan(predicted_gb: float) -> Rung:
    return Rung(
        "plan",
        "save less for the backward",
        "the same numbers, more of them computed twice: the result stays",
        {},
        predicted_gb,
        0.9,
        True,
    )


def _recomputed_gb(tokens: int, shape: ModelSizes, needed_gb: float) -> float:
    """Activations with recompute: every layer's input (bf16), one layer whole, and the logits."""
    inputs = tokens * shape.hidden * shape.layers * 2 / 1e9
    logits = tokens * shape.logits * (2 + 4 + 4) / 1e9
    layers = max(0.0, needed_gb - logits)
    return min(needed_gb, inputs + layers / max(1, shape.layers) + logits)


def _shorter_length(lengths: Sequence[int], length: int) -> int | None:
    """Half the length, or the longest row's length rounded up to 64 where that is far shorter."""
    half = length // 2
    longest = -(-max(lengths, default=length) // 64) * 64
    shorter = min(half, longest)
    return shorter if shorter >= 16 else None
