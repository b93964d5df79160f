"""Data: what is learnt from, and how every row will reach the model (`widgets/inspector.py`).

The preview prepares the data exactly as a run does, on a thread, whenever what it depends on has
changed: a wrong format or mask is seen here, before GPU time is spent on it. What is wrong with the data
is said in place of the rows, with file, row and fix.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from textual import on
from textual.app import ComposeResult
from textual.containers import Container, Horizontal
from textual.content import Content
from textual.widgets import Input, Static

from ...engine.config.run_config import DataConfig, RunConfig
from ...engine.machine.jobs import Job
from ..safe_text import safe_text
from ..state.refused import DraftField
from ..state.settings import FIELDS, override_of, value_of
from ..value_text import field_text
from ..widgets.field import Choice, TextField
from ..widgets.histogram import Histogram
from ..widgets.job_line import JobLine
from ..widgets.path_field import PathField
from ..words import data
from ..words.paths import offered
from .base import WIDTH_CLASSES, EvenfallScreen
from .dialogs.columns import ColumnsModal
from .panes.check_pane import CheckPane
from .panes.inspector import InspectorPane

if TYPE_CHECKING:
    from ...engine.data.formats.ways import UndecidedFormat
    from ...engine.data.inspector.preview import DataPreview

_FIELDS = {
    id: DraftField(screen="data", key=f"data.{name}", title=title, where="2")
    for id, name, title in (
        ("data-path", "path", "Data"),
        ("data-format", "format", "format"),
        ("data-length", "max_length", "max length"),
        ("data-held", "eval_fraction", "held out"),
        ("data-learn", "assistant_only_loss", "learn"),
    )
}
"""Control -> what it edits."""
_FIXES = {
    "drop_rows": "drop",
    "cut_rows": "cut",
    "keep_rows": "keep",
    "take_length": "length",
}
"""Verb -> the kind of fix that it takes."""
View = Literal["rows", "check", "lengths"]
"""What the panes show: the inspector, the check, or the plot of lengths as large as there is room for."""
_PATH = "file, folder, hub id, or demo"


def load_preview(config: RunConfig, job: Job[Any]) -> "DataPreview":
    """Runs in a job: the preview needs the model's tokenizer."""
    from ...engine.data.inspector.preview import build_preview
    from ...engine.run.pace import last_pace

    return build_preview(config, job.report, last_pace(config))


def preview_key(config: RunConfig) -> tuple[object, ...]:
    """What a preview depends on."""
    return (config.model.name_or_path, config.model.revision, config.data, config.train.seed)


class DataScreen(EvenfallScreen):
    NAME = "data"
    CSS_PATH = "../styles/data.tcss"
    HORIZONTAL_BREAKPOINTS: ClassVar[list[tuple[int, str]]] = [*WIDTH_CLASSES, (120, "-widest")]

    def __init__(self) -> None:
        super().__init__()
        self._job: Job[DataPreview] | None = None
        self._key: tuple[object, ...] | None = None
        self._preview: DataPreview | None = None
        self._error = ""
        self._question: UndecidedFormat | None = None
        self._view: View = "rows"

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="data-line"):
            yield Static("Data", classes="data-name", markup=False)
            yield PathField(placeholder=_PATH, id="data-path")
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
            yield InspectorPane(id="data-rows")
            yield CheckPane(id="data-check")
            yield Histogram(id="data-lengths")

    def on_mount(self) -> None:
        super().on_mount()
        self._pane.focus_view()
        self.poll_every(0.25, self._poll)

    @property
    def _pane(self) -> InspectorPane:
        return self.query_one(InspectorPane)

    @property
    def _checks(self) -> CheckPane:
        return self.query_one(CheckPane)

    # The draft and its preview

    def draft_changed(self) -> None:
        draft, refused = self.desk.draft, self.desk.refused.of("data")
        for id, field in _FIELDS.items():
            control = self.query_one(f"#{id}")
            if isinstance(control, Choice) or (
                isinstance(control, TextField) and not control.typing and field.key not in refused
            ):
                control.put(field_text(value_of(draft, field.key)))
        several = len(draft.data.datasets)
        self.query_one("#data-path", TextField).placeholder = (
            f"{several} data sets of run.yaml; a path here takes their place" if several else _PATH
        )
        if preview_key(draft) != self._key:
            self._read()
        else:
            self._show()

    def _read(self) -> None:
        if self._job:
            self._job.cancel()
        config = self.desk.draft
        self._key, self._error, self._question = preview_key(config), "", None
        self._job = self.desk.start_job(lambda job: load_preview(config, job), "preview")
        self._show()
        self._poll()

    def _poll(self) -> None:
        self._pane.poll()
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
            self._preview = job.result
            self._question = job.result.question if job.result else None
        self._pane.set_data(self._preview)
        check = self._preview.check if self._preview else None
        self._checks.set_data(check)
        self.desk.set_mark("data", "done" if check and check.level != "red" else "attention")
        self._show()
        if job.error is not None and not job.cancelled:
            self._ask(job.exception)

    def _ask(self, error: BaseException | None) -> None:
        """Open the form where the rows can be read in several ways, or in none that is known."""
        from ...engine.data.formats.ways import UndecidedFormat

        # Of several data sets the message has the keys: they stand in run.yaml.
        if isinstance(error, UndecidedFormat) and self.desk.draft.data.path is not None:
            self._question = error
            self._show()
            if self.shown and self.app.screen is self:
                self.action_columns()

    # What is shown

    def _show(self) -> None:
        preview = self._preview
        self.query_one("#data-panes").set_class(self._job is not None, "-stale")
        self.query_one("#data-panes").display = preview is not None and not self._error
        status = self.query_one("#data-status", Static)
        status.set_class(bool(self._error), "-error")
        refused = next(iter(self.desk.refused.of("data").values()), "")
        if refused:
            status.update(safe_text(refused, 400, style="$text-error"))
        elif self._error:
            keys = "m says how to read them · " if self._question else ""
            keys += "/ gives another path · u reads again"
            status.update(data.failure(self._error, keys))
        elif field := _FIELDS.get(self.focused.id or "") if self.focused else None:
            about = FIELDS[field.key]
            text = f"{about.key}: {about.description}\ntakes {about.takes}"
            status.update(safe_text(text, 400, lines=True, style="$text-muted"))
        elif preview is None:
            status.update(Content.styled("The first rows appear here.", "$text-muted"))
        else:
            report = preview.report
            status.update(data.preview(report, preview.check))
            percentiles = preview.check.statistics.percentiles
            self.query_one(Histogram).set_lengths(report.lengths, report.max_length, percentiles)
        self.refresh_keys()

    # Editing

    @on(TextField.Committed)
    def _typed(self, event: TextField.Committed) -> None:
        self._set(event.field, event.text)
        if event.entered and not event.field.has_class("-bad"):
            self._pane.focus_view()

    @on(Choice.Changed)
    def _turned(self, event: Choice.Changed) -> None:
        self._set(event.choice, event.value)

    @on(PathField.Offered)
    def _offer_paths(self, event: PathField.Offered) -> None:
        status = self.query_one("#data-status", Static)
        status.set_class(False, "-error")
        status.update(safe_text(offered(event.completion), 500, style="$text-muted"))

    @on(Input.Changed, "#data-path")
    def _path_typed(self) -> None:
        self._show()  # in place of the names that were offered

    def on_descendant_focus(self) -> None:
        self._show()  # a field explains itself while it has the focus

    def on_descendant_blur(self) -> None:
        self._show()

    def _set(self, control: TextField | Choice, text: str) -> None:
        field = _FIELDS[control.id or ""]
        key, stands = field.key, field_text(value_of(self.desk.draft, field.key))
        overrides = [override_of(key, text)]
        if key == "data.path" and text.strip() != (self.desk.draft.data.path or ""):
            overrides += self._of_the_old_data()
        elif key == "data.format":
            overrides.append("data.columns={}")  # they were those of the other format
        refused = self.desk.offer(field, overrides)
        if isinstance(control, TextField):
            if refused:
                control.refuse(stands)
            else:
                control.mark_bad(False)
        self._show()

    @on(TextField.GivenUp)
    def _given_up(self, event: TextField.GivenUp) -> None:
        self.desk.refused.drop(_FIELDS[event.field.id or ""])
        self._show()

    def _of_the_old_data(self) -> list[str]:
        """What takes back the settings that were made for the rows of one data set; the user is told of them."""
        data, plain = self.desk.draft.data, DataConfig()
        back = {
            "name": "null", "split": plain.split, "format": plain.format, "columns": "{}",
            "ignore": "[]", "roles": "{}", "header": "null", "drop": "[]", "keep": "[]",
        }  # fmt: skip
        made = [name for name in back if getattr(data, name) != getattr(plain, name)]
        if made:
            names = ", ".join(f"data.{name}" for name in made)
            self.tell(f"{names}: taken back, as said of the data before")
        return [f"data.{name}={back[name]}" for name in made]

    # Verbs

    def why_not(self, verb: str) -> str | None:
        if verb in ("data_path", "reload", "stop_reading"):
            return None
        if verb == "columns":
            return None if self._question else "of these data there is nothing to choose"
        if self._job is not None:
            return "the data is still being read"
        if verb in ("check", "lengths"):
            return None if self._preview else "there is nothing to check yet: give a data set (/)"
        if self._view == "check":
            return self._why_not_fixed(verb)
        if self._view == "lengths":
            return "the rows are behind the lengths: h shows them"
        if verb in _FIXES:
            return "this settles what the check found: c shows it"
        return self._pane.why_not(verb)

    def _why_not_fixed(self, verb: str) -> str | None:
        if verb not in _FIXES:
            return "the rows are behind the check: c shows them"
        if self._override_of(verb) is None:
            return "this does nothing for the finding under the cursor"
        return None

    def _override_of(self, verb: str) -> str | None:
        fix = self._checks.fix(_FIXES[verb])
        if fix is not None:
            return fix.override
        return self._checks.recommended() if verb == "take_length" else None

    def in_footer(self, verb: str) -> bool:
        always = verb in ("data_path", "check", "lengths", "help", "quit")
        if self._view == "check":
            return always or verb in _FIXES
        return always if self._view == "lengths" else verb not in _FIXES

    def verb_title(self, verb: str) -> str | None:
        if verb == self._view:
            return "Rows"
        return "Tokens" if verb == "raw" and self._pane.raw else None

    @on(CheckPane.Moved)
    def _other_finding(self) -> None:
        self.refresh_keys()

    @on(CheckPane.Asked)
    def _look_at_row(self, event: CheckPane.Asked) -> None:
        self._turn_to("rows")
        self._pane.look_at(event.place)

    @on(InspectorPane.Changed)
    def _other_row(self) -> None:
        self.refresh_keys()

    def _turn_to(self, view: View) -> None:
        self._view = view
        self.set_class(view == "check", "-check")
        self.set_class(view == "lengths", "-lengths")
        if view == "check":
            self._checks.focus_findings()
        elif view == "rows":
            self._pane.focus_view()
        self.refresh_keys()

    def action_check(self) -> None:
        self._turn_to("rows" if self._view == "check" else "check")

    def action_lengths(self) -> None:
        self._turn_to("rows" if self._view == "lengths" else "lengths")

    def _fix(self, verb: str) -> None:
        override = self._override_of(verb)
        if override is not None:
            self.desk.update_draft([override])

    def action_columns(self) -> None:
        if self._question is not None:
            self.app.push_screen(ColumnsModal(self._question), self._take_columns)

    def _take_columns(self, overrides: list[str] | None) -> None:
        if overrides:
            self.desk.update_draft(["data.columns={}", "data.ignore=[]", *overrides])

    def action_drop_rows(self) -> None:
        self._fix("drop_rows")

    def action_cut_rows(self) -> None:
        self._fix("cut_rows")

    def action_keep_rows(self) -> None:
        self._fix("keep_rows")

    def action_take_length(self) -> None:
        self._fix("take_length")

    def action_data_path(self) -> None:
        self.query_one("#data-path", TextField).focus()

    def action_next_row(self) -> None:
        self._pane.step(1)

    def action_previous_row(self) -> None:
        self._pane.step(-1)

    def action_next_problem(self) -> None:
        self._pane.next_problem()

    def action_find_row(self) -> None:
        self._pane.ask("find")

    def action_next_match(self) -> None:
        self._pane.find()

    def action_previous_match(self) -> None:
        self._pane.find(back=True)

    def action_go_row(self) -> None:
        self._pane.ask("go")

    def action_token_ids(self) -> None:
        self._pane.turn_ids()

    def action_raw(self) -> None:
        self._pane.turn_raw()

    def action_reload(self) -> None:
        self._read()

    def action_stop_reading(self) -> None:
        typing = isinstance(self.focused, TextField)  # leaving a field does not depend on how far the reading is
        if self._job is not None and not typing:
            self._job.cancel()
        elif self._pane.working and not typing:
            self._pane.cancel()
        else:
            self._pane.close_question()
            self._pane.focus_view()
