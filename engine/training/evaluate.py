"""The held-out rows: their mean loss, and what happens where memory runs out over them."""

import time

import torch

from ..config.run_config import RunConfig
from ..data.pack.windows import Bins
from ..machine.memory import read_memory
from ..memory import oom
from ..model.trained import TrainedModel
from ..run import events as ev
from . import recovery
from .micro_step import MicroStep
from .next_update import micro_batches
from .objectives.sft import loss_sum
from .state import Ending, OutOfMemoryEnd, Run


def mean_loss(model: TrainedModel, bins: Bins, config: RunConfig) -> float:
    """Mean loss over the trained tokens of held-out bins."""
    total, trained = torch.zeros((), device=model.device), 0
    model.model.eval()
    try:
        with torch.no_grad():
            chosen = [bins.rows(index) for index in range(len(bins))]
            for batch in micro_batches(chosen, config, model.packed):
                total += loss_sum(model, batch.to(model.device))
                trained += batch.trained_tokens
    finally:
        model.model.train()
    return total.item() / max(1, trained)


def evaluate(run: Run, micro_step: MicroStep) -> Ending | None:
    """Evaluate on the held-out rows; when memory runs out, answer that and evaluate again.

    Where nobody can answer, the evaluation is left out: what it lacks is no reason to end a training.
    """
    bins = run.data.evaluation
    assert bins is not None
    micro_step.make_room()
    while True:
        start = time.perf_counter()
        before_gb = read_memory(run.trained.device).now_gb
        try:
            loss = mean_loss(run.trained, bins, run.config)
        except (RuntimeError, MemoryError) as error:
            if not oom.is_out_of_memory(error):
                raise
            trouble = oom.take_down(error, "evaluation", run.trained.device, run.state.step, before_gb)
        else:
            seconds = time.perf_counter() - start
            run.control.emit(ev.Evaluated(step=run.state.step, loss=loss, rows=len(bins.examples), seconds=seconds))
            return None
        if micro_step.give_up():
            oom.free_memory(run.trained.device)
            continue
        try:
            if ending := recovery.answer(run, trouble):
                return ending
        except OutOfMemoryEnd as end:
            run.control.emit(ev.Alert(f"evaluation left out, it does not fit: {end.hint}"))
            run.control.set_state("training")
            return None
