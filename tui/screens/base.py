"""What every screen shares: the nav strip, the body, the line of keys, and the rules of life.

A screen's timers rest while it is hidden (Textual's own go on firing), it hears of a run's news
through `source_changed`, and a verb that cannot be done now is greyed and says why when pressed.
Below 80x24 a page says so in place of the body; runs are not touched by the size of a window.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.timer import Timer
from textual.widgets import Static

from ..keys import ScreenName, bindings_of, verbs_of
from ..state.notices import Severity, notice
from ..widgets.field import TextField
from ..widgets.keybar import KeyBar, KeyItem, shown_key
from ..widgets.nav import NavStrip

if TYPE_CHECKING:
    from ..state.desk import Desk
    from ..state.sources import RunSource

WIDTH_CLASSES = [(0, "-too-narrow"), (80, "-narrow"), (100, "-wide")]
HEIGHT_CLASSES = [(0, "-too-short"), (24, "-short"), (30, "-tall")]


class EvenfallLike(Protocol):
    """What a screen needs of the app that it is in, beside what is on the desk."""

    desk: "Desk"
    painted: bool
    """The first paint is done: screens may import the engine."""

    def show(self, name: ScreenName) -> None: ...

    def why_not(self, verb: str) -> str | None:
        """Why a verb of every screen cannot be done now."""
        ...

    def ask_recovery(self, source: "RunSource") -> None:
        """Show what helps against the out-of-memory error that a run waits with."""
        ...


class EvenfallScreen(Screen[None]):
    """Base of the six screens. A screen sets NAME, composes its body and has `action_<verb>`s."""

    NAME: ClassVar[ScreenName]
    HORIZONTAL_BREAKPOINTS = WIDTH_CLASSES
    VERTICAL_BREAKPOINTS = HEIGHT_CLASSES
    AUTO_FOCUS = ""

    def __init_subclass__(cls, **options: Any) -> None:
        if "NAME" in cls.__dict__:
            cls.BINDINGS = [*cls.__dict__.get("BINDINGS", ()), *bindings_of(cls.NAME)]
        super().__init_subclass__(**options)

    def __init__(self) -> None:
        super().__init__()
        self._own_timers: list[Timer] = []
        self._shown = False

    def compose(self) -> ComposeResult:
        yield NavStrip(self.NAME)
        yield Static(id="too-small", markup=False)
        with Vertical(id="body"):
            yield from self.compose_body()
        yield KeyBar()

    def compose_body(self) -> ComposeResult:
        """What lies between the nav strip and the line of keys."""
        yield from ()

    # What screens use

    @property
    def evenfall(self) -> EvenfallLike:
        """The app, with its type."""
        return cast("EvenfallLike", self.app)

    @property
    def desk(self) -> "Desk":
        """What the screens share."""
        return self.evenfall.desk

    @property
    def shown(self) -> bool:
        """Whether this screen is composed and on top now."""
        return self._shown

    def why_not(self, verb: str) -> str | None:
        """Why this screen's verb cannot be done now, in a sentence; None where it can."""
        return None

    def in_footer(self, verb: str) -> bool:
        """Whether a verb means anything in the screen's present view."""
        return True

    def verb_title(self, verb: str) -> str | None:
        """Another title for a verb in its present meaning (`Resume` for `Pause`), if it has one."""
        return None

    def source_changed(self) -> None:
        """The viewed run has news, or the screen has just come into view. At most twice a second."""

    def draft_changed(self) -> None:
        """The draft is another one now, or the screen has just come into view."""

    def left(self) -> None:
        """Another of the six screens has come to the front. What was typed is committed: it would else look set."""
        if isinstance(self.focused, TextField):
            self.focused.leave()

    def poll_every(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """A timer that rests while the screen is hidden or lies under a dialog."""
        timer = self.set_interval(seconds, callback, pause=not self._shown)
        self._own_timers.append(timer)
        return timer

    def tell(self, text: object, severity: Severity = "information") -> None:
        """Show a passing notice; any text is safe."""
        notice(self.app, text, severity)

    def refresh_keys(self) -> None:
        """Look anew at which verbs can be done, and show it."""
        items = []
        for verb in verbs_of(self.NAME):
            if verb.footer and self.in_footer(verb.id):
                title = self.verb_title(verb.id) or verb.title
                items.append(
                    KeyItem(
                        verb=verb.id,
                        key=shown_key(verb.key),
                        title=title,
                        enabled=not self._why(verb.id),
                    )
                )
        self.query_one(KeyBar).set_data(items)

    def refresh_nav(self) -> None:
        desk = self.desk
        self.query_one(NavStrip).set_data(desk.marks(), _memory_gb(desk.gauged))

    # How it is done

    def _why(self, verb: str) -> str | None:
        own = any(known.id == verb and known.screen == self.NAME for known in verbs_of(self.NAME))
        return self.why_not(verb) if own else self.evenfall.why_not(verb)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        del parameters
        if any(verb.id == action and verb.screen == self.NAME for verb in verbs_of(self.NAME)):
            return None if self.why_not(action) else True
        return True

    def on_key(self, event: events.Key) -> None:
        # A key of a verb that can be done never comes here: its binding has taken it.
        for verb in verbs_of(self.NAME):
            if event.key in verb.key.split(",") and (reason := self._why(verb.id)):
                event.stop()
                self.tell(f"{verb.title}: {reason}", "warning")
                return

    def on_mount(self) -> None:
        self.refresh_keys()

    def on_screen_resume(self) -> None:
        self._shown = True
        for timer in self._own_timers:
            timer.resume()
        if self.evenfall.painted:
            self.catch_up()

    def catch_up(self) -> None:
        """Show what the draft and the run are now."""
        self.refresh_nav()
        self.draft_changed()
        self.source_changed()
        self.refresh_keys()

    def on_screen_suspend(self) -> None:
        self._shown = False
        for timer in self._own_timers:
            timer.pause()
        if self.app.current_mode != self.NAME:  # else a dialog lies over it
            self.left()

    def on_resize(self, event: events.Resize) -> None:
        width, height = event.size
        self.query_one("#too-small", Static).update(
            Content(f"Evenfall needs 80x24, this window has {width}x{height}.\n\n")
            + Content("A run that is going goes on.")
        )

    @on(NavStrip.Chosen)
    def _go(self, message: NavStrip.Chosen) -> None:
        message.stop()
        self.evenfall.show(message.screen_name)

    @on(KeyBar.Pressed)
    async def _press(self, message: KeyBar.Pressed) -> None:
        message.stop()
        if reason := self._why(message.verb):
            self.tell(reason, "warning")
            return
        own = any(v.id == message.verb and v.screen == self.NAME for v in verbs_of(self.NAME))
        await self.run_action(message.verb if own else f"app.{message.verb}")


def _memory_gb(source: "RunSource | None") -> tuple[float, float] | None:
    """Memory used and in all at the last step, in GB, of a run that goes on."""
    if source is None or source.done or not source.progress.steps:
        return None
    last = source.progress.steps[-1]
    return last.memory_gb, last.memory_total_gb


class EvenfallModal(ModalScreen[Any]):
    """Base of the dialogs: esc closes with None; a run's news reach it through `source_changed`."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close")]
    HORIZONTAL_BREAKPOINTS = WIDTH_CLASSES
    VERTICAL_BREAKPOINTS = HEIGHT_CLASSES

    @property
    def desk(self) -> "Desk":
        """What the screens share."""
        return cast("EvenfallLike", self.app).desk

    def source_changed(self) -> None:
        """The live run has news. At most twice a second."""

    def action_close(self) -> None:
        self.dismiss(None)
