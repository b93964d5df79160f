"""Keys in one burst mean what they mean when typed slowly.

A lagging link, a paste or a held key delivers many keys at once. What a key begins takes a few turns of the event
loop: a focus that moves, a dialog that opens or closes, another screen that is made, an action that awaits. A key that
went out before that is done would act on what the user no longer looks at. So the app hands every key, mouse event,
paste, and change of the terminal's own focus to `TypedKeys`, which lets one go at a time and the next only when the
app has come to rest.

At rest means: no message waits anywhere in the app, no handler is at work, nothing waits for the next paint, and the
layout stands. A letter for a field does not look at the layout, so it does not wait for that. Work in threads is not
waited for: it is nothing that a slow typist would have waited for either. A handler that takes longer than
`PATIENCE_SECONDS` is not waited for any longer, so that keys always get through, `q` among them. The first key waits
too, for a moment: a dialog may just be opening by itself.

Nothing runs here while no key is on its way. Textual has no word for any of this: `_busy` and `_unpainted` are the two
places that look into it, and a test holds them against real pumps.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from textual import events
from textual.app import App
from textual.message import Message
from textual.message_pump import MessagePump

PATIENCE_SECONDS = 2.0
MOMENT_SECONDS = 0.25
TURNS = 40
"""Turns of the event loop that are looked at one by one; what takes more is looked at each millisecond."""
MOST_LETTERS = 16
"""Letters in a row that a field gets without a look between them: none of them moves the focus."""
ORDERED = (events.InputEvent, events.Paste, events.AppFocus, events.AppBlur)


def is_typed(message: Message) -> bool:
    """Whether a message comes from the terminal and keeps its place among the keys."""
    return isinstance(message, ORDERED) and not message.is_forwarded


class TypedKeys:
    """The line in which keys wait for each other."""

    def __init__(self, app: App[Any], obey: Callable[[Any], Awaitable[None]]) -> None:
        """`obey` does what one event asks for; it is called in the app's own turn."""
        self._app, self._obey = app, obey
        self._waiting: deque[events.Event] = deque()
        self._task: asyncio.Task[None] | None = None
        self._last_busy: MessagePump | None = None

    async def take(self, event: events.Event) -> None:
        """Obey an event now, or once those before it have had their effect."""
        moved = isinstance(event, events.MouseMove)
        if self._task is None and moved:
            await self._obey(event)
        elif self._task is None:
            if self._others_at_rest():
                await self._obey(event)
            else:
                self._waiting.append(event)
            self._task = asyncio.create_task(self._let_go(), name="typed keys")
        elif moved and self._waiting and isinstance(self._waiting[-1], events.MouseMove):
            self._waiting[-1] = event
        else:
            self._waiting.append(event)

    async def _let_go(self) -> None:
        try:
            # What began without a key, such as a dialog that opens by itself, is waited for less long.
            await self._rest(MOMENT_SECONDS if self._waiting else PATIENCE_SECONDS)
            while self._waiting:
                together = MOST_LETTERS if self._next_is_a_letter() else 1
                self._app.call_later(self._obey, self._waiting.popleft())
                while together > 1 and self._next_is_a_letter():
                    self._app.call_later(self._obey, self._waiting.popleft())
                    together -= 1
                await self._rest()
        finally:
            self._task = None

    async def _rest(self, seconds: float | None = None) -> None:
        """Wait until the app has come to rest, but not for ever."""
        end, turns = time.monotonic() + (PATIENCE_SECONDS if seconds is None else seconds), 0
        with contextlib.suppress(AttributeError):  # another Textual, inside: no key may be lost over that
            while not self._at_rest() and time.monotonic() < end:
                turns += 1
                await asyncio.sleep(0 if turns < TURNS else 0.001)

    def _others_at_rest(self) -> bool:
        """Whether nothing but the app itself, which is handing over an event, is at work."""
        with contextlib.suppress(AttributeError):
            return not any(map(_busy, self._app._registry))
        return True

    def _at_rest(self) -> bool:
        if self._last_busy is not None and _busy(self._last_busy):
            return False
        self._last_busy = next((pump for pump in (self._app, *self._app._registry) if _busy(pump)), None)
        if self._last_busy is not None:
            return False
        if not self._app.screen_stack:  # it is leaving
            return True
        return self._next_is_a_letter() or not _unpainted(self._app)

    def _next_is_a_letter(self) -> bool:
        """Whether the next event is text for the widget that has the focus."""
        event = self._waiting[0] if self._waiting else None
        focused = self._app.focused
        return (
            isinstance(event, events.Key)
            and focused is not None
            and focused.check_consume_key(event.key, event.character)
        )


def _busy(pump: MessagePump) -> bool:
    """Whether a message waits for a pump, or its handler is at work: else it waits for its queue to be filled."""
    if pump._closed or (pump._task is None and not isinstance(pump, App)):
        return False
    filled: Any = pump._message_queue.ready_event
    return filled.is_set() or not filled._waiters or bool(pump._next_callbacks)


def _unpainted(app: App[Any]) -> bool:
    """Whether something waits for the next paint: callbacks, a layout, a scroll."""
    screen = app.screen
    painting = bool(screen._callbacks or screen._layout_required or screen._scroll_required)
    return painting or not app.animator._complete_event.is_set()
