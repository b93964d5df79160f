"""Help: every key of a screen, made from the registry."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ...keys import Verb, verbs_of
from ...widgets.keybar import shown_key
from ..base import EvenfallModal


class HelpModal(EvenfallModal):
    """The verbs of the screen it was opened on, then those of every screen."""

    CSS_PATH = "../../styles/modals.tcss"

    def __init__(self, screen_name: str) -> None:
        super().__init__()
        self._screen_name = screen_name

    def compose(self) -> ComposeResult:
        verbs = verbs_of(self._screen_name)
        own = [verb for verb in verbs if verb.screen != "app"]
        everywhere = [verb for verb in verbs if verb.screen == "app"]
        lines = [self._line(verb) for verb in own]
        if own:
            lines.append(Content(""))
        lines.append(Content.styled("on every screen", "$text-muted"))
        lines += [self._line(verb) for verb in everywhere]
        with VerticalScroll(classes="dialog wide") as dialog:
            dialog.border_title = Content(f"Keys of {self._screen_name.capitalize()}")
            yield Static(Content("\n").join(lines), markup=False)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    @staticmethod
    def _line(verb: Verb) -> Content:
        keys = " ".join(shown_key(key) for key in verb.key.split(","))
        return Content.styled(f"{keys:<10}", "bold $accent") + Content(verb.tooltip)
