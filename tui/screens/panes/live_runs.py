"""The runs that are live, wherever they were started, on the first screen; hidden while there is none."""

from typing import TYPE_CHECKING

from textual.widgets import Static

from ....engine.machine.jobs import Job
from ..base import EvenfallScreen

if TYPE_CHECKING:
    from ....engine.run.summary import RunSummary

LOOK_SECONDS = 2.0


class LiveRuns(Static):
    """Its screen asks it to `look` now and then; the files are read on a thread."""

    DEFAULT_CSS = "LiveRuns { height: auto; padding: 0 1; display: none; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.runs: list[RunSummary] = []
        """What was found, the run that was started last first."""
        self._job: Job[list[RunSummary]] | None = None

    def look(self) -> None:
        """Show what was found since the last time, and look anew."""
        if self._job is not None and not self._job.done:
            return
        if self._job is not None and self._job.error is None:
            self._show(self._job.result)
        self._job = Job(lambda job: _summaries(), "live-runs")

    def _show(self, runs: "list[RunSummary]") -> None:
        from ...words.live import live_lines

        self.runs = runs
        self.display = bool(runs)
        self.update(live_lines(runs))
        if isinstance(self.screen, EvenfallScreen):
            self.screen.refresh_keys()


def _summaries() -> "list[RunSummary]":
    """Runs in a job: imports what reads runs, which is not for the first paint."""
    from ....engine.run.directory import RunDirectory
    from ....engine.run.registry import live_runs
    from ....engine.run.summary import summarise

    return [summary for run in live_runs() if (summary := summarise(RunDirectory(run.path))).live]
