"""Story: a run's events as lines in plain words, for the log panel.

Steps are many, so only some are told: the first ones, and then about one in every hundredth of the
run. All else that happens is told when it happens.
"""

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

from ...engine.run import events as ev
from ..value_text import share_text

Tone = Literal["plain", "good", "warning", "error", "you", "dim"]


@dataclass(frozen=True)
class Line:
    """One thing that happened. `text` is untrusted: it may hold names and messages of others."""

    step: int | None
    text: str
    tone: Tone = "plain"


def seconds_text(seconds: float) -> str:
    """1.3 s, 45 s, 3m20s, 1h05m."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def count_text(number: float) -> str:
    """950, 12.4k, 3.1M, 1.2B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            value = number / size
            return f"{value:.0f}{letter}" if value >= 99.95 else f"{value:.1f}{letter}"
    return f"{number:.0f}"


def loss_text(loss: float) -> str:
    """A loss with as many digits as say something; a dash for none."""
    if math.isnan(loss):
        return "NaN"
    return f"{loss:.3f}" if abs(loss) < 100 else f"{loss:.3g}"


def rate_text(rate: float) -> str:
    """A learning rate: 2e-4, 1.24e-5, 0.01."""
    if rate == 0 or rate >= 0.01:
        return f"{rate:.3g}"
    mantissa, _, exponent = f"{rate:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


COMMANDS = {
    "Pause": "pause", "Resume": "resume", "SaveNow": "save", "EvaluateNow": "evaluation",
    "SetLearningRate": "learning rate", "Stop": "stop", "ApplyRecovery": "recovery",
}  # fmt: skip
"""A command's class name -> what a user calls it."""


class Story:
    """The last lines of a run. `total` counts all lines ever added, so a viewer can tell which of
    them it has shown."""

    def __init__(self, keep: int = 400) -> None:
        self.lines: deque[Line] = deque(maxlen=keep)
        self.total = 0
        self._step: int | None = None
        self._steps_in_all = 0
        self._stage = ""

    def add(self, event: ev.Event) -> None:
        line = self._line(event)
        if line:
            self.lines.append(line)
            self.total += 1

    def _line(self, event: ev.Event) -> Line | None:
        match event:
            case ev.Step():
                return self._of_step(event)
            case ev.Progress():
                if event.stage == self._stage:  # only its fraction moves
                    return None
                self._stage = event.stage
                detail = f": {event.detail}" if event.detail else ""
                return Line(self._step, f"{event.stage}{detail}", "dim")
            case (
                ev.RunStarted()
                | ev.ModelLoaded()
                | ev.DataPrepared()
                | ev.DataChecked()
                | ev.MemoryPlanned()
                | ev.StepCaptured()
            ):
                return self._of_set_up(event)
            case ev.Alert():
                return Line(self._step, event.message, event.level)
            case ev.Failed() | ev.Finished() | ev.OutOfMemory() | ev.StateChanged():
                return self._of_state(event)
            case _:
                return self._of_deed(event)

    def _of_step(self, event: ev.Step) -> Line | None:
        self._step = event.step
        if event.skipped:
            return Line(event.step, f"loss {loss_text(event.loss)}: update skipped, weights kept", "warning")
        every = max(1, 10 ** math.floor(math.log10(max(self._steps_in_all, 100) / 100)))
        every = 10 * every if self._steps_in_all >= 1000 else 10
        if event.step > 3 and event.step % every:
            return None
        rate = f"  {count_text(event.tokens / event.seconds)} tok/s" if event.seconds > 0 else ""
        return Line(event.step, f"loss {loss_text(event.loss)}{rate}")

    def _of_set_up(self, event: ev.Event) -> Line | None:
        match event:
            case ev.RunStarted():
                self._step, self._stage = event.resumed_from, ""
                how = f"resumed from step {event.resumed_from}" if event.resumed_from else "started"
                return Line(event.resumed_from, f"{how} on {event.device}, process {event.pid}")
            case ev.ModelLoaded():
                text = (
                    f"{count_text(event.parameters)} parameters, {count_text(event.trainable)} "
                    f"trained, loaded in {seconds_text(event.seconds)}"
                )
                return Line(None, text)
            case ev.DataPrepared():
                self._steps_in_all = event.total_steps
                data = event.data
                left_out = sum(data.dropped.values())
                extra = f", {left_out} left out" if left_out else ""
                extra += f", {data.cut} cut" if data.cut else ""
                extra += f", {share_text(data.share)} read" if data.share < 1 else ""
                return Line(None, f"{data.kept} rows in {data.bins} bins{extra}")
            case ev.DataChecked():
                wrong = [one.text for one in event.findings if one.level != "green"]
                text = "; ".join(wrong)
                return Line(None, f"check of the data: {text}", "warning") if wrong else None
            case ev.MemoryPlanned():
                return Line(self._step, memory_line(event))
            case ev.StepCaptured():
                return Line(self._step, graph_line(event))
        return None

    def _of_state(self, event: ev.Event) -> Line | None:
        match event:
            case ev.OutOfMemory():
                return Line(event.step, f"out of memory ({event.phase}): {event.message}", "error")
            case ev.Failed():
                return Line(self._step, f"error: {event.message}", "error")
            case ev.Finished():
                return Line(event.step, "finished" if event.reason == "complete" else "stopped", "good")
            case ev.StateChanged(state="paused"):
                return Line(self._step, "paused, memory kept", "you")
        return None

    def _of_deed(self, event: ev.Event) -> Line | None:
        match event:
            case ev.Evaluated():
                text = f"eval loss {loss_text(event.loss)} ({seconds_text(event.seconds)})"
                return Line(event.step, text, "good")
            case ev.CheckpointSaved():
                size = f"{event.megabytes:.3g} MB, {seconds_text(event.seconds)}"
                return Line(event.step, f"saved checkpoint ({size})", "good")
            case ev.LearningRateChanged():
                how = "held" if event.mode == "hold" else "schedule scaled"
                return Line(event.step, f"lr {rate_text(event.old)} → {rate_text(event.new)} ({how})", "you")
            case ev.CommandApplied(command="Resume"):
                return Line(event.step, "goes on", "you")
            case ev.CommandApplied(command="Stop"):
                return Line(event.step, "stops here", "you")
            case ev.CommandApplied():  # each has an event of its own that says more
                return None
            case ev.CommandRefused():
                what = COMMANDS.get(event.command, event.command)
                return Line(self._step, f"{what} refused: {event.why}", "warning")
            case ev.RecoveryApplied():
                who = "taken by itself" if event.automatic else "applied"
                return Line(event.step, f"{event.title} ({who})", "you")
        return None


def graph_line(event: ev.StepCaptured) -> str:
    """What became one CUDA graph, in words."""
    learnt = f", up to {event.labels:,} of them learnt," if event.labels < event.tokens else ""
    return f"micro-steps of {event.tokens:,} tokens{learnt} run as one CUDA graph, proven here"


def memory_line(event: ev.MemoryPlanned) -> str:
    """What the memory goes to, in words."""
    shares = {
        "kept": event.kept, "norms and activations recomputed": event.cheap,
        "recomputed": event.recomputed,
    }  # fmt: skip
    parts = [f"{name} in {count} layers" for name, count in shares.items() if count]
    line = f"activations {', '.join(parts)}: {event.activations_gb:.1f} GB"
    if event.cached:
        line += f"; weights of {event.cached} layers dequantised: {event.weights_gb:.1f} GB"
    return line
