"""What SIGINT, SIGTERM and SIGHUP do: to the app, to a run without screens, to a benchmark.

| | Ctrl-C | SIGTERM | SIGHUP (the terminal is gone) |
|---|---|---|---|
| the app | a key like any other | saves and stops the run, ends | screens go, the run goes on |
| a run without screens | saves and stops; again: ends at once | saves and stops | the run goes on |
| a benchmark | Python's own | ends, and what it started | ends, and what it started |

A line drops at any moment, so both are held back from before a run is taken up until what they do is known: one that
came meanwhile does it then. Handlers are set with `signal.signal`, which, unlike the event loop's own, also works while
the loop is blocked by a terminal that stopped reading.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine.session.session import Session
    from .app import EvenfallApp

WATCHDOG_SECONDS = 3.0
HELD_BACK = {signal.SIGHUP, signal.SIGTERM}


def hold_back() -> None:
    """Let SIGHUP and SIGTERM wait until `let_through`; for threads and processes that are started meanwhile, too."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)


def let_through() -> None:
    """What came since `hold_back` comes now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def leave_on_signals(
    app: "EvenfallApp",
    screens_gone: threading.Event,
    terminated: threading.Event,
    exit_code: Callable[[], int],
    train: "Session | None" = None,
) -> None:
    """The app: SIGTERM and SIGHUP end the screens, and SIGTERM the run.

    A watchdog ends the process with `exit_code` once the run is done, should the screens never come back.

    Args:
        screens_gone: set by the caller when they are.
        terminated: set here when SIGTERM comes.
        train: what the app is to train at once; it has not begun while the desk has no session.
    """
    from ..engine.run.commands import Stop

    def watchdog() -> None:
        if not screens_gone.wait(WATCHDOG_SECONDS):
            if session := app.desk.session or train:
                session.start()
                session.wait()
            os._exit(exit_code())

    def leave(number: int, _: Any) -> None:
        if number == signal.SIGTERM:
            terminated.set()
            if train and not app.desk.session:
                train.submit(Stop(save=True))
            app.desk.stop_session()
        if screens_gone.is_set():
            return
        app.hung_up = True
        app.detach()
        threading.Thread(target=watchdog, daemon=True, name="evenfall-watchdog").start()

    for number in HELD_BACK:
        signal.signal(number, leave)
    let_through()


def stop_on_signals(session: "Session", say: Callable[[str], None]) -> list[int]:
    """A run without screens: Ctrl-C and SIGTERM save and stop; a hang-up is no reason to end it.

    Returns:
        The signals that came, as they come.
    """
    from ..engine.run.commands import Stop

    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        if number == signal.SIGINT and came:
            os._exit(130)  # any other way out waits for the worker; on disk all is whole
        came.append(number)
        session.submit(Stop(save=True))
        with contextlib.suppress(RuntimeError):  # it came in the middle of another line
            say("saving and stopping after this step (Ctrl-C again: end at once)")

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, lambda *_: session.set_attended(False))
    let_through()
    return came


def exit_on_signals() -> None:
    """A command that has started processes and made folders: an end by a signal clears them away as any other does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
