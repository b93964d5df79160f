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
                id="batch",
                title=f"batch {smaller} × accumulation {accumulate * factor}",
                effect="the same tokens per update: the result stays (rounding apart)",
                changes={
                    "train.per_device_train_batch_size": smaller,
                    "train.gradient_accumulation_steps": accumulate * factor,
                },
                peak_gb=before_gb + needed_gb / factor,
                speed=0.95,
                keeps_result=True,
            )
        )
    if not train.gradient_checkpointing:
        rungs.append(
            Rung(
                id="recompute",
                title="recompute activations",
                effect="the same numbers, computed twice: the result stays",
                changes={"train.gradient_checkpointing": True},
                peak_gb=before_gb + _recomputed_gb(batch * length, shape, needed_gb),
                speed=0.7,
                keeps_result=True,
            )
        )
    shorter = _shorter_length(lengths, length)
    if shorter:
        cut = sum(n > shorter for n in lengths)
        rungs.append(
            Rung(
                id="shorter",
                title=f"rows cut to {shorter:,} tokens",
                effect=f"affects {cut:,} rows, {100 * cut / max(1, len(lengths)):.1f} %: "
                + ("their ends are not learnt" if cut else "no row is that long"),
                changes={"data.max_length": shorter},
                peak_gb=before_gb + needed_gb * shorter / length,
                speed=None,
                keeps_result=cut == 0,
            )
        )
    if config.adapter.r > 4:
        rank = config.adapter.r // 2
        rungs.append(
            Rung(
                id="rank",
                title=f"rank {rank} instead of {config.adapter.r}",
                effect="restarts the adapter: training begins again at step 0",
                changes={"adapter.r": rank, "adapter.lora_alpha": config.adapter.lora_alpha / 2},
                peak_gb=None,
                speed=None,
                keeps_result=False,
            )
        )
    return rungs


def rungs_for_load(config: RunConfig) -> list[Rung]:
    """What helps when the model itself did not fit."""
    if config.model.quantization == "nf4":
        return []
    return [
        Rung(
            id="nf4",
            title="4-bit base weights (NF4)",
            effect="QLoRA instead of 16-bit LoRA: about a quarter of the weights' memory",
            changes={"model.quantization": "nf4"},
            peak_gb=None,
            speed=None,
            keeps_result=False,
        )
    ]


def deeper_plan(predicted_gb: float) -> Rung:
    return Rung(
        id="plan",
        title="save less for the backward",
        effect="the same numbers, more of them computed twice: the result stays",
        changes={},
        peak_gb=predicted_gb,
        speed=0.9,
        keeps_result=True,
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
