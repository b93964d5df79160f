"""The terminal, and what happens to a run when it goes away.

Two problems have one answer each. Native code (CUDA, tokenizers, child processes) writes to file
descriptors 1 and 2 and would draw over the screens: while the app runs, both lead to a log file, and
Textual draws through a copy of the terminal. And a shell must get its prompt back when the user
detaches, while the training goes on in the same process: so the program runs in a child that is
forked before anything is loaded, and its parent leaves as soon as the child says so.
"""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .signals import hold_back, let_through

PATIENCE_SECONDS = 10.0
"""How long threads may take to end once the program has."""


class _Terminal(io.FileIO):
    """A terminal to draw on, which swallows what is drawn once it is gone.

    An error there would end the thread that writes, and then the screens wait for it for ever.
    """

    def write(self, data: Any, /) -> int | None:
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError:
            return len(data)


@contextlib.contextmanager
def native_output_to(log: Path) -> Iterator[None]:
    """Lead descriptors 1 and 2 to a file; `sys.__stdout__` and `sys.__stderr__` keep the terminal."""
    saved_out, saved_err = os.dup(1), os.dup(2)
    streams = sys.__stdout__, sys.__stderr__, sys.stdout, sys.stderr
    target = _open_log(log)
    raw = io.BufferedWriter(_Terminal(os.dup(saved_out), "wb"))
    terminal: Any = io.TextIOWrapper(raw, encoding="utf-8", errors="replace")
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        sys.__stdout__ = sys.__stderr__ = terminal  # type: ignore[misc] - Textual draws there
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        with contextlib.suppress(OSError):
            terminal.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        sys.__stdout__, sys.__stderr__, sys.stdout, sys.stderr = streams  # type: ignore[misc]
        for handle in (saved_out, saved_err, target):
            os.close(handle)


def leave_terminal(log: Path) -> None:
    """Cut every tie to the terminal: input from nowhere, output to a file, a session of its own."""
    with contextlib.suppress(OSError):
        os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    target = _open_log(log)
    os.dup2(null, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)


def _open_log(log: Path) -> int:
    """The log file, or nowhere: a state folder that takes no file is no reason to show no screens."""
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def run_detachable(body: Callable[[Callable[[], None]], int]) -> int:
    """Run `body(release)` in a child and return its exit code, or 0 as soon as it calls `release`.

    Fork before threads start and before heavy imports: the child is the program, its parent only
    waits for it. SIGHUP and SIGTERM are held back in the child until `body` lets them through.
    """
    read, write = os.pipe()
    hold_back()
    child = os.fork()
    if child == 0:
        os.close(read)

        def release() -> None:
            os.write(write, b"d")
            os.close(write)

        code = body(release)
        threading.Thread(target=_leave_after, args=(code,), daemon=True).start()
        raise SystemExit(code)  # what follows the call is for the parent alone
    os.close(write)

    def pass_on(number: int, _: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    # The terminal sends Ctrl-C to the child as well.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    let_through()
    try:
        return _end_of(child, read)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_after(code: int) -> None:
    """End the process, should a thread that waits for a lost terminal keep it: it would hold its memory for ever."""
    time.sleep(PATIENCE_SECONDS)
    os._exit(code)


def _end_of(child: int, read: int) -> int:
    """0 once the child lets go of the terminal, else its exit code once it ended."""
    if os.read(read, 1) == b"d":
        return 0
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
