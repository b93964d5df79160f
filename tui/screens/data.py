"""Data: what is learnt from, and how every row will reach the model.

The preview prepares the data exactly as a run does, on a thread, whenever what it depends on has
changed: a wrong format or mask is seen here, before GPU time is spent on it. What is wrong with the data
is said in place of the rows, with file, row and fix.
"""

from typing import TYPE_CHECKING, Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from ...engine.config import ConfigError, RunConfig
from ...engine.jobs import Job
from .. import describe
from ..safe_text import safe_text
from ..settings import FIELDS, override_of, value_of
from ..value_text import field_text
from ..widgets.field import Choice, TextField
from ..widgets.histogram import Histogram
from ..widgets.job_line import JobLine
from ..widgets.token_view import LEGEND, TokenView
from .base import EvenfallScreen

if TYPE_CHECKING:
    from ...engine.data.preview import DataPreview

KEYS = {
    "data-path": "data.path",
    "data-format": "data.format",
    "data-length": "data.max_length",
    "data-held": "data.eval_fraction",
    "data-learn": "data.assistant_only_loss",
}
"""Field -> the configuration key that it edits."""
_PATH = "file, folder, hub id, or demo"


def load_preview(config: RunConfig, job: Job[Any]) -> "DataPreview":
    """Runs in a job: the preview needs the model's tokenizer."""
    from ...engine.data.preview import build_preview

    return build_preview(config, job)


def preview_key(config: RunConfig) -> tuple[object, ...]:
    """What a preview depends on."""
    return (config.model.name_or_path, config.model.revision, config.data, config.train.seed)


class DataScreen(EvenfallScreen):
    NAME = "data"
    CSS_PATH = "../styles/data.tcss"

    def __init__(self) -> None:
        super().__init__()
        self._job: Job[DataPreview] | None = None
        self._key: tuple[object, ...] | None = None
        self._preview: DataPreview | None = None
        self._error = ""
        self._row = 0
        self._raw = False

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="data-line"):
            yield Static("Data", classes="data-name", markup=False)
            yield TextField(
                placeholder=_PATH,
                id="data-path",
            )
            yield Static("learn", classes="data-label", markup=False)
            yield Choice([("true", "answers"), ("false", "all")], id="data-learn")
        with Horizontal(id="data-options"):
            yield Static("format", classes="data-name", markup=False)
            yield Choice([(word, word) for word in FIELDS["data.format"].choices], id="data-format")
            yield Static("max length", classes="data-label", markup=False)
            yield TextField(id="data-length")
            yield Static("held out", classes="data-label", markup=False)
            yield TextField(id="data-held")
        yield JobLine("esc cancels", id="data-job")
        yield Static("", id="data-status", markup=False)
        with Container(id="data-panes"):
            with Vertical(id="data-rows"):
                yield Static("", id="data-row", markup=False)
                yield TokenView(id="data-tokens")
                yield Static(
                    LEGEND + Content.assemble(("      3", "$accent bold"), " goes on to training"),
                    id="data-legend",
                    markup=False,
                )
            yield Histogram(id="data-lengths")

    def on_mount(self) -> None:
        super().on_mount()
        self.query_one(TokenView).focus()
        self.poll_every(0.25, self._poll)

    # The draft and its preview

    def draft_changed(self) -> None:
        draft = self.evenfall.draft
        for name, key in KEYS.items():
            control = self.query_one(f"#{name}")
            if isinstance(control, TextField | Choice) and not (
                isinstance(control, TextField) and control.has_focus
            ):
                control.put(field_text(value_of(draft, key)))
        several = len(draft.data.datasets)
        self.query_one("#data-path", TextField).placeholder = (
            f"{several} data sets of run.yaml; a path here takes their place" if several else _PATH
        )
        if preview_key(draft) != self._key:
            self._read()

    def _read(self) -> None:
        if self._job:
            self._job.cancel()
        config = self.evenfall.draft
        self._key, self._error = preview_key(config), ""
        self._job = self.evenfall.start_job(lambda job: load_preview(config, job), "preview")
        self._show()
        self._poll()

    def _poll(self) -> None:
        job = self._job
        if job is None:
            return
        if not job.done:
            self.query_one(JobLine).set_data(job.message or "reading", job.fraction)
            return
        self._job, self._preview = None, None
        self.query_one(JobLine).set_data("")
        if job.cancelled:
            self._error = "Reading was cancelled."
        elif job.error is not None:
            self._error = job.error
        else:
            self._preview, self._row, self._raw = job.result, 0, False
        self.evenfall.set_mark("data", "done" if self._preview else "attention")
        self._show()

    # What is shown

    def _show(self) -> None:
        preview = self._preview
        self.query_one("#data-panes").set_class(self._job is not None, "-stale")
        self.query_one("#data-panes").display = preview is not None and not self._error
        status = self.query_one("#data-status", Static)
        if self._error:
            status.update(describe.failure(self._error, "/ gives another path · u reads again"))
        elif preview is None:
            status.update(Content.styled("The first rows appear here.", "$text-muted"))
        else:
            report = preview.report
            status.update(describe.preview(report))
            self.query_one(Histogram).set_data(report.lengths, report.max_length)
            self._show_row()
        self.refresh_keys()

    def _show_row(self) -> None:
        preview = self._preview
        if preview is None:
            return
        head, view = self.query_one("#data-row", Static), self.query_one(TokenView)
        if self._raw:
            number = preview.rows_shown[0].number
            head.update(Content.styled(f"row {number:,} as it stands in the file", "bold"))
            view.set_raw(preview.raw)
            return
        row = preview.rows_shown[self._row]
        share = 100 * row.trained / row.tokens if row.tokens else 0
        head.update(
            Content.assemble(
                (f"row {row.number:,}", "bold"),
                f" · {row.tokens:,} tokens, {row.trained:,} learnt ({share:.0f} %)",
                (f"   {self._row + 1} of the first {len(preview.rows_shown)}", "$text-muted"),
            )
        )
        view.set_runs((run.text, run.trained, run.special) for run in row.runs)

    # Editing

    @on(TextField.Committed)
    def _typed(self, event: TextField.Committed) -> None:
        self._set(event.field, event.text)
        if event.entered and not event.field.has_class("-bad"):
            self.query_one(TokenView).focus()

    @on(Choice.Changed)
    def _turned(self, event: Choice.Changed) -> None:
        self._set(event.choice, event.value)

    def _set(self, control: TextField | Choice, text: str) -> None:
        key = KEYS[control.id or ""]
        try:
            self.evenfall.update_draft([override_of(key, text)])
        except ConfigError as error:
            if isinstance(control, TextField):
                control.mark_bad(True)
            self.query_one("#data-status", Static).update(
                safe_text(error, 400, style="$text-error")
            )
            return
        if isinstance(control, TextField):
            control.mark_bad(False)
        if self._job is None:  # nothing to read anew: take a refusal off the screen
            self._show()

    # Verbs

    def why_not(self, verb: str) -> str | None:
        if verb not in ("next_row", "previous_row", "raw"):
            return None
        if self._job is not None:
            return "the data is still being read"
        if self._preview is None:
            return "there are no rows to show: give a data set first (/)"
        if self._raw and verb != "raw":
            return None
        if verb == "next_row" and self._row + 1 >= len(self._preview.rows_shown):
            return "this is the last row shown; the run takes all of them"
        if verb == "previous_row" and self._row == 0:
            return "this is the first row"
        return None

    def verb_title(self, verb: str) -> str | None:
        return "Tokens" if verb == "raw" and self._raw else None

    def action_data_path(self) -> None:
        self.query_one("#data-path", TextField).focus()

    def action_next_row(self) -> None:
        self._step(1)

    def action_previous_row(self) -> None:
        self._step(-1)

    def _step(self, by: int) -> None:
        if self._preview is None:
            return
        last = len(self._preview.rows_shown) - 1
        self._raw, self._row = False, min(last, max(0, self._row + by))
        self._show_row()
        self.refresh_keys()

    def action_raw(self) -> None:
        self._raw = not self._raw
        self._show_row()
        self.refresh_keys()

    def action_reload(self) -> None:
        self._read()

    def action_stop_reading(self) -> None:
        if self._job is not None:
            self._job.cancel()
        else:
            self.query_one(TokenView).focus()
