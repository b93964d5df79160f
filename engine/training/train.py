"""The loop: one flat function that a reader can follow from the first step to the last.

An update is a fixed number of packed bins, cut into micro-batches; the loss is the sum over their
trained tokens divided by the number of trained tokens in the whole update, so accumulation changes
nothing but rounding. The step never waits for the GPU: losses stay on the device, are copied to pinned
memory, and are read one step late. A gradient that is not finite changes nothing (the optimiser sees to
that on the device), so a bad batch cannot poison the adapter. Commands take effect between two
updates and each leaves an event. An out-of-memory error is answered between two updates too: the
failed update is undone (gradients dropped, generators put back) and done again under the new plan.
"""

from typing import Literal

import torch

from ..config.steps import in_steps, total_steps
from ..machine.memory import read_memory
from ..memory import oom
from ..run import events as ev
from . import recovery
from .checkpoint import rng_state, save_now, set_rng_state
from .commands import StepCommands
from .evaluate import evaluate
from .late_figures import LateFigures
from .micro_step import MicroStep
from .next_update import advance, micro_batches, next_update
from .schedule import Schedule
from .state import Ending, Run, TrainingError

MAX_SKIPPED = 5
"""Updates in a row without a finite gradient after which the run ends."""


def train(run: Run) -> Literal["complete"] | Ending:
    """Run the loop from `run.state` to its end.

    Returns:
        `complete`; `stopped` or `abandoned` (nothing saved) on request; `restart` where a recovery
        changed the adapter's shape: `run.config` is the new one.

    Raises:
        TrainingError: the gradient stayed not finite, or memory ran out and nobody could answer.
    """
    control, data, state, optimizer = run.control, run.data, run.state, run.optimizer
    device, options = run.trained.device, run.config.train
    last_step = total_steps(run.config, data.train.bins_in_epoch, state.bins_per_update)
    schedule = Schedule(
        kind=options.lr_scheduler_type,
        peak=options.learning_rate,
        warmup_steps=in_steps(options.warmup_steps, last_step),
        total_steps=last_step,
        changes=state.rate_changes,
    )
    evaluate_every = in_steps(options.eval_steps or 0, last_step)
    save_every = in_steps(options.save_steps, last_step)
    streamed = data.report.share < 1
    micro_step = MicroStep(run)
    figures = LateFigures(run)
    commands = StepCommands(run, schedule, figures, lambda: evaluate(run, micro_step))

    run.trained.model.train()
    control.set_state("training")
    while state.step < last_step:
        if ending := commands.obey():  # what was asked for since the last update
            return ending

        # One update.
        figures.start_clock()
        chosen = next_update(data.train, state, options.seed, run.config.data.shuffle)
        batches = micro_batches(chosen, run.config, run.trained.packed)
        trained = sum(batch.trained_tokens for batch in batches)
        rate = schedule.rate(state.step)
        generators = rng_state()
        before_gb = read_memory(device).now_gb
        trouble = norm = None
        loss = torch.zeros((), device=device)
        try:
            for batch in batches:
                loss += micro_step(batch)
            norm = optimizer.step(rate, divisor=trained)
        except (RuntimeError, MemoryError) as error:
            if not oom.is_out_of_memory(error):
                raise
            trouble = oom.take_down(error, "step", device, state.step, before_gb)
        if trouble is not None:
            del batches, loss, norm  # the last holders of the failed update
            figures.settle()
            if micro_step.give_up():  # what they held may be what is missing
                oom.free_memory(device)
                optimizer.zero_grad()
            elif ending := recovery.answer(run, trouble):
                return ending
            set_rng_state(generators)
            continue
        assert norm is not None

        # Account for it; its figures are read when the next update is already on its way.
        tokens = sum(batch.tokens for batch in batches)
        state.step += 1
        state.tokens += tokens
        epoch = state.epoch
        advance(data.train, state, len(chosen))
        figures.settle()
        if state.epoch > epoch == 0 and streamed:
            control.emit(ev.DataPrepared(data.report, last_step))
        figures.send(
            loss / trained,
            norm,
            step=state.step,
            epoch=state.epoch + state.bins_done / data.train.bins_in_epoch,
            learning_rate=rate,
            tokens=tokens,
            trained_tokens=trained,
        )
        if figures.skipped >= MAX_SKIPPED:
            save_now(run)
            raise TrainingError(
                f"the gradient was not finite {MAX_SKIPPED} steps in a row, up to step {state.step}",
                "the adapter is as it was before them; lower train.learning_rate and resume, or look for damaged rows",
            )
        if state.step == last_step:
            break
        if evaluate_every and state.step % evaluate_every == 0:
            with figures.outside_the_clock():
                ending = evaluate(run, micro_step)
            if ending:
                return ending
        if state.step % save_every == 0:
            with figures.outside_the_clock():
                save_now(run)

    figures.settle()
    if streamed and state.epoch == 0:
        control.emit(ev.DataPrepared(data.report, last_step))
    micro_step.forget()
    save_now(run)
    if data.evaluation is not None and (ending := evaluate(run, micro_step)):
        return ending
    return "complete"
