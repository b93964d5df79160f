"""A run's socket: commands from any terminal, and whatever else comes over it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_run import Served, until

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run.control import Control
from evenfall.engine.run.directory import RunDirectory, RunError
from evenfall.engine.run.find import create_run
from evenfall.engine.run.log import EventLog
from evenfall.engine.run.owner import read_owner
from evenfall.engine.run.registry import live_runs
from evenfall.engine.session import socket as socket_module
from evenfall.engine.session.attach import Attachment, UnreachableError, ask, owner_of
from evenfall.engine.session.socket import MOST_CONNECTIONS, RunSocket
from evenfall.engine.session.wire import LONGEST

GREETING = b'{"evenfall": 1}\n'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    run = create_run(parse_config({"output_dir": str(tmp_path / "runs"), "name": "night", "data": {"path": "a.jsonl"}}))
    served = Served(run)
    yield served
    with contextlib.suppress(ValueError, RuntimeError):
        served.end()


def connect(served: Served) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(owner_of(served.run.path).socket)
    return client


def hears(client: socket.socket) -> list[dict]:
    """All that comes until the run hangs up."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := client.recv(65536):
            data += more
    return [json.loads(line) for line in data.splitlines()]


def test_a_command_is_applied_at_a_step_or_refused_with_a_reason(served: Served) -> None:
    owner, taken = owner_of(served.run.path), []
    applied = ask(owner, cmd.SetLearningRate(5e-5, "hold"), lambda: taken.append(True))
    assert applied == ev.CommandApplied("SetLearningRate", 7, "done") and taken == [True]
    assert ask(owner, cmd.SaveNow()) == ev.CommandRefused("SaveNow", "the disk is full")
    assert served.heard == [cmd.SetLearningRate(5e-5, "hold"), cmd.SaveNow()]
    assert [type(event) for event in served.log.since(0)] == [ev.CommandApplied, ev.CommandRefused]


def test_the_socket_is_this_users_alone_and_goes_with_the_run(served: Served) -> None:
    path = Path(owner_of(served.run.path).socket)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    assert [run.path for run in live_runs()] == [served.run.path]
    served.end()
    assert not path.exists() and live_runs() == [] and read_owner(served.run.path) is None


def test_viewers_count_as_somebody_who_can_answer(served: Served) -> None:
    viewers = [Attachment(served.run.path) for _ in range(3)]
    until(lambda: all(viewer.why_not is None for viewer in viewers) and served.control.attended)
    assert viewers[1].submit(cmd.Pause()) == ""
    answers: list = []
    until(lambda: answers.extend(viewers[1].answers()) or answers)
    assert answers == [ev.CommandApplied("Pause", 7, "done")] and viewers[0].answers() == []
    for viewer in viewers[:2]:
        viewer.close()
    time.sleep(0.1)
    assert served.control.attended
    viewers[2].close()
    until(lambda: not served.control.attended)


def test_a_viewer_hears_that_the_run_is_over(served: Served) -> None:
    viewer = Attachment(served.run.path)
    until(lambda: viewer.why_not is None)
    served.gate.acquire()
    viewer.submit(cmd.Pause())
    until(lambda: not served.control._asked.empty())
    served.over = True
    served.gate.release()
    served.end()
    until(lambda: viewer.over)
    assert viewer.answers() == [ev.CommandRefused("Pause", "the run has ended")]
    assert "hung up" in (viewer.why_not or "") and "hung up" in viewer.submit(cmd.Pause())


def test_viewers_are_told_that_the_log_is_not_on_disk(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "ALIVE_SECONDS", 0.05)
    served.end()
    again = Served(served.run)
    again.log_error = "No space left on device"
    viewer = Attachment(again.run.path)
    until(lambda: viewer.log_error == "No space left on device")
    again.log_error = None
    until(lambda: viewer.log_error is None)
    viewer.close()
    again.end()


@pytest.mark.parametrize(
    "sent, says",
    [
        (b"hello\n", "JSON object"),
        (b"\xff\xfe\x00\n", "JSON object"),
        (b"[1, 2]\n", "JSON object"),
        (b'{"id": 1, "command": "Pause"}\n', "a greeting first"),
        (b'{"evenfall": 99}\n', "different versions"),
        (b"x" * (LONGEST + 5000), "at most"),
        (GREETING + b"y" * 100_000 + b"\n", "at most"),
        (GREETING + b'{"command": "Pause"}\n', "as its id"),
    ],
)
def test_a_client_that_speaks_otherwise_is_told_and_dropped(served: Served, sent: bytes, says: str) -> None:
    client = connect(served)
    with contextlib.suppress(BrokenPipeError):
        client.sendall(sent)
    said = hears(client)
    # What the kernel still held of a flood when the run hung up costs the last words.
    assert says in said[-1].get("error", "") or len(sent) > 65536
    assert served.heard == []
    assert isinstance(ask(owner_of(served.run.path), cmd.Pause()), ev.CommandApplied)


def test_nonsense_is_refused_and_the_connection_stays(served: Served) -> None:
    client = connect(served)
    client.sendall(GREETING + b'{"id": 4, "command": "Explode"}\n{"id": 5, "command": "Pause", "why": 1}\n')
    client.sendall(b'{"id": 6, "command": "Resume"}\n')
    lines = client.makefile()
    said = [json.loads(lines.readline()) for _ in range(5)]
    assert [(tree.get("id"), "refused" in tree, "applied" in tree) for tree in said[1:]] == [
        (4, True, False), (5, True, False), (6, False, False), (6, False, True),
    ]  # fmt: skip
    assert served.heard == [cmd.Resume()]


def test_a_client_that_greets_never_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "GREETING_SECONDS", 0.1)
    client = connect(served)
    client.sendall(b'{"evenfall"')  # half a line
    assert len(hears(client)) == 1


def test_half_a_request_is_none(served: Served) -> None:
    client = connect(served)
    client.sendall(GREETING + b'{"id": 1, "command": "Pau')
    client.close()
    assert isinstance(ask(owner_of(served.run.path), cmd.SaveNow()), ev.CommandRefused)
    assert served.heard == [cmd.SaveNow()]


def test_a_thousand_connections_hold_nobody_up(served: Served) -> None:
    owner, clients = owner_of(served.run.path), []
    viewer = Attachment(served.run.path)
    until(lambda: viewer.why_not is None)
    ended = threading.Event()

    def flood() -> None:
        for _ in range(1000):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.connect(owner.socket)
            clients.append(client)
        ended.set()

    threading.Thread(target=flood).start()
    start = time.monotonic()
    viewer.submit(cmd.Pause())
    answers: list = []
    until(lambda: answers.extend(viewer.answers()) or answers)
    assert time.monotonic() - start < 5
    ended.wait()
    assert len(served.socket._connections) <= MOST_CONNECTIONS
    for client in clients:
        client.close()
    until(lambda: len(served.socket._connections) == 1)
    assert isinstance(ask(owner, cmd.Resume()), ev.CommandApplied)


def test_a_client_that_does_not_read_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "PACE_SECONDS", 0)
    client = connect(served)
    client.sendall(GREETING)
    client.settimeout(0.2)
    until(lambda: served.socket._connections)
    line = b'{"id": 1, "command": "' + b"x" * 3000 + b'"}\n'
    with contextlib.suppress(OSError):
        for _ in range(5000):
            client.sendall(line)
    until(lambda: not served.socket._connections)
    assert isinstance(ask(owner_of(served.run.path), cmd.Pause()), ev.CommandApplied)


def test_too_many_unanswered_requests_are_refused(served: Served) -> None:
    with served.gate:
        client = connect(served)
        client.sendall(GREETING + b"".join(b'{"id": %d, "command": "Pause"}\n' % n for n in range(20)))
        lines = client.makefile()
        said = [json.loads(lines.readline()) for _ in range(21)][1:]
        assert [tree["id"] for tree in said if "refused" in tree] == [16, 17, 18, 19]
    until(lambda: len(served.heard) == 16)


def test_a_socket_whose_file_is_gone_is_opened_anew(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "ALIVE_SECONDS", 0.05)
    served.end()
    again = Served(served.run)
    viewer = Attachment(again.run.path)
    until(lambda: viewer.why_not is None)
    os.unlink(owner_of(again.run.path).socket)
    for pointer in Path(owner_of(again.run.path).socket).parent.glob("*.json"):
        pointer.write_text("{damaged")
    assert live_runs() == []
    until(lambda: Path(owner_of(again.run.path).socket).exists() and live_runs())
    assert isinstance(ask(owner_of(again.run.path), cmd.Pause()), ev.CommandApplied)
    assert viewer.submit(cmd.Resume()) == ""  # who was connected stays so
    until(lambda: cmd.Resume() in again.heard)
    again.end()


def test_a_lock_that_was_deleted_is_taken_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "ALIVE_SECONDS", 0.05)
    served.end()
    again = Served(served.run)
    (again.run.path / "run.lock").unlink()
    until(again.run.is_live)
    with pytest.raises(RunError, match="is being trained by"), again.run.lock():
        pass
    assert isinstance(ask(owner_of(again.run.path), cmd.Pause()), ev.CommandApplied)
    again.end()
    assert not again.run.is_live()


def test_a_run_reached_by_a_link_keeps_its_name(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "ALIVE_SECONDS", 0.05)
    served.end()
    link = served.run.path.with_name("link")
    link.symlink_to(served.run.path)
    again = Served(RunDirectory(link))
    for pointer in Path(owner_of(link).socket).parent.glob("*.json"):
        pointer.unlink()
    until(live_runs)
    assert [run.name for run in live_runs()] == ["link"]
    again.end()


def test_a_folder_that_was_moved_is_missed_and_found(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "ALIVE_SECONDS", 0.05)
    served.end()
    again = Served(served.run)
    here, there = again.run.path, again.run.path.with_name("elsewhere")
    here.rename(there)
    until(lambda: any("was moved or deleted" in getattr(event, "message", "") for event in again.log.since(0)))
    until(lambda: [run.path for run in live_runs()] == [there])
    assert isinstance(ask(owner_of(there), cmd.Pause()), ev.CommandApplied)
    there.rename(here)
    until(lambda: [run.path for run in live_runs()] == [here])
    again.end()
    assert not here.with_name("elsewhere").exists()


def test_a_path_that_is_too_long_for_a_socket_is_gone_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / ("long" * 30)))
    monkeypatch.setenv("TMPDIR", "/tmp")
    run = create_run(parse_config({"output_dir": str(tmp_path), "name": "run", "data": {"path": "a.jsonl"}}))
    served = Served(run)
    path = owner_of(run.path).socket
    assert len(path) < 100 and isinstance(ask(owner_of(run.path), cmd.Pause()), ev.CommandApplied)
    served.end()
    assert not os.path.exists(path)


def test_a_run_that_cannot_open_a_socket_goes_on_and_says_so(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    served.end()
    monkeypatch.setattr(socket_module, "LONGEST_PATH", 3)
    run = served.run
    with run.lock() as hold:
        log = EventLog(run.events_file)
        control = Control(log, attended=False)
        bare = RunSocket(run.path, control=control, hold=hold, log_error=lambda: None)
        bare.start()
        until(lambda: any(isinstance(event, ev.Alert) for event in log.since(0)))
        assert [run.path for run in live_runs()] == [served.run.path]
        with pytest.raises(UnreachableError, match="has opened no socket"):
            ask(owner_of(run.path), cmd.Pause())
        bare.close()
        log.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_not_heard(served: Served) -> None:
    path = owner_of(served.run.path).socket
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "try:\n"
        f"    client.connect({path!r})\n"
        "    client.sendall(b'{\"evenfall\": 1}\\n')\n"
        "    print(client.recv(100))\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
    )

    def attempt() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    assert attempt() == "PermissionError"
    for opened in (path, *list(map(str, Path(path).parents))[:3]):
        os.chmod(opened, 0o777)  # as if the folders were anybody's
    assert attempt() in ("b''", "ConnectionResetError", "BrokenPipeError")
