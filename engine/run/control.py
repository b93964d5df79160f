"""Control: what joins a run to whoever watches it.

Events go out to the run's log and commands come in through a queue; neither end waits for the other. The loop,
the recovery and a session all stand on this, so it knows none of them.
"""

import contextlib
import queue

from . import commands as cmd
from . import events as ev
from .log import EventLog


class Control:
    """The worker's end of a session: tell what happens, hear what to do."""

    def __init__(self, log: EventLog, *, attended: bool) -> None:
        self.attended = attended
        """Whether somebody can answer an out-of-memory question."""
        self._log = log
        self._commands: queue.SimpleQueue[cmd.Command] = queue.SimpleQueue()
        self._state: ev.State = "idle"

    @property
    def state(self) -> ev.State:
        return self._state

    def emit(self, event: ev.Event) -> None:
        self._log.append(event)

    def set_state(self, state: ev.State, reason: str = "") -> None:
        self._state = state
        self.emit(ev.StateChanged(state, reason))

    def history(self) -> list[ev.Event]:
        """Every event of the run so far, those of earlier processes included."""
        return self._log.since(0)

    def submit(self, command: cmd.Command) -> None:
        self._commands.put(command)

    def next_command(self, timeout: float | None = 0.0) -> cmd.Command | None:
        """The next command; None when none came within `timeout` seconds (None: wait for ever)."""
        with contextlib.suppress(queue.Empty):
            if timeout == 0.0:
                return self._commands.get_nowait()
            return self._commands.get(timeout=timeout)
        return None
