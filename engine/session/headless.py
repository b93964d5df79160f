"""A session in the foreground, without screens, to its end and its exit code."""

import sys
from collections.abc import Callable

from ..run import events as ev
from .session import Session


def run_headless(session: Session, tell: Callable[[ev.Event], None], *, poll_seconds: float = 0.1) -> int:
    """Run a session to its end in the foreground and return the process's exit code.

    `tell` gets every event once, in order. Ctrl-C raises KeyboardInterrupt here as anywhere; the
    command line turns it, like SIGTERM, into `Stop(save=True)`.
    """
    seen = 0
    session.start()
    while True:
        ended = session.wait(poll_seconds)
        for event in session.events_since(seen):
            seen = event.n
            tell(event)
        if ended:
            break
    sys.stdout.flush()
    return EXIT_CODES.get(session.state, 1)


EXIT_CODES: dict[ev.State, int] = {"finished": 0, "failed": 1, "out-of-memory": 3}
"""Process exit codes: 0 finished, 1 failed, 2 wrong usage, 3 ended by out-of-memory, 130 Ctrl-C."""
