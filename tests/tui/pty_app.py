"""The real app in a pseudo-terminal, and what that terminal shows."""

import codecs
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from rich.cells import get_character_cell_size

SEQUENCE = re.compile(
    r"\x1b\[(?P<private>[?<>=]?)(?P<numbers>[\d;:]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b[\]P][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -Z^-~]"
)


PROGRAM = ("-m", "evenfall.tui.commands.main")
"""What Python runs: `evenfall`."""


class ShownText:
    """The text that a terminal shows: of what it is sent, no more is understood than Textual writes."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._cells = [[" "] * width for _ in range(height)]
        self._row = self._column = 0
        self._held = ""

    def feed(self, text: str) -> None:
        text, self._held = self._held + text, ""
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                self._put(text[at])
                at += 1
                continue
            match = SEQUENCE.match(text, at)
            if match is None:
                self._held = text[at:]
                return
            self._obey(match)
            at = match.end()

    def _put(self, char: str) -> None:
        if char == "\n":
            self._row = min(self._row + 1, self.height - 1)
            self._column = 0
        elif char == "\r":
            self._column = 0
        elif char >= " " and (size := get_character_cell_size(char)):
            if self._column < self.width:
                self._cells[self._row][self._column] = char
            if size == 2 and self._column + 1 < self.width:
                self._cells[self._row][self._column + 1] = ""
            self._column += size

    def _obey(self, match: re.Match[str]) -> None:
        final, numbers = match["final"], match["numbers"] or ""
        if match["private"] or final not in ("H", "J", "K"):
            return
        if final == "H":
            row, _, column = numbers.partition(";")
            self._row = min(int(row or 1), self.height) - 1
            self._column = int(column or 1) - 1
        elif final == "J":
            self._cells = [[" "] * self.width for _ in range(self.height)]
        else:
            self._cells[self._row][self._column :] = [" "] * (self.width - self._column)

    def lines(self) -> list[str]:
        return ["".join(row).rstrip() for row in self._cells]


class PtyApp:
    """`evenfall` with its screens, in a folder of its own."""

    def __init__(self, folder: Path, size: tuple[int, int] = (100, 30), program: Sequence[str] = PROGRAM) -> None:
        self.folder = folder
        self.master, slave = pty.openpty()
        self._size(size)
        environment = os.environ | {
            "TERM": "xterm-256color", "XDG_STATE_HOME": str(folder / "state"), "TTY": os.ttyname(slave),
            "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TEXTUAL_DISABLE_KITTY_KEY": "1",
        }  # fmt: skip
        command = [sys.executable, *program]
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$TTY" >"$TTY" 2>&1', "sh", *command],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.last_output = time.monotonic()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(slave,), daemon=True)
        self._reader.start()

    def _size(self, size: tuple[int, int]) -> None:
        self._shown = ShownText(*size)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size; the app paints it anew."""
        with self._lock:
            self._size((width, height))

    def _read(self, slave: int) -> None:
        os.set_blocking(self.master, False)
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        while not self._end.is_set():
            try:
                data = os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.003)
                continue
            except OSError:
                break
            with self._lock:
                self._shown.feed(decode(data))
                self.last_output = time.monotonic()
        os.close(slave)

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self.master, data)

    def text(self) -> str:
        with self._lock:
            return "\n".join(self._shown.lines())

    @property
    def over(self) -> bool:
        """Whether the app has ended."""
        return self.process.poll() is not None

    def shows(self, text: str, seconds: float = 60) -> bool:
        """Wait until the terminal shows a text; False after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over:
            if text in self.text():
                return True
            time.sleep(0.005)
        return text in self.text()

    def settle(self, least: float = 0.1, quiet: float = 0.06, most: float = 3.0) -> None:
        """Wait `least` seconds and until nothing has been painted for `quiet` seconds."""
        start = time.monotonic()
        while time.monotonic() - start < most and not self.over:
            now = time.monotonic()
            if now - start >= least and now - self.last_output >= quiet:
                return
            time.sleep(0.005)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._end.set()
        self._reader.join()
        os.close(self.master)
