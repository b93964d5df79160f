"""Control: what joins a run to whoever watches it.

Events go out to the run's log and commands come in through a queue; neither end waits for the other. Each command that
was asked is answered once: applied at a step, or refused and why. The loop, the recovery and a session all stand on
this, so it knows none of them.
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from . import commands as cmd
from . import events as ev
from .log import EventLog

Answer = ev.CommandApplied | ev.CommandRefused


@dataclass(frozen=True, eq=False)
class Asked:
    """A command on its way to the loop."""

    command: cmd.Command
    tell: Callable[[Answer], None]
    """Is called once, by the thread that answers."""


class Control:
    """The worker's end of a session: tell what happens, hear what to do."""

    def __init__(self, log: EventLog, *, attended: bool) -> None:
        self.has_screens = attended
        """Whether this process shows the run to somebody."""
        self._viewers = 0
        self._log = log
        self._lock = threading.Lock()
        self._asked: queue.SimpleQueue[Asked] = queue.SimpleQueue()
        self._closed = ""
        self._state: ev.State = "idle"

    @property
    def state(self) -> ev.State:
        return self._state

    @property
    def attended(self) -> bool:
        """Whether somebody can answer an out-of-memory question, here or from another terminal."""
        return self.has_screens or self._viewers > 0

    @contextlib.contextmanager
    def viewer(self):
        """Somebody watches from another terminal."""
        with self._lock:
            self._viewers += 1
        try:
            yield
        finally:
            with self._lock:
                self._viewers -= 1

    def emit(self, event: ev.Event) -> None:
        self._log.append(event)

    def set_state(self, state: ev.State, reason: str = "") -> None:
        self._state = state
        self.emit(ev.StateChanged(state, reason))

    def history(self) -> list[ev.Event]:
        """Every event of the run so far, those of earlier processes included."""
        return self._log.since(0)

    def submit(self, command: cmd.Command, tell: Callable[[Answer], None] = lambda answer: None) -> None:
        """Ask for a command. `tell` hears the answer, in the thread that gives it."""
        asked = Asked(command, tell)
        with self._lock:
            closed = self._closed
            if not closed:
                self._asked.put(asked)
        if closed:
            tell(ev.CommandRefused(type(command).__name__, closed))

    def next_command(self, timeout: float | None = 0.0) -> Asked | None:
        """What was asked next; None when nothing was within `timeout` seconds (None: wait for ever).

        It is to be answered by `applied` or `refuse`.
        """
        with contextlib.suppress(queue.Empty):
            if timeout == 0.0:
                return self._asked.get_nowait()
            return self._asked.get(timeout=timeout)
        return None

    def applied(self, asked: Asked, step: int, detail: str = "") -> None:
        """Answer that a command was obeyed once `step` updates were done."""
        answer = ev.CommandApplied(type(asked.command).__name__, step, detail)
        self.emit(answer)
        asked.tell(answer)

    def refuse(self, asked: Asked, why: str) -> None:
        """Answer that a command is not obeyed."""
        answer = ev.CommandRefused(type(asked.command).__name__, why)
        self.emit(answer)
        asked.tell(answer)

    def close(self, why: str) -> None:
        """Nobody will take up commands any more: refuse those that wait, and those to come."""
        with self._lock:
            self._closed = why
        while (asked := self.next_command()) is not None:
            asked.tell(ev.CommandRefused(type(asked.command).__name__, why))
