"""Real terminals that close, stall and are left: the screens go, the run does not."""

import contextlib
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory

pty = pytest.importorskip("pty")

COMMAND = [sys.executable, "-m", "evenfall.tui.commands.main", "train", "run.yaml"]
STEPS = 250
ENDLESS = 1_000_000
PATIENCE = 300
"""Seconds after which what should happen never will, on the busiest machine."""
RESTORED = (b"\x1b[?1049l", b"\x1b[?25h", b"\x1b[?1000l")
"""Leave the second screen, show the cursor, switch the mouse off."""


class Terminal:
    """A process in a terminal of 120x36, whose output is read until `stop_reading`."""

    def __init__(self, folder: Path, *options: str) -> None:
        try:
            self.master, slave = pty.openpty()
        except OSError as error:
            pytest.skip(f"no pseudo-terminal to be had: {error}")
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        environment = os.environ | {
            "TERM": "xterm-256color", "XDG_STATE_HOME": str(folder / "state"),
            "TTY": os.ttyname(slave),
        }  # fmt: skip
        # The shell opens the terminal as the leader of a new session: it becomes its terminal.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$TTY" >"$TTY" 2>&1', "sh", *COMMAND, *options],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self._slave: int | None = slave  # held until the shell has it open
        self.output = bytearray()
        self._reading = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.run = RunDirectory(folder / "runs" / "run")
        self.log = folder / "state" / "evenfall" / "output.log"

    def let_go(self) -> None:
        """Leave the terminal to the process alone."""
        if self._slave is not None:
            os.close(self._slave)
            self._slave = None

    def _read(self) -> None:
        while self._reading:
            with contextlib.suppress(OSError):
                os.set_blocking(self.master, False)
                if data := os.read(self.master, 65536):
                    self.output += data
                    continue
            time.sleep(0.005)

    def stop_reading(self) -> None:
        self._reading = False
        self._reader.join()

    def hang_up(self) -> None:
        self.stop_reading()
        os.close(self.master)

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def events(self) -> list[Any]:
        return _events(self.run)

    def last_step(self) -> int:
        return max((event.step for event in self.events() if isinstance(event, ev.Step)), default=0)

    def pid(self) -> int:
        """The process that trains."""
        return next(event.pid for event in self.events() if isinstance(event, ev.RunStarted))

    def report(self) -> str:
        """What is to be known when a test fails."""
        last = [repr(event)[:160] for event in self.events()[-3:]]
        log = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
        return f"{last}\n{bytes(self.output[-600:])!r}\n{log}"


def _events(run: RunDirectory) -> list[Any]:
    from evenfall.engine.run.log import EventTail

    return EventTail(run.events_file).read_new()


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and waits to be collected does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait(terminal: Terminal, what: str, until: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s\n{terminal.report()}"
        time.sleep(0.02)


Open = Callable[..., Terminal]


@pytest.fixture
def open_terminal(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> Iterator[Open]:
    """`open_terminal()`: `evenfall train` with screens, its run on the tiny model at step 3, or held and no more."""
    opened: list[Terminal] = []

    def start(*options: str, held: bool = False) -> Terminal:
        config = parse_config(
            {
                "name": "run",
                "output_dir": "runs",
                "model": {"name_or_path": str(tiny_model), "quantization": "none"},
                "adapter": {"r": 4},
                "data": {"path": str(tiny_data), "max_length": 64},
                "train": {
                    "max_steps": STEPS, "gradient_accumulation_steps": 1, "save_steps": 10_000,
                    "device": "cpu", "kernels": "off",
                },
            }
        )  # fmt: skip
        (tmp_path / "run.yaml").write_text(config.to_yaml())
        terminal = Terminal(tmp_path, *options)
        opened.append(terminal)
        wait(terminal, "the third step", lambda: terminal.run.is_live() if held else terminal.last_step() >= 3)
        terminal.let_go()
        return terminal

    yield start
    for terminal in opened:
        for pid in {terminal.process.pid, *(e.pid for e in terminal.events() if hasattr(e, "pid"))}:
            with contextlib.suppress(ProcessLookupError):
                if alive(pid):
                    os.kill(pid, signal.SIGKILL)
        terminal.process.wait()
        terminal.stop_reading()
        terminal.let_go()
        with contextlib.suppress(OSError):
            os.close(terminal.master)


def finishes(terminal: Terminal, reason: str = "complete") -> ev.Finished:
    """Wait for the run's end and its process's; its adapter is there."""
    pid = terminal.pid()
    wait(terminal, "the run's end", lambda: isinstance(terminal.events()[-1], ev.StateChanged)
         and terminal.events()[-1].state in ("finished", "failed"))  # fmt: skip
    (finished,) = [event for event in terminal.events() if isinstance(event, ev.Finished)]
    assert finished.reason == reason, terminal.report()
    assert (terminal.run.adapter / "adapter_model.safetensors").is_file()
    wait(terminal, "the process's end", lambda: not alive(pid))
    assert not terminal.run.is_live()
    return finished


def test_a_terminal_that_closes_ends_the_screens_and_not_the_run(open_terminal: Open) -> None:
    terminal = open_terminal()
    wait(terminal, "the Train screen", lambda: b"\x1b[?1049h" in terminal.output)
    at = terminal.last_step()
    assert at < STEPS, "the run was over before its terminal closed"
    terminal.hang_up()
    terminal.process.wait(PATIENCE)
    assert finishes(terminal).step == STEPS
    assert "Traceback" not in terminal.report()


def test_detaching_gives_the_shell_back_at_once_with_a_clean_screen(open_terminal: Open) -> None:
    terminal = open_terminal(f"train.max_steps={ENDLESS}")
    wait(terminal, "the screen that listens", lambda: b"ETA" in terminal.output)
    terminal.press(b"D")
    assert terminal.process.wait(PATIENCE) == 0, terminal.report()
    at = terminal.last_step()
    assert alive(terminal.pid()) and at < ENDLESS, "the shell came back with the run's end"
    wait(terminal, "the restored screen", lambda: RESTORED[0] in terminal.output)
    end = bytes(terminal.output)
    for sequence in RESTORED:
        assert end.rfind(sequence) > end.rfind(b"\x1b[?1049h"), sequence
    wait(terminal, "the word where it goes on", lambda: b"`evenfall` opens it again" in terminal.output)
    written = len(terminal.output)
    assert terminal.pid() != terminal.process.pid
    terminal.hang_up()  # the shell's end is no end for the run either
    wait(terminal, "steps without a terminal", lambda: terminal.last_step() >= at + 20)
    os.kill(terminal.pid(), signal.SIGTERM)
    assert finishes(terminal, "stopped").step < ENDLESS
    assert len(terminal.output) == written, "it wrote to a terminal that it had left"
    assert "Traceback" not in terminal.report()


def test_sigterm_saves_the_run_and_ends_it(open_terminal: Open) -> None:
    terminal = open_terminal(f"train.max_steps={ENDLESS}")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(PATIENCE) == 128 + signal.SIGTERM, terminal.report()
    finished = finishes(terminal, "stopped")
    assert 3 <= finished.step < ENDLESS
    assert terminal.run.checkpoints() == [finished.step]
    wait(terminal, "the restored screen", lambda: RESTORED[0] in terminal.output)


@pytest.mark.parametrize("after", [0.0, 0.08, 0.16])
def test_a_line_that_drops_while_a_run_is_taken_up_ends_no_run(open_terminal: Open, after: float) -> None:
    terminal = open_terminal("train.max_steps=5", held=True)
    time.sleep(after)  # before the screens are made, and meanwhile
    os.killpg(terminal.process.pid, signal.SIGHUP)
    terminal.hang_up()
    wait(terminal, "the run's start", lambda: any(isinstance(event, ev.RunStarted) for event in terminal.events()))
    assert finishes(terminal).step == 5
    assert "Traceback" not in terminal.report()


def test_sigterm_while_a_run_is_taken_up_stops_it(open_terminal: Open) -> None:
    terminal = open_terminal(f"train.max_steps={ENDLESS}", held=True)
    os.killpg(terminal.process.pid, signal.SIGTERM)
    wait(terminal, "the run's end", lambda: any(isinstance(event, ev.Finished) for event in terminal.events()))
    (finished,) = [event for event in terminal.events() if isinstance(event, ev.Finished)]
    assert finished.reason == "stopped" and finished.step < 5
    wait(terminal, "the process's end", lambda: not terminal.run.is_live())


def test_a_terminal_that_stalls_and_then_drops_does_not_hold_the_run_up(
    open_terminal: Open,
) -> None:
    terminal = open_terminal()
    terminal.stop_reading()
    stalled = terminal.last_step()
    assert stalled + 60 < STEPS
    # The screen draws until the terminal's buffer is full; the run must go on meanwhile.
    wait(terminal, "steps on a stalled terminal", lambda: terminal.last_step() >= stalled + 60)
    os.close(terminal.master)
    assert finishes(terminal).step == STEPS
    terminal.process.wait(PATIENCE)


def test_lines_on_a_terminal_end_with_code_0(open_terminal: Open) -> None:
    terminal = open_terminal("--plain", "train.max_steps=20")
    assert terminal.process.wait(PATIENCE) == 0, terminal.report()
    assert b"Fatal" not in terminal.output and b"finished at step 20/20" in terminal.output


def test_what_follows_the_screens_happens_once(tmp_path: Path) -> None:
    script = (
        "import signal\n"
        "from evenfall.tui.terminal import run_detachable\n"
        # Which way Ctrl-C goes is inherited: a shell's background jobs, and so a pytest among them,
        # ignore it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "code = run_detachable(lambda release: 7)\n"
        "print('after', code, signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "after 7 True\n"


def test_a_thread_that_never_ends_does_not_keep_the_process(tmp_path: Path) -> None:
    script = (
        "import threading\n"
        "from evenfall.tui import terminal\n"
        "terminal.PATIENCE_SECONDS = 0.2\n"
        "def body(release):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    return 7\n"
        "print(terminal.run_detachable(body))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True, timeout=60
    )
    assert done.stdout == "7\n"


def test_a_state_folder_that_takes_no_file_is_no_reason_to_show_no_screens(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    script = (
        "import os, pathlib, sys\n"
        "from evenfall.tui.terminal import native_output_to\n"
        "with native_output_to(pathlib.Path(sys.argv[1]) / 'evenfall' / 'output.log'):\n"
        "    os.write(1, b'from native code')\n"
        "    print('drawn', file=sys.__stdout__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "state")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "drawn\n"
