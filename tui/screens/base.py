"""What every screen shares: the nav strip, the body, the line of keys, and the rules of life.

A screen's timers rest while another of the six is in view (Textual's own go on firing), it hears of a run's news
through `source_changed`, also under a dialog, and a verb that cannot be done now is greyed and says why when pressed.
Below 80x24 a page says so in place of the body or the dialog; runs are not touched by the size of a window, nor is
what had the focus.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from textual import events, on
from textual.actions import SkipAction
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.timer import Timer
from textual.widget import Widget

from ..keys import ScreenName, bindings_of, verbs_of
from ..state.notices import Notices, notice
from ..widgets.field import Choice, TextField, Tick
from ..widgets.keybar import KeyBar, KeyItem, shown_key
from ..widgets.nav import NavStrip
from ..widgets.notice_line import NoticeLine, Severity
from ..widgets.pick_list import PickRows
from ..widgets.too_small import TooSmall, is_too_small

if TYPE_CHECKING:
    from ..state.desk import Desk
    from ..state.sources import RunSource

WIDTH_CLASSES = [(0, "-too-narrow"), (80, "-narrow"), (100, "-wide")]
HEIGHT_CLASSES = [(0, "-too-short"), (24, "-short"), (30, "-tall")]
OPENERS = ("find", "data_path", "write")
"""Verbs that open the field of a screen."""


class EvenfallLike(Protocol):
    """What a screen needs of the app that it is in, beside what is on the desk."""

    desk: "Desk"
    notices: Notices
    painted: bool
    """The first paint is done: screens may import the engine."""

    def show(self, name: ScreenName) -> None: ...

    def why_not(self, verb: str) -> str | None:
        """Why a verb of every screen cannot be done now."""
        ...

    def action_help_quit(self) -> None:
        """Say what to press instead of ctrl+c."""
        ...

    def ask_recovery(self, source: "RunSource") -> None:
        """Show what helps against the out-of-memory error that a run waits with."""
        ...


class _InAnyWindow(Screen[Any]):
    """What screens and dialogs share: notices, arrows between choices, and the page for a window too small."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "walk(-1)", "Up", show=False),
        Binding("down", "walk(1)", "Down", show=False),
    ]
    HORIZONTAL_BREAKPOINTS = WIDTH_CLASSES
    VERTICAL_BREAKPOINTS = HEIGHT_CLASSES
    _was_small = False
    _kept_focus: Widget | None = None
    """What had the focus when the window became too small."""

    @property
    def evenfall(self) -> EvenfallLike:
        """The app, with its type."""
        return cast("EvenfallLike", self.app)

    @property
    def desk(self) -> "Desk":
        """What the screens share."""
        return self.evenfall.desk

    def show_notices(self) -> None:
        """Show what was said lately."""
        for line in self.query(NoticeLine):
            line.set_data(self.evenfall.notices.current())

    def show_too_small(self, *, stressed: bool = False) -> None:
        """Say that the window is too small; `stressed` where somebody pressed a key that would do something."""
        for page in self.query(TooSmall):
            page.set_data(self.app.size, busy=self.desk.busy, stressed=stressed)

    def action_walk(self, step: int) -> None:
        """Go to the choice, the tick or the list above or below the one that has the focus."""
        stops = [widget for widget in self.focus_chain if isinstance(widget, Choice | Tick | PickRows)]
        here = next((place for place, widget in enumerate(stops) if widget is self.focused), None)
        if here is not None:
            stop = stops[(here + step) % len(stops)]
            self.set_focus(stop)
            if isinstance(stop, PickRows):
                stop.enter(from_above=step > 0)

    @on(PickRows.Beyond)
    def _walk_on(self, event: PickRows.Beyond) -> None:
        event.stop()
        self.action_walk(event.step)

    def on_resize(self, event: events.Resize) -> None:
        small = is_too_small(event.size)
        if small:
            self._was_small = True
            self._kept_focus = self._kept_focus or self.focused
            self.show_too_small()
        elif self._was_small:
            self._was_small = False
            self.call_after_refresh(self._focus_again)

    def _focus_again(self) -> None:
        kept, self._kept_focus = self._kept_focus, None
        if self.focused is None and kept is not None and kept.is_attached:
            self.set_focus(kept, scroll_visible=False, from_app_focus=True)  # as it was, nothing selected


class EvenfallScreen(_InAnyWindow):
    """Base of the six screens. A screen sets NAME, composes its body and has `action_<verb>`s."""

    NAME: ClassVar[ScreenName]
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
        yield TooSmall()
        with Vertical(id="body"):
            yield from self.compose_body()
        yield NoticeLine()
        yield KeyBar()

    def compose_body(self) -> ComposeResult:
        """What lies between the nav strip and the line of keys."""
        yield from ()

    # What screens use

    @property
    def shown(self) -> bool:
        """Whether this screen is composed and in view now, on top or under a dialog."""
        return self._shown

    @property
    def opener(self) -> str | None:
        """The key that opens the screen's field for text, as it is shown; None where there is none."""
        verb = next((verb for verb in verbs_of(self.NAME) if verb.id in OPENERS), None)
        return shown_key(verb.key) if verb and not self._why(verb.id) else None

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
        """A timer that rests while another screen is in view."""
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
        self.show_notices()
        if self.evenfall.painted:
            self.catch_up()

    def catch_up(self) -> None:
        """Show what the draft and the run are now."""
        self.draft_changed()
        self.refresh_nav()
        self.source_changed()
        self.refresh_keys()

    def on_screen_suspend(self) -> None:
        if self.app.current_mode == self.NAME:  # a dialog lies over it, which shows the notices, and it is still seen
            for line in self.query(NoticeLine):
                line.set_data([])
            return
        self._shown = False
        for timer in self._own_timers:
            timer.pause()
        self.left()

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


class EvenfallModal(_InAnyWindow, ModalScreen[Any]):
    """Base of the dialogs: esc closes with None; a run's news reach it through `source_changed`."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close")]

    def on_mount(self) -> None:
        self.mount(TooSmall(), NoticeLine())

    def on_screen_resume(self) -> None:
        self.show_too_small()
        self.show_notices()

    def source_changed(self) -> None:
        """The live run has news. At most twice a second."""

    def _focus_again(self) -> None:
        super()._focus_again()
        if self.focused is None:  # it was opened in a window that was too small
            self.focus_next()

    def close_with(self, word: str) -> None:
        """Close without an answer where there is nothing left to ask about, and say so."""
        if self.app.screen is self:
            self.dismiss(None)
            notice(self.app, word, "warning")

    def action_copy_text(self) -> None:
        try:
            super().action_copy_text()
        except SkipAction:  # keys of the app itself do not reach it through a dialog
            cast("EvenfallLike", self.app).action_help_quit()

    def action_close(self) -> None:
        self.dismiss(None)
