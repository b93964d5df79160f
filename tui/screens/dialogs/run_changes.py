"""What the Runs screen does to runs: each change is asked for in a dialog and done by a Job, one at a time.

A run of many gigabytes takes its time to remove. What the desk shares of a run follows it, or is let go with it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ....engine.errors import UserError
from ....engine.machine.jobs import Job
from ....engine.run.directory import NOTE_LIMIT, RunDirectory, RunError
from ....engine.run.edit import check_name, delete_run, read_contents, rename_run, set_note
from ....engine.run.summary import RunSummary, summarise
from ...value_text import counted
from ...words.run_rows import freed_text
from ..base import EvenfallScreen
from .run_edit import DeleteFailedModal, DeleteRunModal, LineModal


class RunChanges:
    """Deletes, renames and annotates runs on behalf of a screen, which polls it."""

    def __init__(self, screen: EvenfallScreen) -> None:
        self._screen = screen
        self.doing = ""
        """What is being done now; empty: nothing."""
        self._job: Job[Any] | None = None
        self._then: Callable[[Any], None] = lambda result: None

    def poll(self) -> bool:
        """Take in what has become of a change; True where one has ended, well or not."""
        if self._job is None or not self._job.done:
            return False
        job, self._job, self.doing = self._job, None, ""
        if job.exception is None:
            self._then(job.result)
        else:
            told = job.exception.told() if isinstance(job.exception, UserError) else job.error
            self._screen.tell(told, "error")
        return True

    def _do(self, doing: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self.doing, self._then = doing, then
        self._job = Job(lambda job: work(), "change-run")
        self._screen.refresh_keys()

    def delete(self, row: RunSummary, runs: Sequence[RunDirectory]) -> None:
        """Ask, and delete. `runs` are all that are known, the newest first."""
        contents = read_contents(row.run)
        freed = "" if contents.link_to is not None else f", {freed_text(row.megabytes)} freed"

        def answered(delete: bool | None) -> None:
            if delete:
                self._do(
                    f"{row.run.name} is being deleted",
                    lambda: delete_run(row.run),
                    lambda _: self._deleted([row.run], runs, f"{row.run.name} is deleted{freed}"),
                )

        self._screen.app.push_screen(DeleteRunModal(row, contents), answered)

    def delete_failed(self, rows: Sequence[RunSummary]) -> None:
        """Ask, and delete those of all runs that are failed starts."""
        failed = [row for row in rows if row.failed_start]
        if not failed:
            self._screen.tell(f"Of {counted(len(rows), 'run')}, none is a failed start")
            return

        def done(outcome: tuple[list[RunDirectory], list[str]]) -> None:
            deleted, kept = outcome
            self._deleted(deleted, [row.run for row in rows], f"{counted(len(deleted), 'failed start')} deleted")
            if kept:
                self._screen.tell("\n".join([f"{counted(len(kept), 'run')} not deleted:", *kept[:3]]), "error")

        def answered(delete: bool | None) -> None:
            if delete:
                runs = [row.run for row in failed]
                self._do("the failed starts are being deleted", lambda: _delete_failed(runs), done)

        self._screen.app.push_screen(DeleteFailedModal(failed), answered)

    def _deleted(self, gone: Sequence[RunDirectory], runs: Sequence[RunDirectory], told: str) -> None:
        left = (run for run in runs if not any(run.is_same(one) for one in gone))
        self._screen.desk.runs_gone(gone, next(left, None))
        self._screen.tell(told)

    def rename(self, row: RunSummary) -> None:
        """Ask for the name, and give it."""

        def check(name: str) -> str:
            try:
                check_name(row.run, name.strip())
            except RunError as error:
                return error.told()
            return ""

        def answered(name: str | None) -> None:
            if name is not None and name.strip() != row.run.name:
                self._do(
                    f"{row.run.name} is being renamed",
                    lambda: rename_run(row.run, name.strip()),
                    lambda moved: self._screen.desk.run_moved(row.run, moved),
                )

        about = "Its folder, and name in its run.yaml: up to 64 letters, digits, . _ and -"
        dialog = LineModal(title="Rename the run", value=row.run.name, about=about, check=check)
        self._screen.app.push_screen(dialog, answered)

    def note(self, row: RunSummary) -> None:
        """Ask for the line, and keep it."""

        def check(note: str) -> str:
            over = len(" ".join(note.split())) - NOTE_LIMIT
            return f"a note has at most {NOTE_LIMIT} characters: {over} too many" if over > 0 else ""

        def answered(note: str | None) -> None:
            if note is not None and note != row.note:
                doing = f"the note on {row.run.name} is being written"
                self._do(doing, lambda: set_note(row.run, note), lambda _: None)

        about = "One line that stays with the run; empty: none"
        dialog = LineModal(title=f"Note on {row.run.name}", value=row.note, about=about, check=check)
        self._screen.app.push_screen(dialog, answered)


def _delete_failed(runs: Sequence[RunDirectory]) -> tuple[list[RunDirectory], list[str]]:
    """Delete those that are failed starts still; those that are gone, and why others are not."""
    deleted, kept = [], []
    for run in runs:
        try:
            if not summarise(run).failed_start:
                kept.append(f"{run.name}: has begun meanwhile")
                continue
            delete_run(run)
            deleted.append(run)
        except RunError as error:
            kept.append(str(error))
    return deleted, kept
