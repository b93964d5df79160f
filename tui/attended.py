"""The app in a process that may outlive its terminal.

`q` or `D` with *detach*, a closed SSH session (SIGHUP) and a dead terminal all end the same way: the
screens go, every tie to the terminal is cut, and the process stays until its run is done. SIGTERM
saves and stops the run first (`signals.py`).
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.machine.user_folders import state_folder
from .app import EvenfallApp
from .safe_text import safe_str
from .signals import leave_on_signals
from .terminal import leave_terminal, native_output_to

if TYPE_CHECKING:
    from ..engine.run.directory import RunDirectory


def run_app(
    release: Callable[[], None],
    *,
    root: Path,
    train: "RunDirectory | None" = None,
    resume: bool = False,
    leave_when_done: bool = False,
    watch: Path | None = None,
) -> int:
    """Show the app until the user leaves it, then stay as long as a run goes on.

    Args:
        release: tells the waiting parent process that its user may have the shell back.
        train: a run to train at once, anew or (`resume`) from its last checkpoint.
        leave_when_done: leave the screens once it has ended.
        watch: the folder of a run to show.

    Returns:
        The run's exit code, where `train` was given; else 0, or 1 where the screens failed.
    """
    session = None
    if train:
        from ..engine.session.session import Session

        session = Session(train, resume=resume, attended=True)
    app = EvenfallApp(
        train.config() if train else None,
        root=root,
        watch=watch,
        train=session,
        leave_when_done=leave_when_done,
    )
    screens_gone, terminated = threading.Event(), threading.Event()
    leave_on_signals(app, screens_gone, terminated, lambda: _exit_code(app, terminated), session)
    log = state_folder() / "output.log"
    with native_output_to(log):
        app.run()
    screens_gone.set()
    if app.return_code and not app.hung_up:
        with contextlib.suppress(OSError):
            print(f"evenfall: the screens failed; the traceback is in {log}", file=sys.stderr)
    if app.desk.session and not app.desk.session.done:
        app.desk.session.set_attended(False)
        if not terminated.is_set():  # else whoever ended this waits until the run is saved
            name = app.desk.session.run.name
            with contextlib.suppress(OSError):
                if not app.hung_up:
                    print(_goes_on(name, f"process {os.getpid()}"))
                sys.stdout.flush()
            leave_terminal(log)
            release()
        app.desk.session.wait()
    elif not app.hung_up and (source := app.desk.source) and not source.done:
        print(_goes_on(source.name, source.owner))
    return _exit_code(app, terminated) if train or terminated.is_set() else app.return_code or 0


def _exit_code(app: EvenfallApp, terminated: threading.Event) -> int:
    code = 0
    if app.desk.session:
        from ..engine.session.headless import EXIT_CODES

        code = EXIT_CODES.get(app.desk.session.state, 1)
    return 128 + signal.SIGTERM if terminated.is_set() and code == 0 else code


def _goes_on(name: str, owner: str) -> str:
    return f"{safe_str(name)} goes on in {safe_str(owner)}: `evenfall` opens it again"
