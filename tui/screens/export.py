"""Export: write a run's adapter, or the base with the adapter merged in, and prove what was written.

What is written comes from the best adapter that there is, which is another one once the run saves or ends;
only a checkpoint that was chosen while the screen is looked at stays chosen, and only until it is gone.

Everything heavy runs in a job. Cancelling it removes what it had written: the engine writes beside the
place and renames at the end, so an export is there whole or not at all.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ...engine.machine.jobs import Job
from ...engine.run.directory import RunDirectory
from ...engine.run.facts import Kept, RunFacts, read_facts, saved_key
from ..safe_text import safe_text
from ..state.machine import disk_free_gb
from ..widgets.field import Choice, Tick
from ..widgets.job_line import JobLine
from ..words import data, export
from .base import EvenfallScreen
from .dialogs.pick_run import pick_run

if TYPE_CHECKING:
    from ...engine.export.form import Exported

FORMS = ("adapter", "merged")


def write_export(run: RunDirectory, forms: Sequence[str], checkpoint: int | None, job: Job[Any]) -> "list[Exported]":
    """Runs in a job."""
    from ...engine.export.run import export_run

    return export_run(run, forms, checkpoint=checkpoint, report=job.report)


class ExportScreen(EvenfallScreen):
    NAME = "export"
    CSS_PATH = "../styles/export.tcss"

    def __init__(self) -> None:
        super().__init__()
        self._facts: RunFacts | None = None
        self._key: tuple[object, ...] | None = None
        self._reading: Job[RunFacts] | None = None
        self._writing: Job[list[Exported]] | None = None
        self._outcome: Content | None = None
        self._written = ""
        """What the export under way, or the last one, is made from."""
        self._picked: str | None = None
        """The adapter that the user has chosen since the screen came to the front."""

    def compose_body(self) -> ComposeResult:
        yield Static("", id="export-run", markup=False)
        with Horizontal(id="export-from"):
            yield Static("from", classes="export-name", markup=False)
            yield Choice([("", "…")], id="export-kept")
            yield Static("", id="export-newer", markup=False)
        for form in FORMS:
            with Horizontal(classes="export-form"):
                yield Tick(form, form == "adapter", id=f"form-{form}")
                yield Static("", id=f"about-{form}", markup=False)
        yield Static("", id="export-disk", markup=False)
        yield JobLine("esc cancels", id="export-job")
        with VerticalScroll(id="export-scroll", can_focus=False):
            yield Static("", id="export-outcome", markup=False)

    def on_mount(self) -> None:
        super().on_mount()
        self.poll_every(0.25, self._poll)
        self.poll_every(1.0, self.source_changed)  # a run of another process tells this one nothing

    def left(self) -> None:
        super().left()
        self._picked = None
        if self._facts:
            self._take_facts(self._facts)

    def on_unmount(self) -> None:
        if self._writing:
            self._writing.cancel()
            self._writing.wait(2.0)

    # The run

    def source_changed(self) -> None:
        run = self.desk.chosen_run
        key = None if run is None else (run.path, saved_key(run), run.is_live(), self.desk.busy)
        if run is None or self._key is None or run.path != self._key[0]:
            self._facts, self._outcome, self._picked = None, None, None
        if run is not None and key != self._key:
            self._read(run)
        self._key = key
        self._show()

    def _read(self, run: RunDirectory) -> None:
        self._reading = Job(lambda job: read_facts(run), "run-facts")

    def _poll(self) -> None:
        if self._reading and self._reading.done:
            reading, self._reading = self._reading, None
            if reading.error is not None:
                self._facts, self._outcome = None, data.failure(reading.error)
            else:
                self._take_facts(reading.result)
            self._show()
        job = self._writing
        if job is None:
            return
        if not job.done:
            self.query_one(JobLine).set_data(job.message or "starting", job.fraction)
            return
        self._writing = None
        self.query_one(JobLine).set_data("")
        self._finish(job)

    def _take_facts(self, facts: RunFacts) -> None:
        if self._facts is None and self.focused is None:  # until now there was nothing to choose
            self.call_later(self.query_one("#form-adapter", Tick).focus)
        self._facts = facts
        names = [(_kept_id(kept), export.kept_name(kept, facts)) for kept in facts.kept]
        values = [value for value, _ in names]
        if self._picked not in values:
            self._picked = None
        self.query_one("#export-kept", Choice).set_options(names, self._picked or next(iter(values), ""))

    def _finish(self, job: "Job[list[Exported]]") -> None:
        if job.cancelled:
            self._outcome = Content.styled("Cancelled; nothing was left behind.", "$warning")
        elif job.error is not None:
            self._outcome = data.failure(job.error, "x tries again")
        else:
            self._outcome = export.exported(job.result, self._written)
            self.desk.set_mark("export", "done")
        if self._facts:
            self._read(self._facts.run)
        self._show()

    # What is shown

    def _show(self) -> None:
        facts, usable = self._facts, bool(self._facts and self._facts.kept)
        for part in self.query("#export-from, .export-form, #export-disk"):
            part.display = usable
        line = self.query_one("#export-run", Static)
        if self.desk.chosen_run is None:
            line.update(export.no_run("to export"))
        elif facts is None:
            line.update(safe_text(f"reading {self.desk.chosen_run.name}…", style="$text-muted"))
        else:
            line.update(export.run_line(facts))
        if facts and usable:
            self._show_sizes(facts)
        self.query_one("#export-scroll").display = usable or self._outcome is not None
        outcome = self.query_one("#export-outcome", Static)
        if self._writing is not None:
            outcome.update("")
        elif self._outcome is not None:
            outcome.update(self._outcome)
        else:
            outcome.update(export.export_hint(facts) if facts and usable else "")
        self.refresh_keys()

    def _show_sizes(self, facts: RunFacts) -> None:
        kept = self._kept(facts)
        self.query_one("#export-newer", Static).update(export.newer(kept, facts))
        sizes = export.export_sizes(facts, kept)
        forms = self._forms()
        for form, (size, words) in sizes.items():
            shown = export.form_line(size, words, ticked=form in forms)
            self.query_one(f"#about-{form}", Static).update(shown)
        needed = sum(sizes[form][0] or 0.0 for form in forms)
        free = disk_free_gb(facts.run.path)
        self.query_one("#export-disk", Static).update(export.disk_line(free, needed, facts.run.exports))

    def _kept(self, facts: RunFacts) -> Kept:
        value = self.query_one("#export-kept", Choice).value
        return next((kept for kept in facts.kept if _kept_id(kept) == value), facts.kept[0])

    def _forms(self) -> list[str]:
        return [form for form in FORMS if self.query_one(f"#form-{form}", Tick).value]

    @on(Choice.Changed, "#export-kept")
    def _pick(self, event: Choice.Changed) -> None:
        self._picked = event.value
        self._show()

    @on(Tick.Changed)
    def _changed(self) -> None:
        self._show()

    # Verbs

    def why_not(self, verb: str) -> str | None:
        if verb not in ("start_export", "export_pick"):
            return None
        if self._writing is not None:
            return "an export is going; esc cancels it"
        if verb == "export_pick":
            return None if self.desk.chosen_run else "there is no run yet: 3 starts one"
        if self.desk.chosen_run is None:
            return "there is no run yet: 3 starts one"
        if self._facts is None:
            return "the run is still being read"
        if not self._facts.kept:
            return "this run has saved nothing yet"
        if not self._forms():
            return "tick what to write first (space ticks)"
        if "merged" in self._forms() and self.desk.busy:
            return "merging needs the memory that the run uses: stop or finish it first"
        return None

    def action_start_export(self) -> None:
        facts = self._facts
        if facts is None or not facts.kept:
            return
        kept = self._kept(facts)
        forms, step = self._forms(), kept.step
        self._outcome, self._written = None, export.kept_name(kept, facts)
        self._writing = self.desk.start_job(lambda job: write_export(facts.run, forms, step, job), "export")
        self._poll()
        self._show()

    def action_export_pick(self) -> None:
        pick_run(self)

    def action_stop_export(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        else:
            self.set_focus(None)


def _kept_id(kept: Kept) -> str:
    return "final" if kept.step is None else str(kept.step)
