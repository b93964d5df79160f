"""Runs: every run under the folder, to look at, take up, copy, export or chat with.

The folder is read by a Job, again every two seconds while the screen is shown, a page of runs at first
and more when the cursor comes to the end, so that a thousand old runs cost nothing.
"""

import time

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import DataTable, Static

from ...engine.config.run_config import ConfigError
from ...engine.machine.jobs import Job
from ...engine.run.summary import RunScanner, RunSummary
from ..safe_text import safe_str
from ..widgets.lines import Line
from ..words.run import key_hint
from ..words.run_figures import LOSS_MEANING, STATES, loss_figure, steps_text, time_figure
from .base import EvenfallScreen

PAGE = 50
SCAN_SECONDS = 2.0
COLUMNS = ("name", "state", "model", "steps", "loss", "eval", "trained", "when", "size")
WIDE_ONLY = {"model", "eval", "size"}


def ago_text(seconds: float) -> str:
    """now, 5 min ago, 3 h ago, 2 days ago."""
    if seconds < 60:
        return "now"
    for size, word in ((86_400, "day"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'s' if word == 'day' and count > 1 else ''} ago"
    return "now"


def size_text(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 999.5 else f"{megabytes:.0f} MB"


class RunsScreen(EvenfallScreen):
    """A table of RunSummary rows; the verbs act on the row under the cursor."""

    NAME = "runs"
    CSS_PATH = "../styles/runs.tcss"
    AUTO_FOCUS = "DataTable"

    def __init__(self) -> None:
        super().__init__()
        self._scanner: RunScanner | None = None
        self._job: Job[tuple[list[RunSummary], int]] | None = None
        self.rows: list[RunSummary] = []
        """What the table shows."""
        self._cells: list[tuple[str, ...]] = []
        self._wanted = PAGE
        self._in_all = 0
        self._scanned_at = float("-inf")

    def compose_body(self) -> ComposeResult:
        yield Line(id="runs-line")
        yield Static(id="no-runs", markup=False)
        yield DataTable(id="runs", cursor_type="row", zebra_stripes=False)

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#no-runs").display = False
        self.poll_every(0.25, self.look)

    # Reading

    def look(self) -> None:
        """Take in what the scan has found; begin another one when it is time."""
        if self._job and self._job.done:
            job, self._job = self._job, None
            self._scanned_at = time.monotonic()
            if job.error is None:
                rows, self._in_all = job.result
                self._show(rows)
            else:
                self.tell(job.error, "error")
        if self._job is None and time.monotonic() - self._scanned_at >= SCAN_SECONDS:
            self.scan_again()

    def scan_again(self) -> None:
        scanner = self._scanner = self._scanner or RunScanner(self.desk.root)
        wanted = self._wanted
        self._job = Job(lambda job: scanner.scan(wanted, job.report), "scan-runs")

    def _show(self, rows: list[RunSummary]) -> None:
        now = time.time()
        cells = [self._cells_of(row, now) for row in rows]
        if cells != self._cells or [row.run for row in rows] != [row.run for row in self.rows]:
            self._fill(rows, cells)
        self.rows = rows
        self.query_one("#no-runs").display = not rows
        self.query_one(DataTable).display = bool(rows)
        root = safe_str(self.desk.root, 60)
        if not rows:
            lines = [
                Content.styled(f"No runs in {root}/ yet", "bold"),
                Content(""),
                key_hint(("1", "pick a model"), ("2", "pick data"), ("3", "train")),
            ]
            self.query_one("#no-runs", Static).update(Content("\n").join(lines))
        shown = f"{len(rows)} of {self._in_all} runs" if self._in_all > len(rows) else (
            f"{len(rows)} run{'' if len(rows) == 1 else 's'}"
        )  # fmt: skip
        live = sum(row.live for row in rows)
        left = Content.styled("Runs", "bold") + Content.styled(f"  in {root}/", "$text-muted")
        right = f"loss: {LOSS_MEANING} · {shown}" + (f", {live} live" if live else "")
        self.query_one("#runs-line", Line).set_data(left, Content.styled(right, "$text-muted"))
        self.refresh_keys()

    def _fill(self, rows: list[RunSummary], cells: list[tuple[str, ...]]) -> None:
        table = self.query_one(DataTable)
        chosen = self._chosen()
        narrow = self.has_class("-narrow")
        columns = [c for c in COLUMNS if not (narrow and c in WIDE_ONLY)]
        same_columns = [column.value for column in table.columns] == columns
        same_runs = same_columns and [row.run for row in rows] == [row.run for row in self.rows]
        if not same_runs:
            table.clear(columns=not same_columns)
        if not same_columns:
            for title in columns:
                table.add_column(Text(title), key=title)
        for index, (row, texts) in enumerate(zip(rows, cells, strict=True)):
            shown = self._styled(row, texts)
            if not same_runs:
                table.add_row(*[shown[title] for title in columns], key=str(row.run.path))
            elif texts != self._cells[index]:
                for title in columns:
                    table.update_cell(str(row.run.path), title, shown[title])
        self._cells = cells
        if not same_runs and chosen:
            for index, row in enumerate(rows):
                if row.run == chosen.run:
                    table.move_cursor(row=index)

    def _styled(self, row: RunSummary, texts: tuple[str, ...]) -> dict[str, Text]:
        colors = self.app.theme_variables
        styles = dict.fromkeys(COLUMNS, colors["text"])
        styles["state"] = colors[STATES[row.state][2]]
        styles["when"] = styles["size"] = colors["text-muted"]
        return {title: Text(text, styles[title]) for title, text in zip(COLUMNS, texts, strict=True)}

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
        self.call_after_refresh(self._fill, self.rows, self._cells)

    @staticmethod
    def _cells_of(row: RunSummary, now: float) -> tuple[str, ...]:
        glyph, word, _ = STATES[row.state]
        return (
            safe_str(row.run.name, 28),
            f"{glyph} {word}",
            safe_str(row.model, 20),
            "-" if row.state == "new" else steps_text(row.step, row.total_steps),
            loss_figure(row.loss),
            loss_figure(row.evaluation),
            time_figure(row.trained_seconds),
            ago_text(now - row.when),
            size_text(row.megabytes),
        )

    # Verbs

    def _chosen(self) -> RunSummary | None:
        at = self.query_one(DataTable).cursor_row
        return self.rows[at] if 0 <= at < len(self.rows) else None

    def why_not(self, verb: str) -> str | None:
        row = self._chosen()
        if row is None:
            return "there is no run here yet"
        if verb == "resume_run":
            if row.live:
                return "this run is going"
            if row.state == "finished":
                return "this run is complete"
            if not row.resumable:
                return "this run has no checkpoint to go on from"
            return "a run is going: stop it first" if self.desk.busy else None
        if verb in ("export_run", "chat_run") and not row.run.adapter.exists():
            return "this run has no adapter yet" if not row.checkpoints else None
        return None

    @on(DataTable.RowHighlighted)
    def _moved(self, message: DataTable.RowHighlighted) -> None:
        message.stop()
        self.refresh_keys()
        if message.cursor_row >= len(self.rows) - 5 and len(self.rows) < self._in_all:
            self._wanted = len(self.rows) + PAGE
            if self._job is None:
                self.scan_again()

    @on(DataTable.RowSelected)
    def _entered(self, message: DataTable.RowSelected) -> None:
        message.stop()
        self.action_open_run()

    def action_open_run(self) -> None:
        if row := self._chosen():
            self.desk.chosen_run = row.run
            self.desk.view_run(row.run)

    def action_resume_run(self) -> None:
        if row := self._chosen():
            self.desk.resume_run(row.run)

    def action_clone_run(self) -> None:
        row = self._chosen()
        if row is None:
            return
        try:
            config = row.run.config()
        except ConfigError as error:
            self.tell(error, "error")
            return
        self.desk.set_draft(config.model_copy(update={"name": None}))
        self.tell(f"The next run is set up like {row.run.name}: 1 and 2 change it, 3 starts it")

    def action_export_run(self) -> None:
        if row := self._chosen():
            self.desk.chosen_run = row.run
            self.evenfall.show("export")

    def action_chat_run(self) -> None:
        if row := self._chosen():
            self.desk.chosen_run = row.run
            self.evenfall.show("chat")
