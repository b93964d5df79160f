"""Runs: every run under the folder, to look at, take up, copy, export or chat with, name, note and delete.

The folder is read by a Job, again every two seconds while the screen is shown. A page of the newest runs is read at
first and more when the cursor comes to the end, so that a thousand old runs cost nothing; a search, and any order but
the newest first, read on until they know all.
"""

import time
from pathlib import Path

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import DataTable, Input, Static

from ...engine.config.run_config import ConfigError
from ...engine.machine.jobs import Job
from ...engine.run.registry import identity, other_places
from ...engine.run.summary import RunScanner, RunSummary
from ..safe_text import safe_str, safe_text
from ..value_text import counted
from ..widgets.field import TextField
from ..widgets.lines import Line
from ..words.run import key_hint
from ..words.run_figures import LOSS_MEANING, STATES
from ..words.run_rows import COLUMNS, Order, cells_of, matches, shown_columns
from .base import EvenfallScreen
from .dialogs.run_changes import RunChanges

PAGE = 50
READ_ON = 4 * PAGE
"""Runs that a search reads at once: what it has found so far is shown in between."""
SCAN_SECONDS = 2.0


class RunsScreen(EvenfallScreen):
    """A table of RunSummary rows; the verbs act on the row under the cursor."""

    NAME = "runs"
    CSS_PATH = "../styles/runs.tcss"
    AUTO_FOCUS = "DataTable"

    def __init__(self) -> None:
        super().__init__()
        self._scanner: RunScanner | None = None
        self._job: Job[tuple[list[RunSummary], int]] | None = None
        self._read: list[RunSummary] = []
        """What is known, the run that was active last first."""
        self.rows: list[RunSummary] = []
        """What the table shows."""
        self._cells: list[tuple[str, ...]] = []
        self._page = PAGE
        """Rows that the table shows at most."""
        self._in_all = self._found = 0
        self._scanned_at = float("-inf")
        self._order = Order()
        self._ask_failed = False
        """The failed starts are asked about once all runs are read."""
        self._changes = RunChanges(self)
        self._root: Path | None = None
        """The folder that is shown, where it is not the app's own."""

    def compose_body(self) -> ComposeResult:
        yield Line(id="runs-line")
        with Horizontal(id="runs-search"):
            yield Static("Search", id="runs-search-name", markup=False)
            yield TextField(placeholder="words of a name, model, state or note", id="runs-find")
        yield Static(id="no-runs", markup=False)
        yield DataTable(id="runs", cursor_type="row", zebra_stripes=False)
        yield Static(id="run-note", markup=False)

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one("#no-runs").display = False
        self.query_one("#runs-search").display = False
        self.poll_every(0.25, self.look)

    # Reading

    @property
    def root(self) -> Path:
        """The folder whose runs are shown."""
        return self._root or self.desk.root

    @property
    def _words(self) -> list[str]:
        return self.query_one("#runs-find", TextField).value.casefold().split()

    @property
    def _wants_all(self) -> bool:
        return self._ask_failed or self._order != Order() or bool(self._words)

    def look(self) -> None:
        """Take in what a scan has found, and what has become of an edit; begin another scan when it is time."""
        if self._job and self._job.done:
            job, self._job = self._job, None
            self._scanned_at = time.monotonic()
            if job.error is None:
                self._read, self._in_all = job.result
                self._show()
            else:
                self.tell(job.error, "error")
        if self._changes.poll():
            self._run_changed()
        behind = len(self._read) < self._in_all and self._wants_all
        if self._job is None and (behind or time.monotonic() - self._scanned_at >= SCAN_SECONDS):
            self.scan_again()
        if self._ask_failed and self._read and not behind:
            self._ask_failed = False
            self._changes.delete_failed(self._read)

    def scan_again(self) -> None:
        scanner = self._scanner = self._scanner or RunScanner(self.root)
        wanted = max(self._page, len(self._read) + READ_ON * self._wants_all)
        self._job = Job(lambda job: scanner.scan(wanted, job.report), "scan-runs")

    def _show(self) -> None:
        """Show what is known, as it is searched and sorted."""
        words, now = self._words, time.time()
        found = self._order.sort([row for row in self._read if matches(row, words)])
        self._found = len(found)
        rows = found[: self._page]
        cells = [cells_of(row, now) for row in rows]
        self._fill(rows, cells)
        self.query_one("#no-runs").display = not rows
        self.query_one(DataTable).display = bool(rows)
        if not rows:
            self.query_one("#no-runs", Static).update(self._nothing(words))
        left = Content.styled("Runs", "bold")
        left += Content.styled(f"  in {safe_str(self.root, 60)}/", "$text-muted")
        self.query_one("#runs-line", Line).set_data(left, Content.styled(self._account(), "$text-muted"))
        self._show_note()
        self.refresh_keys()

    def _nothing(self, words: list[str]) -> Content:
        if self._read and words:
            typed = safe_str(" ".join(words), 60)
            return Content.styled(f"No run matches {typed}", "bold") + Content("\n\n") + key_hint(("esc", "all runs"))
        lines = [
            Content.styled(f"No runs in {safe_str(self.root, 60)}/ yet", "bold"),
            Content(""),
            key_hint(("1", "pick a model"), ("2", "pick data"), ("3", "train")),
        ]
        return Content("\n").join(lines)

    def _account(self) -> str:
        """How many runs there are, and what of them is shown."""
        if self._changes.doing:
            return f"{safe_str(self._changes.doing, 80)}…"
        read, in_all = len(self._read), self._in_all
        if self._wants_all and read < in_all:
            return f"{self._found} of the {read:,} read so far, of {in_all:,} runs"
        if self._words:
            return f"{self._found:,} of {counted(in_all, 'run')}"
        shown = f"{len(self.rows):,} of {in_all:,} runs" if in_all > len(self.rows) else counted(in_all, "run")
        live = sum(row.live for row in self._read)
        return f"loss: {LOSS_MEANING} · {shown}" + (f", {live} live" if live else "")

    def _fill(self, rows: list[RunSummary], cells: list[tuple[str, ...]]) -> None:
        table = self.query_one(DataTable)
        chosen, at = self._chosen(), table.cursor_row
        titles = shown_columns(self.size.width, self._order, any(row.note for row in rows))
        heads = [f"{title} {self._order.mark}" if title == self._order.column else title for title in titles]
        same_columns = [str(column.label) for column in table.columns.values()] == heads
        same_runs = same_columns and [row.run for row in rows] == [row.run for row in self.rows]
        if not same_runs:
            table.clear(columns=not same_columns)
        if not same_columns:
            for title, head in zip(titles, heads, strict=True):
                table.add_column(Text(head), key=title)
        for index, (row, texts) in enumerate(zip(rows, cells, strict=True)):
            if same_runs and texts == self._cells[index]:
                continue
            shown = self._styled(row, texts)
            if not same_runs:
                table.add_row(*[shown[title] for title in titles], key=str(row.run.path))
            else:
                for title in titles:
                    table.update_cell(str(row.run.path), title, shown[title], update_width=True)
        self.rows, self._cells = rows, cells
        if not same_runs and chosen:
            stays = next((place for place, row in enumerate(rows) if row.run == chosen.run), at)
            table.move_cursor(row=stays)

    def _styled(self, row: RunSummary, texts: tuple[str, ...]) -> dict[str, Text]:
        colors = self.app.theme_variables
        styles = dict.fromkeys(COLUMNS, colors["text"])
        styles["state"] = colors[STATES[row.state][2]]
        styles["when"] = styles["size"] = styles["note"] = colors["text-muted"]
        return {title: Text(text, styles[title]) for title, text in zip(COLUMNS, texts, strict=True)}

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
        self.call_after_refresh(lambda: self._fill(self.rows, self._cells))

    def _show_note(self) -> None:
        row, parts = self._chosen(), []
        if row and row.run.path.absolute().parent != self.root.absolute():
            parts.append(Content.assemble(("in    ", "$text-muted")) + safe_text(row.run.path.parent, 300))
        if row and row.note:
            parts.append(Content.assemble(("note  ", "$text-muted")) + safe_text(row.note, 300))
        self.query_one("#run-note", Static).update(Content("\n").join(parts))

    # Search and order

    @on(Input.Changed, "#runs-find")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._page = PAGE
        self._show()

    @on(TextField.Committed, "#runs-find")
    def _searched(self, event: TextField.Committed) -> None:
        event.stop()
        if event.entered:
            self._to_rows()

    def _to_rows(self) -> None:
        self.query_one("#runs-search").display = bool(self._words)
        self.query_one(DataTable).focus()

    def left(self) -> None:
        super().left()
        self._ask_failed = False
        self._to_rows()

    def _sort(self, order: Order) -> None:
        self._order, self._page = order, PAGE
        self._show()
        self.query_one(DataTable).move_cursor(row=0)

    @on(DataTable.HeaderSelected)
    def _head(self, message: DataTable.HeaderSelected) -> None:
        message.stop()
        self._sort(self._order.by(message.column_key.value or ""))

    # Verbs

    def _chosen(self) -> RunSummary | None:
        at = self.query_one(DataTable).cursor_row
        return self.rows[at] if 0 <= at < len(self.rows) else None

    def why_not(self, verb: str) -> str | None:
        if verb in ("find_run", "leave_search"):
            return None
        if verb == "next_place":
            return None if len(self._places()) > 1 else "runs were made in no other folder"
        row = self._chosen()
        if row is None:
            return "no run matches the search" if self._read else "there is no run here yet"
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
        if verb in ("delete_run", "rename_run", "delete_failed", "note_run") and self._changes.doing:
            return f"{self._changes.doing}: wait for it"
        if verb in ("delete_run", "rename_run") and row.live:
            return "this run is going: enter opens it, then x stops it"
        return None

    @on(DataTable.RowHighlighted)
    def _moved(self, message: DataTable.RowHighlighted) -> None:
        message.stop()
        self._show_note()
        self.refresh_keys()
        if message.cursor_row < len(self.rows) - 5:
            return
        if len(self.rows) < self._found or len(self._read) < self._in_all:
            self._page = len(self.rows) + PAGE
            if len(self.rows) < self._found:
                self._show()
            elif self._job is None:
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

    def action_find_run(self) -> None:
        self.query_one("#runs-search").display = True
        self.query_one("#runs-find", TextField).focus()

    def action_leave_search(self) -> None:
        self.query_one("#runs-find", TextField).put("")
        self._to_rows()
        self._show()

    def _places(self) -> list[Path]:
        """The app's own folder of runs, and others that were used, always in the same order."""
        return [self.desk.root.absolute(), *sorted(other_places(self.desk.root))]

    def action_next_place(self) -> None:
        places, shown = self._places(), identity(self.root)
        at = next((at for at, place in enumerate(places) if identity(place) == shown), -1)
        self._root = places[(at + 1) % len(places)]
        self._scanner, self._page, self._read, self._in_all = None, PAGE, [], 0
        self._run_changed()
        self._show()

    def action_sort_runs(self) -> None:
        self._sort(self._order.next())

    def action_turn_order(self) -> None:
        self._sort(self._order.by(self._order.column))

    # Changing runs

    def _run_changed(self) -> None:
        if self._job:
            self._job = None  # it may have seen what was there before
        self.scan_again()

    def action_delete_run(self) -> None:
        if row := self._chosen():
            self._changes.delete(row, [other.run for other in self._read])

    def action_rename_run(self) -> None:
        if row := self._chosen():
            self._changes.rename(row)

    def action_note_run(self) -> None:
        if row := self._chosen():
            self._changes.note(row)

    def action_delete_failed(self) -> None:
        self._ask_failed = True
        self.look()
