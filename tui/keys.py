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


@dataclass(frozen=True)
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
            f"show_{name}", f"{n},f{n + 1}", name.capitalize(),
            f"Go to the {name.capitalize()} screen (F{n + 1} also while typing)", "app", False,
        )
        for n, name in enumerate(SCREENS, 1)
    ),
    Verb("help", "question_mark,f1", "Help", "Show the keys of this screen", "app"),
    Verb("quit", "q", "Quit", "Quit; during a run it asks: detach, save and stop, or stay", "app"),
    Verb("detach", "D", "Detach", "Leave the screens; a run goes on without them", "app", False),
    Verb("back", "escape", "Back", "Leave a field, then close a dialog; never quits", "app", False),
    # Train
    Verb("pause", "space", "Pause", "Pause after this step, memory kept; or go on", "train"),
    Verb("rate", "l", "Rate", "Change the learning rate", "train"),
    Verb("save_now", "s", "Save", "Write a checkpoint after this step", "train"),
    Verb("evaluate_now", "e", "Eval", "Evaluate on the held-out rows after this step", "train"),
    Verb("stop_run", "x", "Stop", "End the run after this step; it asks whether to save", "train"),
    Verb("window", "w", "Window", "Plot the whole run, the last 500 or the last 60 steps", "train"),
    Verb("log_y", "y", "Log", "Plot the loss on a logarithmic scale, or not", "train"),
    Verb("run_info", "i", "Info", "Facts about this run, and which parts run fast", "train"),
    Verb("run_draft", "r", "Run", "Start the next run; or take up the one that is shown", "train"),
    Verb("recover", "o", "Memory", "Show what helps when memory has run out", "train", False),
    # Runs
    Verb("open_run", "enter", "Open", "Show the run in Train; one that is not ours read-only", "runs"),
    Verb("resume_run", "r", "Resume", "Go on with the run from its last checkpoint", "runs"),
    Verb("clone_run", "c", "Clone", "Set the next run up like this one", "runs"),
    Verb("export_run", "e", "Export", "Go to Export with this run", "runs"),
    Verb("chat_run", "t", "Talk", "Go to Chat with this run", "runs"),
    # Model
    Verb("choose", "enter", "Choose", "Take the model or recipe under the cursor", "model"),
    Verb("find", "slash", "Find", "Filter the list, or type a hub id or a local folder", "model"),
    Verb("advanced", "a", "Settings", "Show or hide the settings of the run", "model"),
    Verb("leave_field", "escape", "Back", "Empty the search and go back to the list", "model", False),
    # Data
    Verb("data_path", "slash", "Path", "Type the file, folder or hub id to learn from", "data"),
    Verb("check", "c", "Check", "Show what is wrong with the data, or the rows again", "data"),
    Verb("next_row", "j", "Next row", "Look at the next row", "data"),
    Verb("previous_row", "k", "Previous", "Look at the row before", "data"),
    Verb("next_problem", "p", "Problem", "Look at the next row with which something is wrong", "data"),
    Verb("raw", "r", "Raw", "Show the row as it stands in the file, or as tokens again", "data"),
    Verb("lengths", "h", "Lengths", "Plot how long the rows are, or show the rows again", "data"),
    Verb("find_row", "f", "Find", "Look for text in the rows of the file", "data"),
    Verb("next_match", "n", "Next match", "Look at the next row with the text", "data", False),
    Verb("previous_match", "N", "Match before", "Look at the row before with the text", "data", False),
    Verb("go_row", "g", "Go to", "Look at the row of a number", "data"),
    Verb("token_ids", "t", "Ids", "Show the id of each token, or not", "data"),
    Verb("columns", "m", "Columns", "Say how the rows are to be read, where that cannot be told", "data", False),
    Verb("drop_rows", "x", "Drop", "Leave out the rows of this finding; or take them in again", "data"),
    Verb("cut_rows", "s", "Cut", "Cut the rows that are too long instead of leaving them out", "data"),
    Verb("keep_rows", "v", "Keep", "Say that this finding is meant; or that it is not", "data"),
    Verb("take_length", "l", "Length", "Take the length that this finding asks for, or the recommended one", "data"),
    Verb("reload", "u", "Read again", "Read the data again", "data", False),
    Verb("stop_reading", "escape", "Cancel", "Stop reading; else leave a field", "data", False),
    # Export
    Verb("start_export", "x", "Export", "Write the forms that are ticked", "export"),
    Verb("export_pick", "r", "Run", "Choose another run", "export"),
    Verb("stop_export", "escape", "Cancel",
         "Stop the export and remove what it had written; else leave a field", "export", False),
    # Chat
    Verb("write", "i,enter", "Write", "Go to the prompt", "chat"),
    Verb("adapter", "b,ctrl+t", "Base/tuned",
         "Answer with the adapter on or off from now on (ctrl+t also while typing)", "chat"),
    Verb("compare", "c,ctrl+o", "Compare",
         "Let base and tuned answer the same prompt (ctrl+o also while typing)", "chat"),
    Verb("new_chat", "n", "New", "Forget this conversation", "chat"),
    Verb("chat_pick", "r", "Run", "Choose another run", "chat"),
    Verb("unload", "u", "Unload", "Give the model's memory back", "chat", False),
    Verb("recall", "up", "Last prompt", "While typing: the prompt before", "chat", False),
    Verb("stop_answer", "escape", "Stop", "Stop the answer; else leave the prompt", "chat", False),
)  # fmt: skip


def verbs_of(screen: str) -> list[Verb]:
    """The verbs of a screen, its own first, then those of every screen."""
    own = [verb for verb in VERBS if verb.screen == screen]
    return own + [verb for verb in VERBS if verb.screen == "app"]


def bindings_of(owner: str) -> list[Binding]:
    """Textual bindings of the verbs that `owner` (a screen's name or `app`) handles itself."""
    return [
        Binding(
            verb.key, verb.action, verb.title, show=verb.footer, tooltip=verb.tooltip, id=verb.id
        )
        for verb in VERBS
        if verb.screen == owner
    ]
