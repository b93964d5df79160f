"""The run's socket: commands from any terminal, while the run goes on.

A thread of its own serves it, with an event loop of its own; the training only ever sees what it takes from its queue.
Nothing that a client does or leaves undone holds the run up: lines are bounded, connections are counted, a client that
does not greet or does not read is dropped, and all requests together are taken at a pace that costs a few per cent of
a core at most. Only processes of the same user (and root's) are heard.

The same thread shows that the run lives: it touches the lock, keeps the pointer in the registry right, and opens the
socket anew where its file has gone.
"""

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ..machine.user_folders import private_folder
from ..machine.which_gpu import device_name
from ..run import events as ev
from ..run.control import Answer, Control
from ..run.directory import Hold
from ..run.owner import TOUCH_SECONDS
from ..run.registry import Entry, live_folder, remember_place
from .wire import (
    ALIVE_SECONDS,
    LONGEST,
    VERSION,
    Nonsense,
    WireError,
    check_greeting,
    decode,
    decode_request,
    encode,
    user_of,
)

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
GREETING_SECONDS = 5.0
PACE_SECONDS = 0.004
"""Between two things that are taken from clients, connections included."""
MOST_UNREAD = 65_536
"""Bytes that wait for a client to read them before it is dropped."""
MOST_UNANSWERED = 16
"""Requests of one connection that wait for their answer."""
LONGEST_PATH = 100
"""Bytes: the kernel takes some 107."""


class RunSocket:
    """Serves a run's commands from `start` to `close`."""

    def __init__(self, run: Path, *, control: Control, hold: Hold, log_error: Callable[[], str | None]) -> None:
        """`log_error` says why the run's last events are not on disk."""
        self._run, self._control, self._hold, self._log_error = run.absolute(), control, hold, log_error
        self._entry = Entry()
        self._listening: socket.socket | None = None
        self._path, self._file = "", 0
        self._accepting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._begun = threading.Event()
        self._connections: set[_Connection] = set()
        self._pace: asyncio.Lock | None = None
        self._thread = threading.Thread(target=self._work, name="evenfall-socket", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def find_device(self, choice: str) -> None:
        """Write down which device a `train.device` means. The driver may take seconds to tell, and nobody waits."""

        def find() -> None:
            self._hold.tell(device=device_name(choice))

        threading.Thread(target=find, name="evenfall-device", daemon=True).start()

    def close(self) -> None:
        """End it, and remove what leads to it. What was answered before still arrives."""
        self._begun.wait()
        if self._loop and self._over:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("the run's socket ended; commands from other terminals are not heard")
        finally:
            self._begun.set()
            self._entry.remove()
            self._forget_path()

    async def _serve(self) -> None:
        self._loop, self._over, self._pace = asyncio.get_running_loop(), asyncio.Event(), asyncio.Lock()
        self._begun.set()
        self._listen()
        remember_place(self._run.parent)
        self._accepting = asyncio.create_task(self._accept())
        showing_life = asyncio.create_task(self._show_life())
        await self._over.wait()
        showing_life.cancel()
        self._accepting.cancel()
        for connection in list(self._connections):
            await connection.end()

    # The socket's file

    def _listen(self) -> None:
        """Open the socket in the first folder that takes one, and say where it is."""
        errors = []
        for folder in (live_folder(), Path(tempfile.gettempdir()) / f"evenfall-{os.getuid()}"):
            path = str(folder / f"{self._entry.token}.sock")
            if len(os.fsencode(path)) > LONGEST_PATH:
                errors.append(f"{path}: too long for a socket")
                continue
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                private_folder(folder)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                listening.bind(path)
                os.chmod(path, 0o600)
                listening.listen(MOST_CONNECTIONS)
            except OSError as error:
                listening.close()
                errors.append(f"{path}: {error.strerror or error}")
                continue
            listening.setblocking(False)
            self._listening, self._path, self._file = listening, path, os.stat(path).st_ino
            self._entry.write(self._hold.folder())
            self._hold.tell(socket=path)
            return
        self._listening = None
        self._hold.tell(socket="")
        self._entry.write(self._hold.folder())
        why = "; ".join(errors)
        self._control.emit(ev.Alert(f"other terminals can watch this run and not steer it: no socket ({why})"))

    def _is_there(self) -> bool:
        """Whether the socket's path still leads to it."""
        try:
            return os.stat(self._path).st_ino == self._file
        except OSError:
            return False

    def _forget_path(self) -> None:
        if self._listening:
            self._listening.close()
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    async def _show_life(self) -> None:
        before = ""
        while True:
            await asyncio.sleep(min(TOUCH_SECONDS, ALIVE_SECONDS))
            trouble = self._hold.touch()
            if trouble and trouble != before:
                self._control.emit(ev.Alert(trouble))
            before = trouble
            self._entry.write(self._hold.folder())
            if self._listening and not self._is_there():
                if self._accepting:
                    self._accepting.cancel()
                    await asyncio.wait([self._accepting])
                self._listening.close()
                self._listen()
                self._accepting = asyncio.create_task(self._accept())
            for connection in list(self._connections):
                connection.tell_alive(self._log_error())

    # Clients

    async def _accept(self) -> None:
        assert self._loop
        while self._listening:
            try:
                client, _ = await self._loop.sock_accept(self._listening)
            except OSError:  # out of file descriptors
                await asyncio.sleep(0.2)
                continue
            await self.take_turn()
            if len(self._connections) >= MOST_CONNECTIONS or not _is_ours(client):
                client.close()
                continue
            connection = _Connection(self, self._control, client, str(self._run))
            self._connections.add(connection)
            connection.task.add_done_callback(lambda _, gone=connection: self._connections.discard(gone))

    async def take_turn(self) -> None:
        """Wait until one more thing of a client may be taken."""
        assert self._pace
        async with self._pace:
            await asyncio.sleep(PACE_SECONDS)


def _is_ours(client: socket.socket) -> bool:
    """Whether a process of this user, or of root, is at the other end."""
    try:
        return user_of(client) in (os.getuid(), 0)
    except OSError:
        return False


class _Connection:
    """One client, from its greeting to its end."""

    def __init__(self, server: RunSocket, control: Control, client: socket.socket, run: str) -> None:
        self._server, self._control, self._client, self._run = server, control, client, run
        self._loop = asyncio.get_running_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._watches = False
        self._unanswered = 0
        self.task = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        reader, self._writer = await asyncio.open_unix_connection(sock=self._client, limit=LONGEST)
        try:
            self._send(evenfall=VERSION, run=self._run, pid=os.getpid())
            greeting = decode(await asyncio.wait_for(_line(reader), GREETING_SECONDS))
            check_greeting(greeting)
            self._watches = greeting.get("watch") is True
            with self._control.viewer() if self._watches else contextlib.nullcontext():
                while True:
                    await self._take(await _line(reader))
                    await self._server.take_turn()
        except WireError as error:
            self._send(error=str(error))
        except (TimeoutError, EOFError, OSError):
            pass
        finally:
            self._writer.close()
            self._writer = None

    async def _take(self, line: bytes) -> None:
        try:
            request = decode_request(decode(line))
        except Nonsense as error:
            self._send(id=error.id, refused=str(error))
            return
        if self._unanswered >= MOST_UNANSWERED:
            self._send(id=request.id, refused=f"{MOST_UNANSWERED} commands of yours wait for an answer already")
            return
        self._unanswered += 1
        self._send(id=request.id, taken=True)

        def answered(answer: Answer) -> None:  # on the run's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._tell, request.id, answer)

        self._control.submit(request.command, answered)

    def _tell(self, id: int, answer: Answer) -> None:
        self._unanswered -= 1
        if isinstance(answer, ev.CommandApplied):
            self._send(id=id, applied=answer.step, detail=answer.detail)
        else:
            self._send(id=id, refused=answer.why)

    def tell_alive(self, log_error: str | None) -> None:
        """Tell one that watches that the run is there."""
        if self._watches:
            self._send(alive=True, log_error=log_error)

    async def end(self) -> None:
        """Let what was said arrive, then hang up."""
        if self._writer:
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(self._writer.drain(), 0.5)
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    def _send(self, **tree: object) -> None:
        if self._writer is None or self._writer.is_closing():
            return  # gone meanwhile: an answer may come late
        if self._writer.transport.get_write_buffer_size() > MOST_UNREAD:
            self._writer.transport.abort()
        else:
            self._writer.write(encode(tree))


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next whole line.

    Raises:
        WireError: it is too long.
        EOFError: the client is gone, in the middle of a line perhaps.
    """
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise WireError(f"expected lines of at most {LONGEST} bytes") from None
