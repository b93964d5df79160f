"""Commands at a step: obeyed between two updates, refused with a reason, made again after a resume; and who hears
them before there is a loop.
"""

import time
from collections.abc import Callable

from ..run import commands as cmd
from ..run import events as ev
from ..run.control import Control
from .checkpoint import save_now
from .late_figures import LateFigures
from .schedule import Schedule
from .state import Ending, Run


class StepCommands:
    """What is asked of a run in its loop.

    Args:
        evaluate: on the held-out rows.
    """

    def __init__(
        self,
        run: Run,
        schedule: Schedule,
        figures: LateFigures,
        evaluate: Callable[[], Ending | None],
    ) -> None:
        self._run, self._schedule, self._figures = run, schedule, figures
        self._evaluate = evaluate
        self._replay = changes_to_replay(run.control, len(run.state.rate_changes))
        self._paused = False

    def obey(self) -> Ending | None:
        """Do what was asked for since the last update; stay while the run is paused or its rows are not made yet.

        Returns:
            How the loop is to end; None: it goes on.
        """
        control, state = self._run.control, self._run.state
        for change in self._replay.pop(state.step, []):
            self._set_rate(change.new, change.mode, replayed=True)
        while True:
            waits = self._paused or not self._run.data.train.ready(state.epoch, state.window)
            asked = control.next_command(0.2 if waits else 0.0)
            if asked is None:
                if waits:
                    continue
                return None
            command = asked.command
            if refused := self._why_refused(command):
                control.refuse(asked, refused)
                continue
            if not isinstance(command, cmd.Stop):
                ending, failed = self._do(command)
                if failed:
                    control.refuse(asked, failed)
                else:
                    control.applied(asked, state.step)
                if ending:
                    return ending
                continue
            self._figures.settle()
            control.applied(asked, state.step)
            if command.save:
                save_now(self._run)
            return "stopped" if command.save else "abandoned"

    def _do(self, command: cmd.Command) -> tuple[Ending | None, str]:
        """Obey.

        Returns:
            How the loop is to end, if it is; and why it could not be done, empty where it was.
        """
        control = self._run.control
        ending, failed = None, ""
        match command:
            case cmd.Pause():
                self._figures.settle()
                self._paused = True
                on_gpu = self._run.trained.device.type == "cuda"
                control.set_state("paused", "GPU memory is kept" if on_gpu else "")
            case cmd.Resume():
                self._paused = False
                control.set_state("training")
                self._figures.start_clock()
            case cmd.SaveNow():
                with self._figures.outside_the_clock():
                    failed = save_now(self._run)
            case cmd.EvaluateNow():
                with self._figures.outside_the_clock():
                    ending = self._evaluate()
            case cmd.SetLearningRate(value, mode):
                self._set_rate(value, mode)
        return ending, failed

    def _set_rate(self, value: float, mode: cmd.RateMode, *, replayed: bool = False) -> None:
        step = self._run.state.step
        old = self._schedule.change(step, value, mode)
        self._run.control.emit(ev.LearningRateChanged(step=step, old=old, new=value, mode=mode, replayed=replayed))

    def _why_refused(self, command: cmd.Command) -> str:
        """Why a command cannot be done now; empty where it can."""
        match command:
            case cmd.Pause() if self._paused:
                return "the run is paused already"
            case cmd.Resume() if not self._paused:
                return "the run is not paused"
            case cmd.EvaluateNow() if self._run.data.evaluation is None:
                return "no rows are held out: set data.eval_fraction or data.eval_path"
            case cmd.SetLearningRate(value) if not 0 <= value <= 10:
                return f"a learning rate is a number from 0 to 10, got {value:g}"
            case cmd.ApplyRecovery():
                return f"there is no out-of-memory question to answer ({self._run.control.state})"
        return ""


def changes_to_replay(control: Control, held: int) -> dict[int, list[ev.LearningRateChanged]]:
    """Learning-rate changes made by hand that are not among the `held` ones of a checkpoint.

    Those are the first in the order of steps: a run that goes on from its newest checkpoint can
    only be changed after it.
    """
    made = [event for event in control.history() if isinstance(event, ev.LearningRateChanged) and not event.replayed]
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
        while (asked := control.next_command()) is not None:
            if isinstance(asked.command, cmd.Stop):
                control.applied(asked, 0, "before training began")
                raise StoppedEarly
            control.refuse(asked, "the run is not training yet")
        now = time.monotonic()
        if fraction is None or fraction >= 1.0 or now - last > 0.5:
            last = now
            control.emit(ev.Progress(stage, fraction=fraction))

    return report
