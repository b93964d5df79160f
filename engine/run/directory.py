"""Run directories: where a run keeps its story.

    runs/NAME/run.yaml            the resolved configuration
              events.jsonl        every event, one a line (`log.py`)
              checkpoints/step-N/ adapter, optimiser and loop state
              adapter/            the finished adapter, in PEFT's format
              exports/            what `evenfall export` wrote
              log.txt             library output and tracebacks
              note.txt            a line of the user's own
              run.lock            held (flock) by the process that trains

Who holds the lock, and whether it still does, is `owner.py`'s.
"""

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ..config.run_config import RunConfig, load_config
from ..errors import UserError
from .files import clear_scratch, write_atomic
from .log import EventTail
from .owner import (
    LOCK,
    STALE_SECONDS,
    Owner,
    is_owned,
    lives_elsewhere,
    read_owner,
    this_place,
    touch,
    write_owner,
)
from .progress import RunProgress

NOTE_LIMIT = 200
"""Characters of a run's note."""


class RunError(UserError):
    """A run directory that cannot be used as asked; the message says which and what to do."""


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and the few things done with them."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def is_same(self, other: "RunDirectory") -> bool:
        """Whether both are one run, told from here or from the root."""
        return self.path.absolute() == other.path.absolute()

    @property
    def config_file(self) -> Path:
        return self.path / "run.yaml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def note_file(self) -> Path:
        return self.path / "note.txt"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step}"

    def checkpoints(self) -> list[int]:
        """Steps that have a whole checkpoint, ascending."""
        found = (self.path / "checkpoints").glob("step-*/state.json")
        return sorted(int(file.parent.name[5:]) for file in found if file.parent.name[5:].isdigit())

    def config(self) -> RunConfig:
        """The resolved configuration.

        Raises:
            ConfigError: run.yaml is missing or was edited into something unusable.
        """
        return load_config(self.config_file)

    def write_config(self, config: RunConfig) -> None:
        write_atomic(self.config_file, config.to_yaml().encode())

    def note(self) -> str:
        """The line that the user keeps with the run; empty where there is none."""
        try:
            with open(self.note_file, "rb") as file:
                text = file.read(8 * NOTE_LIMIT).decode(errors="replace")
        except OSError:
            return ""
        return text.strip().split("\n")[0][:NOTE_LIMIT]

    def progress(self) -> RunProgress:
        progress = RunProgress()
        progress.apply_all(EventTail(self.events_file).read_new())
        return progress

    def is_live(self) -> bool:
        """Whether a process trains this run now."""
        return is_owned(self.path)

    @contextlib.contextmanager
    def lock(self, *, tidy: bool = True) -> Iterator["Hold"]:
        """Hold the run for this process.

        Args:
            tidy: clear away what a killed process left half-written.

        Raises:
            RunError: another process trains it.
        """
        with open(os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644), "rb+") as file:
            try:
                _lock_within(file, 0.2)
            except BlockingIOError:
                owner = read_owner(self.path)
                told = owner.told if owner else "another process"
                raise RunError(
                    f"{self.path}: is being trained by {told}; open it with `evenfall watch {self.name}`"
                ) from None
            if owner := lives_elsewhere(self.path):
                raise RunError(
                    f"{self.path}: is being trained by {owner.told}, which was heard of within {STALE_SECONDS:.0f} s; "
                    "if that has ended, try again once they are over"
                )
            hold = Hold(file.fileno(), self.path.absolute())
            if tidy:
                for folder in (self.path, self.path / "checkpoints"):
                    clear_scratch(folder)
            try:
                yield hold
            finally:
                hold.close()

    @contextlib.contextmanager
    def export_lock(self, *, tidy: bool = True) -> Iterator[None]:
        """Hold `exports/` for this export.

        Args:
            tidy: clear away what a killed export left half-written.

        Raises:
            RunError: another export of this run is being written.
        """
        self.exports.mkdir(exist_ok=True)
        folder = os.open(self.exports, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(f"{self.exports}: another export of this run is being written; wait for it") from None
            if tidy:
                clear_scratch(self.exports)
            yield
        finally:
            os.close(folder)


class Hold:
    """A run that this process holds: what its lock says of it. Thread-safe.

    Raises:
        OSError: the disk does not take it.
    """

    def __init__(self, lock: int, run: Path) -> None:
        """`lock` is the open and locked file of the run in the folder `run`."""
        self._lock, self._run, self._closed = lock, run, False
        self._made_anew: int | None = None
        self._folder = os.stat(run).st_ino
        self._guard = threading.Lock()
        self._owner = Owner(
            pid=os.getpid(), host=socket.gethostname(), place=this_place(), socket="", device="", started=time.time()
        )
        write_owner(lock, self._owner)

    def tell(self, **changes: str) -> None:
        """Say which `socket` takes commands, or which `device` computes."""
        with self._guard:
            self._owner = replace(self._owner, **changes)
            self._write(self._owner)

    def touch(self) -> str:
        """Show those on other machines that this process lives, and see that its lock is where others look for it.

        Returns:
            What happened to the run's folder, and what to do; empty where all is well.
        """
        with self._guard:
            if self._closed:
                return ""
            with contextlib.suppress(OSError):
                touch(self._lock)
            if self._inode(self._run) != self._folder:
                return (
                    f"the run's folder {self._run} was moved or deleted while process {os.getpid()} trains: nothing "
                    f"can be saved until it is back (kill {os.getpid()} ends it)"
                )
            if self._inode(self._run / LOCK) != os.fstat(self._lock).st_ino:
                return self._lock_anew()
            return ""

    def folder(self) -> Path:
        """Where the run is now, its folder having been moved perhaps; where it was, if that cannot be told."""
        with self._guard, contextlib.suppress(OSError):
            if self._inode(self._run) != self._folder:  # else its own path stands: a link to it may bear its name
                now = Path(os.readlink(f"/proc/self/fd/{self._lock}")).parent
                if self._inode(now) == self._folder:
                    return now
        return self._run

    def close(self) -> None:
        """Say that nobody holds it any more."""
        with self._guard:
            self._write(None)
            self._closed = True
            if self._made_anew is not None:
                os.close(self._made_anew)

    def _lock_anew(self) -> str:
        """Take the lock again, whose file was deleted or replaced."""
        try:
            made = os.open(self._run / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            return ""  # a full disk: another time
        try:
            _lock_within(made, 0.2)
        except BlockingIOError:
            os.close(made)
            owner = read_owner(self._run)
            told = owner.told if owner else "another process"
            return f"{told} trains this run as well, since its {LOCK} was deleted: stop one of the two"
        if self._made_anew is not None:
            os.close(self._made_anew)
        self._lock = self._made_anew = made
        self._write(self._owner)
        return ""

    @staticmethod
    def _inode(path: Path) -> int | None:
        try:
            return os.stat(path).st_ino
        except OSError:
            return None

    def _write(self, owner: Owner | None) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock itself holds
            if not self._closed:
                write_owner(self._lock, owner)


def _lock_within(file: IO[bytes] | int, seconds: float) -> None:
    """Take the lock. `is_live` of another process may have its hand on it for a moment."""
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def adapter_folder(run: RunDirectory, checkpoint: int | None = None) -> Any:
    """Where a run's adapter is: the checkpoint asked for, the final one, or the newest checkpoint.

    Raises:
        RunError: there is none.
    """
    steps = run.checkpoints()
    if checkpoint is not None:
        if checkpoint not in steps:
            there = ", ".join(map(str, steps)) or "none"
            raise RunError(f"{run.name}: no checkpoint of step {checkpoint} (there: {there})")
        return run.checkpoint(checkpoint)
    if run.adapter.is_dir():
        return run.adapter
    if steps:
        return run.checkpoint(steps[-1])
    raise RunError(f"{run.name}: has no adapter yet; it is written at the first checkpoint")
