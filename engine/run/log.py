"""The event log: numbered, stamped, appended; followed as it grows.

It grows by whole lines, and a line torn by a crash is cut off when the run is taken up again.
"""

import bisect
import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from .event_lines import decode_event, encode_event
from .events import Event


class EventTail:
    """Reads an `events.jsonl` as it grows, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[Event]:
        """Events since the last call. A line that is no event (a torn write) is passed over.

        A file that is not there, or that may not be read, has none.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._offset += end
        events = []
        for line in data[:end].splitlines():
            with contextlib.suppress(ValueError):
                event = decode_event(line)
                if event is not None:
                    events.append(event)
        return events


class EventLog:
    """Numbers, stamps and appends events; keeps them for viewers in this process. Thread-safe.

    A disk that refuses a line (full, gone) does not end the run: viewers still get the event, the
    line waits, and `write_error` says why until the disk takes lines again.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._events = EventTail(path).read_new()
        self._cut_torn_line(path)
        self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115 - lives with the run
        self._waiting = b""
        self.write_error: str | None = None

    @staticmethod
    def _cut_torn_line(path: Path) -> None:
        with contextlib.suppress(FileNotFoundError), open(path, "rb+") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)

    def append(self, event: Event) -> Event:
        """Give the event its number and time, log it, and return it."""
        with self._lock:
            last = self._events[-1].n if self._events else 0
            event = replace(event, n=last + 1, t=time.time())
            self._events.append(event)
            self._waiting += encode_event(event)
            try:
                while self._waiting:
                    written = self._file.write(self._waiting)
                    self._waiting = self._waiting[written:]
                self.write_error = None
            except OSError as error:
                self.write_error = f"{error.strerror or error}"
            return event

    def since(self, n: int) -> list[Event]:
        """Events with a number above `n`, oldest first."""
        with self._lock:
            # Not by index: a line that was damaged on disk leaves a gap in the numbers.
            return self._events[bisect.bisect_right(self._events, n, key=lambda e: e.n) :]

    def close(self) -> None:
        with self._lock:
            self._file.close()
