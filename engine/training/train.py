"""The loop: one flat function that a reader can follow from the first step to the last.

An update is a fixed number of packed bins, cut into micro-batches; the loss is the sum over their
trained tokens divided by the number of trained tokens in the whole update, so accumulation changes
nothing but rounding. The step never waits for the GPU: losses stay on the device, are copied to pinned
memory, and are read one step late. A gradient that is not finite changes nothing (the optimiser sees to
that on the device), so a bad batch cannot poison the adapter. Commands take effect between two
updates and each leaves an event. An out-of-memory error is answered between two updates too: the
failed update is undone (gradients dropped, generators put back) and done again under the new plan.
"""

import math
import time
from collections.abc import Callable
from typing import Literal

import torch

from ..config.steps import in_steps, total_steps
from ..machine.memory import read_memory
from ..memory import oom
from ..run import commands as cmd
from ..run import events as ev
from . import recovery
from .checkpoint import rng_state, save_now, set_rng_state
from .commands import changes_to_replay, why_refused
from .evaluate import evaluate
from .late_figures import PendingStep, read_figures, send_figures
from .micro_step import MicroStep
from .schedule import Schedule
from .state import Ending, OutOfMemoryEnd, Run, TrainingError
from .updates import advance, micro_batches, next_update

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
    control, device, data = run.control, run.trained.device, run.data
    state, optimizer, model = run.state, run.optimizer, run.trained.model
    options = run.config.train
    last_step = total_steps(run.config, data.train.bins_in_epoch, state.bins_per_update)
    schedule = Schedule(
        kind=options.lr_scheduler_type, peak=options.learning_rate, warmup_steps=in_steps(options.warmup_steps, last_step),
        total_steps=last_step, changes=state.rate_changes,
    )  # fmt: skip
    evaluate_every = in_steps(options.eval_steps or 0, last_step)
    save_every = in_steps(options.save_steps, last_step)
    streamed = data.report.share < 1
    micro_step = MicroStep(run)
    replay = changes_to_replay(control, len(state.rate_changes))
    pending: PendingStep | None = None
    skipped = 0
    mark = time.perf_counter()

    def settle() -> None:
        """Report the step that is still on its way, if one is."""
        nonlocal pending, mark, skipped
        if pending is None:
            return
        step, mark = read_figures(pending, device, mark)
        pending = None
        skipped = skipped + 1 if step.skipped else 0
        state.seconds += step.seconds
        state.first_losses = [*state.first_losses, step.loss][:5]
        state.last_losses = [*state.last_losses, step.loss][-5:]
        control.emit(step)
        if step.skipped:
            control.emit(ev.Alert(f"step {step.step}: gradient not finite, update skipped"))

    def waiting() -> bool:
        return not data.train.ready(state.epoch, state.window)

    def outside_the_clock(action: Callable[[], Ending | None]) -> Ending | None:
        nonlocal mark
        settle()
        ending = action()
        mark = time.perf_counter()
        return ending

    model.train()
    control.set_state("training")
    while state.step < last_step:
        # What was asked for since the last update.
        for change in replay.pop(state.step, []):
            old = schedule.change(state.step, change.new, change.mode)
            control.emit(
                ev.LearningRateChanged(
                    step=state.step, old=old, new=change.new, mode=change.mode, replayed=True
                )
            )
        paused = False
        while (
            (command := control.next_command(0.2 if paused or waiting() else 0.0)) is not None
            or paused
            or waiting()
        ):
            match command:
                case None:
                    continue
                case cmd.Pause() if not paused:
                    settle()
                    paused = True
                    control.set_state("paused", "GPU memory is kept")
                case cmd.Resume() if paused:
                    paused = False
                    control.set_state("training")
                    mark = time.perf_counter()
                case cmd.SaveNow():
                    outside_the_clock(lambda: save_now(run))
                case cmd.EvaluateNow() if data.evaluation is not None:
                    if ending := outside_the_clock(lambda: _evaluate(run, micro_step)):
                        return ending
                case cmd.SetLearningRate(value, mode) if 0 <= value <= 10:
                    old = schedule.change(state.step, value, mode)
                    control.emit(
                        ev.LearningRateChanged(step=state.step, old=old, new=value, mode=mode)
                    )
                case cmd.Stop(save):
                    settle()
                    control.emit(ev.CommandApplied("Stop", state.step))
                    if save:
                        save_now(run)
                    return "stopped" if save else "abandoned"
                case _:
                    control.emit(
                        ev.CommandRefused(type(command).__name__, why_refused(command, run))
                    )
                    continue
            control.emit(ev.CommandApplied(type(command).__name__, state.step))

        # One update.
        if pending is None:
            mark = time.perf_counter()
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
            settle()
            if micro_step.give_up():  # what they held may be what is missing
                oom.free_memory(device)
                optimizer.zero_grad()
            elif ending := recovery.answer(run, trouble):
                return ending
            set_rng_state(generators)
            mark = time.perf_counter()
            continue
        assert norm is not None

        # Account for it; its figures are read when the next update is already on its way.
        tokens = sum(batch.tokens for batch in batches)
        state.step += 1
        state.tokens += tokens
        epoch = state.epoch
        advance(data.train, state, len(chosen))
        done = ev.Step(
            step=state.step, epoch=state.epoch + state.bins_done / data.train.bins_in_epoch, loss=math.nan, learning_rate=rate, grad_norm=math.nan,
            tokens=tokens, trained_tokens=trained, seconds=0.0, memory_gb=0.0, memory_peak_gb=0.0, memory_total_gb=0.0,
        )  # fmt: skip
        settle()
        if state.epoch > epoch == 0 and streamed:
            control.emit(ev.DataPrepared(data.report, last_step))
        pending = send_figures(done, loss / trained, norm)
        if device.type == "cpu":
            settle()
        if skipped >= MAX_SKIPPED:
            save_now(run)
            raise TrainingError(
                f"the gradient was not finite {MAX_SKIPPED} steps in a row, up to step {state.step}",
                "the adapter is as it was before them; lower train.learning_rate and resume, or "
                "look for damaged rows",
            )
        due = evaluate_every and state.step % evaluate_every == 0
        if (
            due
            and state.step < last_step
            and (ending := outside_the_clock(lambda: _evaluate(run, micro_step)))
        ):
            return ending
        if state.step % save_every == 0 and state.step < last_step:
            outside_the_clock(lambda: save_now(run))

    settle()
    if streamed and state.epoch == 0:
        control.emit(ev.DataPrepared(data.report, last_step))
    micro_step.forget()
    save_now(run)
    if data.evaluation is not None and (ending := _evaluate(run, micro_step)):
        return ending
    return "complete"


def _evaluate(run: Run, micro_step: MicroStep) -> Ending | None:
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
            loss = evaluate(run.trained, bins, run.config)
        except (RuntimeError, MemoryError) as error:
            if not oom.is_out_of_memory(error):
                raise
            trouble = oom.take_down(
                error, "evaluation", run.trained.device, run.state.step, before_gb
            )
        else:
            seconds = time.perf_counter() - start
            run.control.emit(
                ev.Evaluated(
                    step=run.state.step, loss=loss, rows=len(bins.examples), seconds=seconds
                )
            )
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
