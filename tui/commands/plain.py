"""A run as plain lines: what `train`, `demo` and `watch` print where there are no screens.

One line an event that a person wants to know of, so that a log file or a CI console reads well. A
terminal that went away must not end the training: once a line cannot be written, none is tried again.
"""

import contextlib
import math
import sys
from collections.abc import Sequence

from ...engine.data.report.findings import Finding
from ...engine.run import events as ev
from ...engine.run.progress import RunProgress
from ..safe_text import safe_str
from ..state.story import count_text, graph_line, loss_text, memory_line, seconds_text
from ..value_text import LEVELS, places_text
from ..words.check import data_lines
from ..words.run_figures import evaluation_words, loss_words, state_word, steps_text


class PlainLines:
    """Prints a run's events. Call it with each event, in order."""

    def __init__(self, *, every_seconds: float = 2.0) -> None:
        self.progress = RunProgress()
        self._every = every_seconds
        self._last_step_line = -math.inf
        self._open = True

    def __call__(self, event: ev.Event) -> None:
        self.progress.apply(event)
        line = self._step_line(event) if isinstance(event, ev.Step) else describe(event)
        if line:
            self.say(line)
        ended = isinstance(event, ev.StateChanged) and self.progress.failed is not None
        if ended or isinstance(event, ev.Finished):
            self.say_end(live=True)

    def say_end(self, *, live: bool) -> None:
        """Print the run's state and figures in a line.

        Args:
            live: a process holds the run still.
        """
        self.say(end_line(self.progress, live=live))

    def say(self, text: str) -> None:
        """Print one or more lines, controls made visible."""
        if self._open:
            try:
                print(safe_str(text, 8192, lines=True), flush=True)
            except (OSError, ValueError):  # the terminal is gone, the training goes on
                self._open = False
                with contextlib.suppress(OSError):
                    sys.stdout = open("/dev/null", "w")  # noqa: SIM115 - for the process's rest

    def _step_line(self, step: ev.Step) -> str:
        last = step.step == self.progress.total_steps
        if not (last or step.skipped or step.t - self._last_step_line >= self._every):
            return ""
        self._last_step_line = step.t
        speed = self.progress.tokens_per_second
        left = self.progress.seconds_left
        return "  ".join(
            [
                f"step {steps_text(step.step, self.progress.total_steps)}",
                f"loss {step.loss:.4f}",
                f"lr {step.learning_rate:.2e}",
                f"grad {step.grad_norm:.2f}",
                f"{speed:,.0f} tokens/s" if speed else "",
                f"{step.memory_gb:.2f} GB (peak {step.memory_peak_gb:.2f})",
                f"{seconds_text(left)} left" if left and not last else "",
            ]
        ).rstrip()


def describe(event: ev.Event) -> str:
    """An event in a line of plain words; empty for those that need none. Text is not yet safe."""
    match event:
        case ev.RunStarted():
            start = f", from step {event.resumed_from}" if event.resumed_from is not None else ""
            return f"run {event.run} on {event.device}{start}"
        case ev.Progress(stage=stage, fraction=None):
            return stage
        case ev.ModelLoaded():
            return _model_line(event)
        case ev.PartsPatched(parts=parts):
            fast = [f"{part.name} ×{part.count}" for part in parts if part.fast]
            stock = [f"{part.name}: {part.reason}" for part in parts if not part.fast]
            return "; ".join([f"proven kernels: {', '.join(fast)}"] * bool(fast) + stock)
        case ev.DataPrepared():
            return "\n".join(data_lines(event.data, event.total_steps))
        case ev.DataChecked(findings=findings):
            return _check_lines(findings)
        case ev.MemoryPlanned():
            return memory_line(event)
        case ev.StepCaptured():
            return graph_line(event)
        case ev.Evaluated():
            return f"evaluation at step {event.step}: loss {loss_text(event.loss)} ({event.rows} rows)"
        case ev.CheckpointSaved():
            return f"saved {event.path} ({event.megabytes:.1f} MB, {event.seconds:.1f} s)"
        case ev.LearningRateChanged():
            return f"learning rate {event.old:.2e} -> {event.new:.2e} ({event.mode})"
        case ev.CommandRefused():
            return f"{event.command} refused: {event.why}"
        case ev.OutOfMemory():
            return _out_of_memory_lines(event)
        case ev.RecoveryApplied():
            who = "automatically" if event.automatic else "as asked"
            return f"recovered {who}: {event.title}; going on after step {event.step}"
        case ev.Alert():
            return f"{event.level}: {event.message}"
        case ev.Failed():
            resume = (
                f"\ntake it up again from step {event.resume_step} with: evenfall train --resume RUN"
                if event.resume_step is not None
                else ""
            )
            return f"error: {event.message}\n{event.hint}{resume}".rstrip()
        case ev.StateChanged(state="paused", reason=reason):
            return f"paused: {reason}"
    return ""


def _model_line(event: ev.ModelLoaded) -> str:
    weights = event.held or f"weights {event.quantization} in {event.weights_gb * 1e3:,.0f} MB"
    line = (
        f"model {event.name}: {count_text(event.parameters)} parameters, {count_text(event.trainable)} trained, "
        f"{weights}, computes in {event.compute_dtype}"
    )
    if event.threads is not None:
        line += f" with {event.threads} thread{'s' if event.threads != 1 else ''}"
    return line


def _check_lines(findings: Sequence[Finding]) -> str:
    lines = []
    for finding in (one for one in findings if one.level != "green"):
        glyph, word = LEVELS[finding.level]
        where = f" ({places_text(finding.places, finding.count)})" if finding.places else ""
        lines.append(f"check: {glyph} {word.lower()}: {finding.text}{where}")
    return "\n".join(lines) or "check: nothing is wrong with the data"


def _out_of_memory_lines(event: ev.OutOfMemory) -> str:
    asked = f", asked for {event.requested_gb:.2f}" if event.requested_gb is not None else ""
    first = (
        f"out of memory ({event.phase}, after step {event.step}): {event.before_gb:.2f} GB before, "
        f"{event.at_gb:.2f} at the failure{asked}, {event.after_gb:.2f} after freeing, "
        f"limit {event.limit_gb:.2f}. Nothing is lost."
    )
    lines = [first]
    for number, rung in enumerate(event.rungs, 1):
        peak = f"about {rung.peak_gb:.2f} GB" if rung.peak_gb is not None else "not estimated"
        speed = f", speed ×{rung.speed:.2f}" if rung.speed is not None else ""
        lines.append(f"  {number}  {rung.title} ({peak}{speed}): {rung.effect}")
    return "\n".join(lines)


def end_line(progress: RunProgress, *, live: bool) -> str:
    """How a run stands, with the figures that every list shows. Text is not yet safe.

    Args:
        live: a process holds it.
    """
    finished, seconds = progress.finished, progress.trained_seconds
    parts = ["nothing trained" if seconds is None else f"trained {seconds_text(seconds)}"]
    if finished and finished.tokens and seconds:
        speed = finished.tokens / seconds
        parts[0] += f", {finished.tokens:,} tokens ({speed:,.0f} tokens/s)"
    parts += [loss_words(progress), evaluation_words(progress)]
    if finished:
        parts.append(f"adapter in {finished.adapter}/" if finished.adapter else "nothing saved")
    state = state_word(progress.shown_state(live=live))
    where = steps_text(progress.step, progress.total_steps)
    return f"{state} at step {where}: {'; '.join(part for part in parts if part)}"
