"""The registry of verbs: what can be done, by which key, and where.

One table feeds the bindings, the footer and the help screen, so a key cannot work without being
listed or be listed without working. A verb's handler is the method `action_<id>` of the screen (or of
the app for verbs of every screen). Keys that lie over SSH and tmux are not used: alt+digit,
ctrl+enter, ctrl+h, ctrl+i, ctrl+m, ctrl+z, ctrl+a, ctrl+b.
"""

from dataclasses import dataclass
from typing import Literal

from textual.binding import Binding

ScreenName = Literal["model", "data", "train", "export", "chat", "runs"]
SCREENS: tuple[ScreenName, ...] = ("model", "data", "train", "export", "chat", "runs")


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One thing a user can do."""

    id: str
    key: str
    """Textual key names, the shown one first, others after commas."""
    title: str
    """One or two words, for the footer."""
    tooltip: str
    """One sentence, for the help screen."""
    screen: ScreenName | Literal["app"]
    footer: bool = True

    @property
    def action(self) -> str:
        """Textual's action: the method `action_<id>`; the six `show_<name>` share one."""
        return f"show('{self.id[5:]}')" if self.id.startswith("show_") else self.id


VERBS: tuple[Verb, ...] = (
    *(
        Verb(
            id=f"show_{name}",
            key=f"{n},f{n + 1}",
            title=name.capitalize(),
            tooltip=f"Go to the {name.capitalize()} screen (F{n + 1} also while typing)",
            screen="app",
            footer=False,
        )
        for n, name in enumerate(SCREENS, 1)
    ),
    Verb(id="help", key="question_mark,f1", title="Help", tooltip="Show the keys of this screen", screen="app"),
    Verb(
        id="quit",
        key="q",
        title="Quit",
        tooltip="Quit; during a run it asks: detach, save and stop, or stay",
        screen="app",
    ),
    Verb(
        id="detach",
        key="D",
        title="Detach",
        tooltip="Leave the screens; a run goes on without them",
        screen="app",
        footer=False,
    ),
    Verb(
        id="back",
        key="escape",
        title="Back",
        tooltip="Leave a field, then close a dialog; never quits",
        screen="app",
        footer=False,
    ),
    # Train
    Verb(
        id="pause", key="space", title="Pause", tooltip="Pause after this step, memory kept; or go on", screen="train"
    ),
    Verb(id="rate", key="l", title="Rate", tooltip="Change the learning rate", screen="train"),
    Verb(id="save_now", key="s", title="Save", tooltip="Write a checkpoint after this step", screen="train"),
    Verb(
        id="evaluate_now",
        key="e",
        title="Eval",
        tooltip="Evaluate on the held-out rows after this step",
        screen="train",
    ),
    Verb(
        id="stop_run",
        key="x",
        title="Stop",
        tooltip="End the run after this step; it asks whether to save",
        screen="train",
    ),
    Verb(
        id="window",
        key="w",
        title="Window",
        tooltip="Plot the whole run, the last 500 or the last 60 steps",
        screen="train",
    ),
    Verb(id="log_y", key="y", title="Log", tooltip="Plot the loss on a logarithmic scale, or not", screen="train"),
    Verb(
        id="run_info", key="i", title="Info", tooltip="Facts about this run, and which parts run fast", screen="train"
    ),
    Verb(
        id="run_draft",
        key="r",
        title="Run",
        tooltip="Start the next run; or take up the one that is shown",
        screen="train",
    ),
    Verb(
        id="recover",
        key="o",
        title="Memory",
        tooltip="Show what helps when memory has run out",
        screen="train",
        footer=False,
    ),
    # Runs
    Verb(
        id="open_run",
        key="enter",
        title="Open",
        tooltip="Show the run in Train; one that goes on can be steered there",
        screen="runs",
    ),
    Verb(
        id="resume_run", key="r", title="Resume", tooltip="Go on with the run from its last checkpoint", screen="runs"
    ),
    Verb(id="clone_run", key="c", title="Clone", tooltip="Set the next run up like this one", screen="runs"),
    Verb(id="export_run", key="e", title="Export", tooltip="Go to Export with this run", screen="runs"),
    Verb(id="chat_run", key="t", title="Talk", tooltip="Go to Chat with this run", screen="runs"),
    Verb(
        id="delete_run",
        key="X,delete",
        title="Delete",
        tooltip="Delete the run and what it holds; it asks, and says what that frees",
        screen="runs",
    ),
    Verb(
        id="find_run",
        key="slash",
        title="Search",
        tooltip="Show the runs with these words in name, model, state or note; esc shows all",
        screen="runs",
    ),
    Verb(
        id="sort_runs",
        key="s",
        title="Sort",
        tooltip="Sort by the next column: when, name, state, loss, eval, trained, size",
        screen="runs",
    ),
    Verb(id="turn_order", key="S", title="Turn", tooltip="Turn the order round", screen="runs", footer=False),
    Verb(id="note_run", key="o", title="Note", tooltip="Keep a line of your own with the run", screen="runs"),
    Verb(id="rename_run", key="n", title="Rename", tooltip="Give the run another name", screen="runs"),
    Verb(
        id="next_place",
        key="p",
        title="Folder",
        tooltip="Show the runs of the next folder that runs were made in",
        screen="runs",
        footer=False,
    ),
    Verb(
        id="delete_failed",
        key="F",
        title="Failed starts",
        tooltip="Delete all runs that ended before their first step; it asks, and lists them",
        screen="runs",
        footer=False,
    ),
    Verb(
        id="leave_search",
        key="escape",
        title="Back",
        tooltip="End the search and show all runs",
        screen="runs",
        footer=False,
    ),
    # Model
    Verb(id="choose", key="enter", title="Choose", tooltip="Take the model or recipe under the cursor", screen="model"),
    Verb(
        id="find",
        key="slash",
        title="Find",
        tooltip="Filter the list, or type a hub id or a local folder (tab completes)",
        screen="model",
    ),
    Verb(id="advanced", key="a", title="Settings", tooltip="Show or hide the settings of the run", screen="model"),
    Verb(id="open_live", key="w", title="Watch", tooltip="Show the run that is live", screen="model"),
    Verb(
        id="undo",
        key="u",
        title="Undo",
        tooltip="Take back the model or recipe that was taken last, and the one before",
        screen="model",
    ),
    Verb(
        id="leave_field",
        key="escape",
        title="Back",
        tooltip="Empty the search and go back to the list",
        screen="model",
        footer=False,
    ),
    # Data
    Verb(
        id="data_path",
        key="slash",
        title="Path",
        tooltip="Type the file, folder or hub id to learn from (tab completes)",
        screen="data",
    ),
    Verb(
        id="check", key="c", title="Check", tooltip="Show what is wrong with the data, or the rows again", screen="data"
    ),
    Verb(id="next_row", key="j", title="Next row", tooltip="Look at the next row", screen="data"),
    Verb(id="previous_row", key="k", title="Previous", tooltip="Look at the row before", screen="data"),
    Verb(
        id="next_problem",
        key="p",
        title="Problem",
        tooltip="Look at the next row with which something is wrong",
        screen="data",
    ),
    Verb(
        id="raw",
        key="r",
        title="Raw",
        tooltip="Show the row as it stands in the file, or as tokens again",
        screen="data",
    ),
    Verb(
        id="lengths",
        key="h",
        title="Lengths",
        tooltip="Plot how long the rows are, or show the rows again",
        screen="data",
    ),
    Verb(id="find_row", key="f", title="Find", tooltip="Look for text in the rows of the file", screen="data"),
    Verb(
        id="next_match",
        key="n",
        title="Next match",
        tooltip="Look at the next row with the text",
        screen="data",
        footer=False,
    ),
    Verb(
        id="previous_match",
        key="N",
        title="Match before",
        tooltip="Look at the row before with the text",
        screen="data",
        footer=False,
    ),
    Verb(id="go_row", key="g", title="Go to", tooltip="Look at the row of a number", screen="data"),
    Verb(id="token_ids", key="t", title="Ids", tooltip="Show the id of each token, or not", screen="data"),
    Verb(
        id="columns",
        key="m",
        title="Columns",
        tooltip="Say how the rows are to be read, where that cannot be told",
        screen="data",
        footer=False,
    ),
    Verb(
        id="drop_rows",
        key="x",
        title="Drop",
        tooltip="Leave out the rows of this finding; or take them in again",
        screen="data",
    ),
    Verb(
        id="cut_rows",
        key="s",
        title="Cut",
        tooltip="Cut the rows that are too long instead of leaving them out",
        screen="data",
    ),
    Verb(
        id="keep_rows",
        key="v",
        title="Keep",
        tooltip="Say that this finding is meant; or that it is not",
        screen="data",
    ),
    Verb(
        id="take_length",
        key="l",
        title="Length",
        tooltip="Take the length that this finding asks for, or the recommended one",
        screen="data",
    ),
    Verb(id="reload", key="u", title="Read again", tooltip="Read the data again", screen="data", footer=False),
    Verb(
        id="stop_reading",
        key="escape",
        title="Cancel",
        tooltip="Leave a field; else stop reading",
        screen="data",
        footer=False,
    ),
    # Export
    Verb(id="start_export", key="x", title="Export", tooltip="Write the forms that are ticked", screen="export"),
    Verb(id="export_pick", key="r", title="Run", tooltip="Choose another run", screen="export"),
    Verb(
        id="stop_export",
        key="escape",
        title="Cancel",
        tooltip="Stop the export and remove what it had written; else leave a field",
        screen="export",
        footer=False,
    ),
    # Chat
    Verb(id="write", key="i,enter", title="Write", tooltip="Go to the prompt", screen="chat"),
    Verb(
        id="adapter",
        key="b,ctrl+t",
        title="Base/tuned",
        tooltip="Answer with the adapter on or off from now on (ctrl+t also while typing)",
        screen="chat",
    ),
    Verb(
        id="compare",
        key="c,ctrl+o",
        title="Compare",
        tooltip="Let base and tuned answer the same prompt (ctrl+o also while typing)",
        screen="chat",
    ),
    Verb(id="new_chat", key="n", title="New", tooltip="Forget this conversation", screen="chat"),
    Verb(id="chat_pick", key="r", title="Run", tooltip="Choose another run", screen="chat"),
    Verb(id="unload", key="u", title="Unload", tooltip="Give the model's memory back", screen="chat", footer=False),
    Verb(
        id="recall",
        key="up",
        title="Last prompt",
        tooltip="While typing: the prompt before",
        screen="chat",
        footer=False,
    ),
    Verb(
        id="stop_answer",
        key="escape",
        title="Stop",
        tooltip="Stop the answer; else leave the prompt",
        screen="chat",
        footer=False,
    ),
)


def verbs_of(screen: str) -> list[Verb]:
    """The verbs of a screen, its own first, then those of every screen."""
    own = [verb for verb in VERBS if verb.screen == screen]
    return own + [verb for verb in VERBS if verb.screen == "app"]


def bindings_of(owner: str) -> list[Binding]:
    """Textual bindings of the verbs that `owner` (a screen's name or `app`) handles itself."""
    return [
        Binding(verb.key, verb.action, verb.title, show=verb.footer, tooltip=verb.tooltip, id=verb.id)
        for verb in VERBS
        if verb.screen == owner
    ]
