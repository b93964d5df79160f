"""Model: which base model, by which recipe, on which machine; and what the next run will be.

The first screen. One list of models (presets, the cache, local folders), one of recipes, and a plain
summary of what follows from them with the key that goes on. Taking a preset is editing the draft; the
settings form edits the same draft key by key, so nothing is hidden behind a preset's name. The lists are
painted first, the draft (whose validation takes longer to import than they do) is shown right after.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Input, Static

from ...engine.machine.jobs import Job
from ...engine.model.folder import LoadError
from ...presets.load import recipe_presets
from ..safe_text import safe_text
from ..state.machine import Machine, read_machine, why_gpu_is_unused
from ..state.model_catalog import ModelEntry, catalogue, look_up
from ..widgets.field import TextField
from ..widgets.form import Form
from ..widgets.path_field import PathField
from ..widgets.pick_list import Column, PickList, PickRow
from ..words import model as describe
from ..words.paths import offered
from .base import EvenfallScreen
from .panes.live_runs import LOOK_SECONDS, LiveRuns

if TYPE_CHECKING:
    from ...engine.config.run_config import RunConfig
    from ..state.settings import DraftEditor

COLUMNS = (
    Column("MODEL", 18), Column("PARAMS", 7, True), Column("CONTEXT", 7, True),
    Column("WHERE", 7), Column("", 0),
)  # fmt: skip
RECIPE_COLUMNS = (Column("RECIPE", 29), Column("", 0))


class ModelScreen(EvenfallScreen):
    NAME = "model"
    CSS_PATH = "../styles/model.tcss"

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[ModelEntry] = []
        self._editor: DraftEditor | None = None
        self._machine: Job[Machine] | None = None
        self._gpu: Job[str] | None = None
        self._filled_from: RunConfig | None = None
        self._detail = ""

    def compose_body(self) -> ComposeResult:
        with Horizontal(id="model-line"):
            yield Static("Model", id="model-label", markup=False)
            yield PathField(
                placeholder="/ to search the list, or type a hub id or a local folder",
                id="model-find",
                folders_only=True,
            )
        yield Static("", id="model-hint", markup=False)
        with Horizontal(id="model-panes"):
            with Vertical(id="model-lists"):
                yield PickList(COLUMNS, id="models", below=True)
                yield PickList(RECIPE_COLUMNS, id="recipes", above=True)
            with VerticalScroll(id="model-side", can_focus=False):
                yield Static("", id="model-detail", markup=False)
        yield Static("", id="model-plan", markup=False)
        yield Static("", id="model-machine", markup=False)
        yield LiveRuns(id="model-live")

    def on_mount(self) -> None:
        super().on_mount()
        self._entries = catalogue()
        self._list_models(None)
        self._list_recipes(None)
        self.query_one("#models", PickList).focus_rows()
        self._show_machine()
        output_dir = self.desk.root
        self._machine = Job(lambda job: read_machine(output_dir), "machine")
        self.poll_every(0.25, self._poll_machine)
        self.poll_every(LOOK_SECONDS, self._look_for_live_runs)

    def catch_up(self) -> None:
        super().catch_up()
        self._look_for_live_runs()

    def _look_for_live_runs(self) -> None:
        if self.evenfall.painted:
            self.query_one(LiveRuns).look()

    # What is shown

    @property
    def _edit(self) -> "DraftEditor":
        if self._editor is None:
            from ..state.settings import DraftEditor

            self._editor = DraftEditor(self.desk)
            self._editor.begin()
        return self._editor

    def draft_changed(self) -> None:
        recipe, draft = self._edit.recipe, self.desk.draft
        if draft == self._filled_from:
            return
        self._filled_from = draft
        name = draft.model.name_or_path
        if all(entry.name_or_path != name for entry in self._entries):
            self._entries = catalogue(name)
        self._list_models(name)
        self._list_recipes(recipe)
        self.query_one("#model-plan", Static).update(describe.plan(draft, recipe))
        self._describe()
        for form in self.query(Form):
            form.set_values(self._edit.values(), self.desk.refused.of("model"))

    def _list_recipes(self, chosen: str | None) -> None:
        rows = [
            PickRow(
                preset.id,
                (preset.title, describe.first_clause(preset.purpose)),
                preset.id == chosen,
            )
            for preset in recipe_presets()
        ]
        self.query_one("#recipes", PickList).set_rows(rows)

    def _list_models(self, chosen: str | None, cursor: str | None = None) -> None:
        """The models that match what is typed; `cursor` is the one that the cursor goes to."""
        words = self.query_one("#model-find", TextField).value.casefold().split()
        rows = [
            PickRow(
                entry.name_or_path,
                (
                    entry.name, entry.size, f"{entry.context:,}" if entry.context else "",
                    entry.where, describe.short_note(entry),
                ),
                entry.name_or_path == chosen,
            )
            for entry in self._entries
            if all(word in f"{entry.name} {entry.name_or_path}".casefold() for word in words)
        ]  # fmt: skip
        self.query_one("#models", PickList).set_rows(rows, highlight=cursor)
        if not rows:  # no row is under the cursor to be described
            self._detail = ""
            self.query_one("#model-detail", Static).update("")

    @on(PickList.Highlighted)
    def _other_row(self) -> None:
        self._describe()

    def on_descendant_focus(self) -> None:
        self._describe()

    def _describe(self) -> None:
        """Describe what the cursor is on, in the list that has the focus."""
        recipes, models = self.query_one("#recipes", PickList), self.query_one("#models", PickList)
        if recipes.has_focus_within and recipes.highlighted:
            self._describe_recipe(recipes.highlighted)
        elif models.highlighted:
            self._describe_model(models.highlighted)

    def _describe_model(self, name: str) -> None:
        entry = next((entry for entry in self._entries if entry.name_or_path == name), None)
        if entry is None:
            return
        changes = self._edit.changes_of_model(entry) if self.evenfall.painted else []
        self._detail = describe.tagline(entry)
        self.query_one("#model-detail", Static).update(describe.model(entry, changes))
        if not self.query_one("#model-find", TextField).has_class("-bad"):
            self._hint(self._meaning(self.query_one("#model-find", TextField).value))

    def _describe_recipe(self, id: str) -> None:
        recipe = next(preset for preset in recipe_presets() if preset.id == id)
        changes = self._edit.changes_of_recipe(id) if self.evenfall.painted else []
        self._detail = describe.what_it_sets(changes)
        self.query_one("#model-detail", Static).update(describe.recipe(recipe, changes))
        self._hint("")

    # The machine

    def _poll_machine(self) -> None:
        if self._machine and self._machine.done:
            self._show_machine()
            found, self._machine = self._machine, None
            if found.error is None and not found.cancelled and found.result.gpus:
                # The driver has answered; whether torch can use the GPU takes torch to tell.
                self._gpu = self.desk.start_job(lambda job: why_gpu_is_unused(), "gpu")
        if self._gpu and self._gpu.done:
            checked, self._gpu = self._gpu, None
            if checked.error is None and checked.result:
                warning = safe_text(f"! {checked.result}", 300, style="$warning")
                self.query_one("#model-machine", Static).update(describe.machine_line(warning))

    def _show_machine(self) -> None:
        line = self.query_one("#model-machine", Static)
        if self._machine is None:
            line.update(describe.machine(None))
        elif self._machine.error:
            line.update(safe_text(f"machine    cannot be read: {self._machine.error}", 200))
        elif not self._machine.cancelled:
            line.update(describe.machine(self._machine.result))

    # Taking a model or recipe

    @on(PickList.Picked, "#models")
    def _pick_model(self, event: PickList.Picked) -> None:
        entry = next(entry for entry in self._entries if entry.name_or_path == event.row)
        self._take_model(entry)

    def _take_model(self, entry: ModelEntry) -> bool:
        taken = self._change(lambda: self._edit.take_model(entry))
        if taken:
            self._accept_search()
        return taken

    @on(PickList.Picked, "#recipes")
    def _pick_recipe(self, event: PickList.Picked) -> None:
        self._change(lambda: self._edit.take_recipe(event.row))

    def _change(self, edit: Callable[[], list[str]]) -> bool:
        """Edit the draft and say what was changed, so that a preset changes nothing unseen.

        Returns:
            Whether it fits.
        """
        from ...engine.config.run_config import ConfigError

        try:
            keys = edit()
        except ConfigError as error:
            self._hint(str(error), bad=True)
            return False
        self._hint("")
        self.desk.set_mark("model", "done")
        self.refresh_keys()
        if keys:
            self.tell(f"Set {', '.join(keys)} · u takes it back")
        else:
            self.tell("Already so: nothing to change. Press 2 to look at the data.")
        return True

    def action_undo(self) -> None:
        """Take back the model or recipe that was taken last."""
        from ...engine.config.run_config import ConfigError

        try:
            undone = self._edit.undo()
        except ConfigError as error:
            self._hint(str(error), bad=True)
            return
        self.refresh_keys()
        self.tell(describe.undone(undone))

    # The field: search, path or hub id

    @on(Input.Changed, "#model-find")
    def _typed(self, event: Input.Changed) -> None:
        self._search()
        if not event.value.strip():
            self._accept_search()
        self._hint(self._meaning(event.value))

    @on(PathField.Offered)
    def _offer_paths(self, event: PathField.Offered) -> None:
        self._hint(offered(event.completion))

    def _refuse_search(self, why: str) -> None:
        """What was entered is no model: none but the one before would train, so none does."""
        self._edit.refuse_model(why)
        self.query_one("#model-find", TextField).mark_bad(True)
        self._hint(why, bad=True)

    def _accept_search(self) -> None:
        """The field no longer holds what was refused."""
        self._edit.drop_model()
        self.query_one("#model-find", TextField).mark_bad(False)

    def _search(self) -> None:
        self._list_models(self._filled_from.model.name_or_path if self._filled_from else None)

    def _meaning(self, text: str) -> str:
        """What enter will do with the text."""
        if not text.strip():
            return ""
        if self._is_search(text):
            count = self.query_one("#models", PickList).row_count
            return f"{count} of {len(self._entries)} models · enter goes to the list"
        try:
            entry = look_up(text, self._entries)
        except LoadError as error:
            return _one_line(error)
        return f"enter takes {describe.one_line(entry)}"

    def _is_search(self, text: str) -> bool:
        """A word that some listed model matches, and no path or hub id."""
        return "/" not in text and self.query_one("#models", PickList).row_count > 0

    @on(TextField.Committed, "#model-find")
    def _entered(self, event: TextField.Committed) -> None:
        """Take the model that was typed, also where the field was left without enter: it would else look taken."""
        if not event.text.strip():
            return
        models = self.query_one("#models", PickList)
        if self._is_search(event.text):
            self._accept_search()
            if event.entered:
                models.focus_rows()
            return
        try:
            entry = look_up(event.text, self._entries)
        except LoadError as error:
            self._refuse_search(_one_line(error))
            return
        if entry not in self._entries:
            self._entries.insert(0, entry)
        self._filled_from = None
        if self._take_model(entry):
            event.field.put("")
            self._list_models(entry.name_or_path, entry.name_or_path)
        if event.entered:
            models.focus_rows()

    def _hint(self, text: str, *, bad: bool = False) -> None:
        """Say something under the field; else, where there is no detail pane, what the cursor is on."""
        if not text and self.has_class("-narrow"):
            text = self._detail
        hint = self.query_one("#model-hint", Static)
        hint.set_class(bad, "-bad")
        hint.set_class(self.query_one("#recipes", PickList).has_focus_within, "-long")
        hint.update(safe_text(text, 500, style="$text-error" if bad else "$text-muted"))

    # The settings form

    @on(Form.Changed)
    def _set(self, event: Form.Changed) -> None:
        self.query_one(Form).set_error(event.key, self._edit.set(event.key, event.text))

    @on(Form.Reset)
    def _reset(self, event: Form.Reset) -> None:
        self.query_one(Form).set_error(event.key, self._edit.reset(event.key))

    @on(Form.GivenUp)
    def _given_up(self, event: Form.GivenUp) -> None:
        self._edit.give_up(event.key)

    @on(Form.Asked)
    def _go_elsewhere(self, event: Form.Asked) -> None:
        if event.key == "model.name_or_path":
            self.action_find()
        else:
            self.evenfall.show("data")

    def left(self) -> None:
        super().left()
        if self.query_one("#model-find", TextField).has_focus:  # or else `/` would be a letter of it
            self.query_one("#models", PickList).focus_rows()

    # Verbs

    def action_open_live(self) -> None:
        """Show the run that was started last of those that are live."""
        run = self.query_one(LiveRuns).runs[0].run
        self.desk.chosen_run = run
        self.desk.view_run(run)

    def verb_title(self, verb: str) -> str | None:
        return "Close settings" if verb == "advanced" and self.has_class("-advanced") else None

    def why_not(self, verb: str) -> str | None:
        if verb == "undo" and not (self._editor and self._editor.can_undo):
            return "no model or recipe was taken that could be taken back"
        if verb == "open_live" and not self.query_one(LiveRuns).runs:
            return "no run is live"
        return None

    def in_footer(self, verb: str) -> bool:
        return verb not in ("undo", "open_live") or self.why_not(verb) is None

    def action_choose(self) -> None:
        """Enter where nothing has the focus: a list that has it takes the key itself."""
        if self.has_class("-advanced"):
            self.query_one(Form).focus_first()
        else:
            self.query_one("#models", PickList).focus_rows()

    def action_find(self) -> None:
        if self.has_class("-narrow"):  # the form lies over it
            self._close_settings()
        self.query_one("#model-find", TextField).focus()

    def action_leave_field(self) -> None:
        find = self.query_one("#model-find", TextField)
        if find.value:
            find.put("")
            self._search()
            self._accept_search()
            self._hint("")
        if not self.has_class("-advanced"):
            self.query_one("#models", PickList).focus_rows()
        elif self.focused is None:
            self._close_settings()
        elif not self.query_one(Form).end_search():
            self.set_focus(None)

    def _close_settings(self) -> None:
        self.set_class(False, "-advanced")
        self.refresh_keys()
        self.query_one("#models", PickList).focus_rows()

    async def action_advanced(self) -> None:
        if self.has_class("-advanced"):
            self._close_settings()
            return
        self.set_class(True, "-advanced")
        self.refresh_keys()
        if not self.query(Form):  # made when first wanted: the first paint does without it
            form = Form(self._edit.rows(), id="model-form")
            await self.query_one("#model-panes").mount(form)
            form.set_values(self._edit.values(), self.desk.refused.of("model"))
        self.query_one(Form).focus_first()


def _one_line(error: LoadError) -> str:
    return f"{error}: {error.hint}" if error.hint else str(error)
