"""Out of memory: an event, not an end.

Four parts: tell such an error from any other, really free what the failed step held, say what would
help, and apply what a person (or the policy `train.on_oom`) chooses. The rungs are ordered: a deeper
memory plan where the present one saves more than it must, then others that change nothing but speed,
then those that change the result, each with its effect in plain words and an estimate. Estimates are
simple on purpose: the activations of the failed micro-batch are what it had taken when it failed plus what it asked for
(a lower bound, so estimates are marked as such on screen), and they scale with the tokens in it.
"""

import gc
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from ..config.run_config import RunConfig, parse_config
from ..machine.device import read_memory
from ..machine.frames import drop_frames
from ..memory.plan import fit_memory
from ..run.control import Control
from ..run.events import (
    ApplyRecovery,
    CommandApplied,
    CommandRefused,
    OutOfMemory,
    Phase,
    RecoveryApplied,
    Rung,
    Stop,
)
from .checkpoint import save_now
from .state import Ending, OutOfMemoryEnd, Run

_MESSAGES = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|can't allocate memory",
    re.IGNORECASE,
)
_REQUESTED = re.compile(r"[Tt]ried to allocate ([\d.]+) ([KMG])iB")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

_WIDER, _WIDEST = 0.12, 0.54
"""What the memory plan's margin grows by after an error, and to at most."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed, on the GPU or the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_MESSAGES.search(str(error)))


def requested_gb(error: BaseException) -> float | None:
    """What the failed allocation asked for, in GB (1e9 bytes), where the message says it."""
    found = _REQUESTED.search(str(error))
    return float(found[1]) * _UNITS[found[2]] / 1e9 if found else None


def free_memory(device: torch.device) -> None:
    """Return to the device what nothing holds any more. Call it outside the `except` block."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Shape:
    """Sizes of the model that the estimates need."""

    layers: int
    hidden: int
    logits: int
    """Of a token, held at once: the vocabulary, or 0 where the loss head never holds them all."""

    @classmethod
    def of(cls, run: Run) -> Self:
        arch = run.model.config.get_text_config()
        logits = arch.vocab_size if run.head is None else 0
        return cls(arch.num_hidden_layers, arch.hidden_size, logits)


def rungs_for_step(
    config: RunConfig,
    lengths: Sequence[int],
    shape: Shape,
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


def take_down(
    error: BaseException, phase: Phase, device: torch.device, step: int, before_gb: float
) -> OutOfMemory:
    """What happened, taken down while the failed frames still hold their memory, then drop them.

    Call it inside the `except` block; `before_gb` is what was allocated when the phase began.
    """
    text = str(error).strip()
    memory = read_memory(device)
    trouble = OutOfMemory(
        step,
        phase,
        text.splitlines()[0][:300] if text else type(error).__name__,
        requested_gb(error),
        before_gb,
        max(memory.now_gb, before_gb),
        0.0,
        memory.total_gb,
        [],
    )
    drop_frames(error)
    return trouble


def answer(run: Run, trouble: OutOfMemory) -> Ending | None:
    """Free what the failure held, offer what helps, and apply what is chosen.

    Returns:
        None: do the failed part once more; `restart`: `run.config` asks for a new adapter;
        `stopped` and `abandoned`: end, with or without saving.

    Raises:
        OutOfMemoryEnd: nobody can answer; a checkpoint was written.
    """
    run.optimizer.zero_grad()
    free_memory(run.device)
    needed_gb = trouble.at_gb - trouble.before_gb + (trouble.requested_gb or 0.0)
    lengths = run.data.train.lengths().tolist()
    rungs = rungs_for_step(run.config, lengths, Shape.of(run), trouble.before_gb, needed_gb)
    margin = run.state.memory_margin
    wider = min(_WIDEST, margin + _WIDER)
    if run.saves_more and wider > margin:
        rungs.insert(0, _deeper_plan(trouble.limit_gb * (1 - wider)))
    if trouble.phase == "evaluation":  # it keeps nothing for a backward that could be recomputed
        rungs = [rung for rung in rungs if rung.id != "recompute"]
    run.control.emit(replace(trouble, after_gb=read_memory(run.device).now_gb, rungs=rungs))
    run.control.set_state("out-of-memory", f"paused after step {run.state.step}, nothing lost")
    try:
        rung, automatic = choose(run.config.train.on_oom, rungs, run.control, run.state.step)
    except OutOfMemoryEnd:
        save_now(run)
        raise
    if isinstance(rung, Stop):
        if rung.save:
            save_now(run)
        return "stopped" if rung.save else "abandoned"
    run.config = apply_changes(run.config, rung)
    run.directory.write_config(run.config)
    run.control.emit(RecoveryApplied(run.state.step, rung.id, rung.title, automatic))
    if rung.id == "rank":
        return "restart"
    run.state.memory_margin = wider  # what was counted on was not there
    fit_memory(run)
    save_now(run)  # from here on, run.yaml and the newest checkpoint must agree
    run.control.set_state("training")
    return None


def choose(
    on_oom: str, rungs: Sequence[Rung], control: Control, step: int
) -> tuple[Rung | Stop, bool]:
    """The rung that a person or the policy picks (or a Stop), and whether the policy did.

    Raises:
        OutOfMemoryEnd: the policy has nothing to apply and nobody is there to ask.
    """
    safe = [rung for rung in rungs if rung.keeps_result]
    if on_oom == "recover" and safe:
        return safe[0], True
    while on_oom != "fail" and control.attended:
        match command := control.next_command(0.5):
            case None:
                continue
            case Stop():
                control.emit(CommandApplied("Stop", step))
                return command, False
            case ApplyRecovery(chosen):
                for rung in rungs:
                    if rung.id == chosen:
                        control.emit(CommandApplied("ApplyRecovery", step, rung.title))
                        return rung, False
                control.emit(CommandRefused("ApplyRecovery", f"there is no rung {chosen!r}"))
            case _:
                why = "the run waits for an answer: apply a rung or stop"
                control.emit(CommandRefused(type(command).__name__, why))
    ways = [
        " ".join(f"{key}={value}" for key, value in rung.changes.items())
        for rung in rungs
        if rung.changes
    ]
    hint = f"resume with one of: {'; '.join(ways)}" if ways else "take a smaller model"
    raise OutOfMemoryEnd("out of memory, and nobody to ask", hint)


def apply_changes(config: RunConfig, rung: Rung) -> RunConfig:
    """The configuration with a rung's changes."""
    tree = config.model_dump(mode="json")
    for key, value in rung.changes.items():
        section, name = key.split(".")
        tree[section][name] = value
    return parse_config(tree)


def _deeper_plan(predicted_gb: float) -> Rung:
    return Rung(
        "plan",
        "save less for the backward",
        "the same numbers, more of them computed twice: the result stays",
        {},
        predicted_gb,
        0.9,
        True,
    )


def _recomputed_gb(tokens: int, shape: Shape, needed_gb: float) -> float:
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
