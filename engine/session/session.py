"""Session: one run in one worker thread, the two queues that lead in and out, and the socket for other terminals.

The worker is a plain thread, never an executor's: an executor joins its threads at exit, and a run
must neither be killed nor waited for just because its viewer went. Viewers poll `events_since`; the
worker never calls them, so a terminal that stops reading cannot stop the training. Commands are
queued and taken up by the loop at a step boundary.

States: idle -> loading -> ready -> training <-> paused, out-of-memory -> finished | failed. This
module is light; torch is first imported inside the worker.
"""

import contextlib
import logging
import threading

from ..errors import UserError
from ..machine.frames import drop_frames
from ..run import commands as cmd
from ..run import events as ev
from ..run.control import Control
from ..run.directory import RunDirectory
from ..run.log import EventLog
from .imports import import_for_run
from .socket import RunSocket


class Session:
    """Trains a run directory. `start()` returns at once; everything else is polled.

    Raises:
        RunError: another process trains it. Its events are its own: nothing is written to them.
    """

    def __init__(self, run: RunDirectory, *, resume: bool = False, attended: bool = False) -> None:
        self.run = run
        self._resume = resume
        self._held = contextlib.ExitStack()
        hold = self._held.enter_context(run.lock())
        self._log = EventLog(run.events_file)
        self._control = Control(self._log, attended=attended)
        self._socket = RunSocket(run.path, control=self._control, hold=hold, log_error=lambda: self._log.write_error)
        self._thread = threading.Thread(target=self._work, name="evenfall-worker")
        self._starting = threading.Lock()

    @property
    def state(self) -> ev.State:
        return self._control.state

    @property
    def done(self) -> bool:
        """Started and ended: no event will follow."""
        return self._thread.ident is not None and not self._thread.is_alive()

    @property
    def log_error(self) -> str | None:
        """Why the last events are not on disk; None when they are."""
        return self._log.write_error

    def start(self) -> None:
        """Begin; nothing where it has begun. May be called from any thread."""
        with self._starting:
            if self._thread.ident is None:
                self._socket.start()
                self._thread.start()

    def submit(self, command: cmd.Command) -> None:
        """Queue a command; an event says when it was applied or why it was refused."""
        self._control.submit(command)

    def set_attended(self, attended: bool) -> None:
        """Say whether somebody still watches (a detached run answers out-of-memory by itself)."""
        self._control.has_screens = attended

    def events_since(self, n: int) -> list[ev.Event]:
        return self._log.since(n)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False where it is still running after `timeout` seconds."""
        self._thread.join(timeout)
        return self.done

    def _work(self) -> None:
        control = self._control
        with _library_output_in(self.run):
            try:
                control.set_state("loading")
                device = self.run.config().train.device
                self._socket.find_device(device)
                import_for_run(device)
                from ..training.worker import work

                work(self.run, control, resume=self._resume)
            except BaseException as error:
                logging.getLogger("evenfall").exception("the run failed")
                drop_frames(error)
                steps = self.run.checkpoints()
                hint = error.hint if isinstance(error, UserError) else ""
                hint = hint or f"the traceback is in {self.run.log_file}"
                message = str(error) or type(error).__name__
                control.emit(ev.Failed(message, hint, steps[-1] if steps else None))
                control.set_state(getattr(error, "state", "failed"), message.splitlines()[0])
            finally:
                control.close("the run has ended")
                self._socket.close()
                self._log.close()
                self._held.close()


@contextlib.contextmanager
def _library_output_in(run: RunDirectory):
    """Send logging and warnings to the run's log file while the worker lives."""
    handler = logging.FileHandler(run.log_file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level or logging.WARNING, logging.WARNING))
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
