"""A run that is held, with its socket, and no training: what asks it is tested against it."""

import contextlib
import threading
import time
from collections.abc import Callable

from evenfall.engine.run import commands as cmd
from evenfall.engine.run.control import Control
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.log import EventLog
from evenfall.engine.run.owner import read_owner
from evenfall.engine.session.socket import RunSocket


class Served:
    """Refuses to save, and obeys all else after step 7."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self._held = contextlib.ExitStack()
        hold = self._held.enter_context(run.lock())
        self.log = EventLog(run.events_file)
        self.log_error: str | None = None
        self.control = Control(self.log, attended=False)
        self.socket = RunSocket(run.path, control=self.control, hold=hold, log_error=lambda: self.log_error)
        self.heard: list[cmd.Command] = []
        self.gate = threading.Lock()
        """While it is held nothing is taken up."""
        self.over = False
        self._loop = threading.Thread(target=self._obey)
        self.socket.start()
        self._loop.start()
        until(lambda: (owner := read_owner(run.path)) and owner.socket)

    def _obey(self) -> None:
        while not self.over:
            with self.gate:
                asked = None if self.over else self.control.next_command()
            if asked is None:
                time.sleep(0.005)
                continue
            self.heard.append(asked.command)
            if isinstance(asked.command, cmd.SaveNow):
                self.control.refuse(asked, "the disk is full")
            else:
                self.control.applied(asked, 7, "done")

    def end(self) -> None:
        self.over = True
        self._loop.join()
        self.control.close("the run has ended")
        self.socket.close()
        self.log.close()
        self._held.close()


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come about"
        time.sleep(0.01)
