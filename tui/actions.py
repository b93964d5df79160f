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
)  # fmt: skip


def verbs_of(screen: str) -> list[Verb]:
    """The verbs of a screen, its own first, then those of every screen."""
    own = [verb for verb in VERBS if verb.screen == screen]
    return own + [verb for verb in VERBS if verb.screen == "app"]


def bindings_of(owner: str) -> list[Binding]:
    """Textual bindings of the verbs that `owner` (a screen's name or `app`) handles itself."""
    return [
        Binding(verb.key, verb.id, verb.title, show=verb.footer, tooltip=verb.tooltip, id=verb.id)
        for verb in VERBS
        if verb.screen == owner
    ]
