"""The asking side of a run's socket: a script that gives one command, a viewer that stays."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..run import commands as cmd
from ..run import events as ev
from ..run.control import Answer
from ..run.owner import Owner, read_owner
from .wire import (
    ALIVE_SECONDS,
    LONGEST,
    VERSION,
    Request,
    WireError,
    check_greeting,
    decode,
    encode,
    encode_request,
    user_of,
)

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 4 * ALIVE_SECONDS
"""After so long without a word the process that trains is held up, or stopped."""


class UnreachableError(UserError):
    """A live run that takes no commands from here; the message says why, the hint what to do."""


class _Connection:
    """A connection to a run's socket, greeted on both sides.

    Raises:
        UnreachableError: there is none to be had.
    """

    def __init__(self, owner: Owner, *, watch: bool) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._rest = b""
        try:
            self._socket.settimeout(CONNECT_SECONDS)
            self._socket.connect(owner.socket)
            if user_of(self._socket) not in (os.getuid(), 0):
                raise WireError("another user's process answers at the run's socket")
            self.send(encode({"evenfall": VERSION, "watch": watch}))
            greeting = self.receive()
            check_greeting(greeting)
            if greeting.get("pid") != owner.pid:
                raise WireError("another process answers at the run's socket")
            self._socket.settimeout(None)
        except (OSError, EOFError, WireError) as error:
            self._socket.close()
            raise UnreachableError(*_why_unreachable(owner, error)) from None

    def send(self, line: bytes) -> None:
        """Raises OSError where it cannot be taken at once."""
        if self._socket.send(line, socket.MSG_DONTWAIT) != len(line):
            raise OSError("the run does not read its socket")

    def receive(self) -> dict[str, Any]:
        """The next line, as an object.

        Raises:
            EOFError: the run has hung up.
            WireError: it is none; or the run says what was wrong with what it got.
        """
        while b"\n" not in self._rest:
            data = self._socket.recv(4096)
            if not data:
                raise EOFError
            self._rest += data
            if len(self._rest) > 16 * LONGEST:
                raise WireError("expected shorter lines")
        line, _, self._rest = self._rest.partition(b"\n")
        tree = decode(line)
        if isinstance(error := tree.get("error"), str):
            raise WireError(error)
        return tree

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def _why_unreachable(owner: Owner, error: Exception) -> tuple[str, str]:
    where = "" if owner.is_here else f"give the command there, on {owner.host}"
    if not owner.socket:
        return f"{owner.told} has opened no socket", where or "if it has only just begun, try again"
    if isinstance(error, FileNotFoundError) and not owner.is_here:
        return f"{owner.told} cannot be reached from here", where
    if isinstance(error, PermissionError):
        return f"{owner.told} belongs to another user", "give the command as that user"
    if isinstance(error, TimeoutError):
        return f"{owner.told} does not answer", "it may be stopped (kill -CONT wakes it) or very busy: try again"
    words = "it has hung up" if isinstance(error, EOFError) else str(error) or type(error).__name__
    return f"{owner.told} cannot be reached: {words}", where or "if it is about to end, `evenfall watch` shows how"


def owner_of(run: Path) -> Owner:
    """Who trains a live run.

    Raises:
        UnreachableError: its process has not written itself down.
    """
    owner = read_owner(run)
    if owner is None:
        raise UnreachableError(f"{run}: whoever trains it has not said who it is", "try again in a second")
    return owner


def ask(owner: Owner, command: cmd.Command, taken: Callable[[], None] = lambda: None) -> Answer:
    """Give a live run a command and wait for its answer, however long its step takes.

    Args:
        taken: is called once the run has it.

    Raises:
        UnreachableError: the run cannot be reached, or ended without an answer.
    """
    connection = _Connection(owner, watch=False)
    name = type(command).__name__
    try:
        connection.send(encode_request(Request(1, command)))
        while True:
            answer = _answer_in(connection.receive(), name)
            if answer is not None:
                return answer
            taken()
    except (OSError, EOFError, WireError) as error:
        words = str(error) or "it ended without an answer"
        raise UnreachableError(f"{owner.told}: {words}", "`evenfall watch` shows what became of it") from None
    finally:
        connection.close()


def _answer_in(tree: dict[str, Any], name: str) -> Answer | None:
    step, detail, why = tree.get("applied"), tree.get("detail"), tree.get("refused")
    if isinstance(step, int):
        return ev.CommandApplied(name, step, detail if isinstance(detail, str) else "")
    return ev.CommandRefused(name, why) if isinstance(why, str) else None


class Attachment:
    """A viewer's connection to a live run, made and read on a thread of its own; polled, never waited for."""

    def __init__(self, run: Path, why_not: str = "connecting to the run") -> None:
        """`why_not` is told until the first attempt is over."""
        self._run = run
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        self._names: dict[int, str] = {}
        self._answers: list[Answer] = []
        self._heard = time.monotonic()
        self._closed = False
        self.why_not: str | None = why_not
        """Why no command can be given; None where it can."""
        self.log_error: str | None = None
        """Why the run's last events are not on disk."""
        self.over = False
        """The connection could not be made, or is lost."""
        threading.Thread(target=self._work, name="evenfall-attachment", daemon=True).start()

    @property
    def silent_seconds(self) -> float | None:
        """For how long the run has said nothing, where that is longer than it should be."""
        silent = time.monotonic() - self._heard
        return silent if self._connection and not self.over and silent > SILENT_SECONDS else None

    def submit(self, command: cmd.Command) -> str:
        """Ask for a command; `answers` tells what became of it.

        Returns:
            Why it could not be asked; empty where it was.
        """
        with self._lock:
            if self._connection is None or self.over:
                return self.why_not or "the run is not connected"
            id = len(self._names)
            try:
                self._connection.send(encode_request(Request(id, command)))
            except OSError as error:
                return f"the run cannot be reached: {error}"
            self._names[id] = type(command).__name__
            return ""

    def answers(self) -> list[Answer]:
        """What became of commands since the last call."""
        with self._lock:
            answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        """Hang up. The run goes on."""
        with self._lock:
            self._closed = True
            if self._connection:
                self._connection.close()

    def _work(self) -> None:
        try:
            connection = _Connection(owner_of(self._run), watch=True)
            with self._lock:
                self._connection = connection
                if self._closed:
                    connection.close()
            self.why_not = None
            while True:
                self._hear(connection.receive())
        except UnreachableError as error:
            self.why_not = error.told()
        except (OSError, EOFError, WireError) as error:
            self.why_not = f"the connection to the run is lost: {str(error) or 'it has hung up'}"
        finally:
            with self._lock:
                self.over = True
                if self._connection:
                    self._connection.close()

    def _hear(self, tree: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        if "alive" in tree:
            why = tree.get("log_error")
            self.log_error = why if isinstance(why, str) else None
            return
        name = self._names.get(tree.get("id", -1))
        if name and (answer := _answer_in(tree, name)):
            with self._lock:
                self._answers.append(answer)
