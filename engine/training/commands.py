"""Commands at a step: why one is refused, which changes are made again after a resume, and who hears them before
there is a loop.
"""

import time

from ..run import commands as cmd
from ..run import events as ev
from ..run.control import Control
from .state import Run


def why_refused(command: cmd.Command, run: Run) -> str:
    match command:
        case cmd.Pause():
            return "the run is paused already"
        case cmd.Resume():
            return "the run is not paused"
        case cmd.EvaluateNow():
            return "no rows are held out: set data.eval_fraction or data.eval_path"
        case cmd.SetLearningRate(value):
            return f"a learning rate is a number from 0 to 10, got {value:g}"
    return f"there is no out-of-memory question to answer ({run.control.state})"


def changes_to_replay(control: Control, held: int) -> dict[int, list[ev.LearningRateChanged]]:
    """Learning-rate changes made by hand that are not among the `held` ones of a checkpoint.

    Those are the first in the order of steps: a run that goes on from its newest checkpoint can
    only be changed after it.
    """
    made = [
        event
        for event in control.history()
        if isinstance(event, ev.LearningRateChanged) and not event.replayed
    ]
    made.sort(key=lambda change: change.step)
    replay: dict[int, list[ev.LearningRateChanged]] = {}
    for change in made[held:]:
        replay.setdefault(change.step, []).append(change)
    return replay


class StoppedEarly(Exception):
    """A Stop came before there was anything to train."""


def reporter(control: Control):
    last = 0.0

    def report(stage: str, fraction: float | None = None) -> None:
        nonlocal last
        while (command := control.next_command()) is not None:
            if isinstance(command, cmd.Stop):
                control.emit(ev.CommandApplied("Stop", 0, "before training began"))
                raise StoppedEarly
            name = type(command).__name__
            control.emit(ev.CommandRefused(name, "the run is not training yet"))
        now = time.monotonic()
        if fraction is None or fraction >= 1.0 or now - last > 0.5:
            last = now
            control.emit(ev.Progress(stage, fraction=fraction))

    return report
