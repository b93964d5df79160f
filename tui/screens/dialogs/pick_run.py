"""A dialog that asks which run to export or to chat with."""

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from ....engine.run.directory import RunDirectory
from ....engine.run.facts import base_name, short_state
from ....engine.run.find import list_runs
from ...widgets.pick_list import Column, PickList, PickRow
from ..base import EvenfallModal, EvenfallScreen

COLUMNS = (Column("RUN", 30), Column("SAVED", 18), Column("BASE", 0))


class PickRunModal(EvenfallModal):
    """Closes with the chosen RunDirectory, or with None."""

    CSS_PATH = "../../styles/pick_run.tcss"

    def __init__(self, runs: list[RunDirectory], chosen: RunDirectory | None) -> None:
        super().__init__()
        self._runs = {str(run.path): run for run in runs}
        self._chosen = chosen

    def compose(self) -> ComposeResult:
        with Vertical(id="pick-box"):
            yield Static(Content.styled("Which run?", "bold"), id="pick-title", markup=False)
            yield PickList(COLUMNS, id="pick-runs")
            yield Static(
                Content.assemble(("enter", "$accent bold"), " takes it   ",
                                 ("esc", "$accent bold"), " closes"),
                id="pick-keys", markup=False,
            )  # fmt: skip

    def on_mount(self) -> None:
        chosen = str(self._chosen.path) if self._chosen else None
        runs = self.query_one(PickList)
        runs.set_rows(
            [
                PickRow(path, (run.name, short_state(run), base_name(run)), path == chosen)
                for path, run in self._runs.items()
            ],
            highlight=chosen,
        )
        runs.focus_rows()

    @on(PickList.Picked)
    def _picked(self, event: PickList.Picked) -> None:
        self.dismiss(self._runs[event.row])


def pick_run(screen: EvenfallScreen) -> None:
    """Ask which run Export and Chat work on from now on, and tell the screen."""

    def take(run: RunDirectory | None) -> None:
        if run is not None:
            screen.desk.chosen_run = run
            screen.source_changed()

    desk = screen.desk
    screen.app.push_screen(PickRunModal(list_runs(desk.root), desk.chosen_run), take)
