"""Run directories: where a run keeps its story, and how others find and follow it.

    runs/NAME/run.yaml            the resolved configuration
              events.jsonl        every event, one a line
              checkpoints/step-N/ adapter, optimiser and loop state
              adapter/            the finished adapter, in PEFT's format
              exports/            what `evenfall export` wrote
              log.txt             library output and tracebacks
              run.lock            held (flock) by the process that trains; holds its pid

Every file and folder that others read appears whole or not at all: written beside its place, synced,
then renamed. The event log is the exception: it grows by whole lines, and a line torn by a crash is
cut off when the run is taken up again. Liveness is the lock itself, not a pid file, so that a killed
process leaves nothing stale.
"""

import bisect
import contextlib
import fcntl
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ..config.run_config import RunConfig, load_config
from .events import Event, decode_event, encode_event
from .progress import RunProgress


class RunError(RuntimeError):
    """A run directory that cannot be used as asked; the message says which and what to do."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, never part of it."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A scratch folder that becomes `path`, whole and synced, when the block ends well.

    An existing folder at `path` is replaced; when the block raises, it stays and the scratch goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    scratch.mkdir()
    try:
        yield scratch
        for file in scratch.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(scratch)
        if path.exists():
            stale = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
            os.replace(path, stale)
            os.replace(scratch, path)
            shutil.rmtree(stale)
        else:
            os.replace(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    sync_folder(path.parent)


class EventTail:
    """Reads an `events.jsonl` as it grows, whole lines only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[Event]:
        """Events since the last call. A line that is no event (a torn write) is passed over."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
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


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run, and the few things done with them."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

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

    def progress(self) -> RunProgress:
        progress = RunProgress()
        progress.apply_all(EventTail(self.events_file).read_new())
        return progress

    def is_live(self) -> bool:
        """Whether a process trains this run now."""
        try:
            with open(self.path / "run.lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process, and clear away what a killed one left half-written.

        Raises:
            RunError: another process trains it.
        """
        with open(self.path / "run.lock", "ab+") as file:
            try:
                _lock_within(file, 0.2)
            except BlockingIOError:
                file.seek(0)
                pid = file.read(32).decode(errors="replace").strip()
                raise RunError(
                    f"{self.path}: is being trained by process {pid}; follow it with "
                    f"`evenfall watch {self.name}`"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            for folder in (self.path, self.path / "checkpoints"):
                _clear_scratch(folder)
            yield

    @contextlib.contextmanager
    def export_lock(self) -> Iterator[None]:
        """Hold `exports/` for this export, and clear away what a killed one left half-written.

        Raises:
            RunError: another export of this run is being written.
        """
        self.exports.mkdir(exist_ok=True)
        folder = os.open(self.exports, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.exports}: another export of this run is being written; wait for it"
                ) from None
            _clear_scratch(self.exports)
            yield
        finally:
            os.close(folder)


def _lock_within(file: IO[bytes], seconds: float) -> None:
    """Take the lock. `is_live` of another process may have its hand on it for a moment."""
    end = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
        time.sleep(0.01)


def _clear_scratch(folder: Path) -> None:
    """Remove what write_atomic and atomic_folder left in a folder when their process was killed."""
    for scratch in folder.glob(".*"):
        made = _SCRATCH.fullmatch(scratch.name)
        if not made:
            continue
        place = folder / made["name"]
        if made["old"] and not place.exists():  # killed between its two renames
            os.replace(scratch, place)
        elif scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            scratch.unlink(missing_ok=True)


_SCRATCH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(?P<old>\.old)?")


def create_run(config: RunConfig) -> RunDirectory:
    """Make a new run directory under `config.output_dir` and write its `run.yaml`.

    Raises:
        RunError: `config.name` is taken, or the folder cannot be made.
    """
    root = Path(config.output_dir)
    if config.name:
        candidates = [config.name]
    else:
        model = Path(config.model.name_or_path).name
        data = Path(config.data.sources[0].path).name.split(".")[0]
        base = f"{time.strftime('%m%d-%H%M')}-{model}" + (f"-{data}" if data != model else "")
        base = re.sub(r"[^\w.\-]+", "-", base)[:56]
        candidates = [base, *(f"{base}-{n}" for n in range(2, 1000))]
    for name in candidates:
        try:
            (root / name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"output_dir: {root / name} cannot be made: {error.strerror}") from error
        run = RunDirectory(root / name)
        run.write_config(config.model_copy(update={"name": name}))
        return run
    raise RunError(
        f"{root / candidates[0]}: this run exists; give another name=..., or take it up again "
        f"with `evenfall train --resume {candidates[0]}`"
    )


def find_run(name: str | Path, root: str | Path = "runs") -> RunDirectory:
    """The run of that path, or of that name (or unique start of one) under `root`.

    Raises:
        RunError: there is none, or several names start so.
    """
    for path in (Path(name), Path(root) / name):
        if (path / "run.yaml").is_file():
            return RunDirectory(path)
    matches = [run for run in list_runs(root) if run.name.startswith(str(name))]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunError(f"{name}: several runs start so: {', '.join(run.name for run in matches)}")
    there = ", ".join(run.name for run in list_runs(root)[:8]) or "none yet"
    raise RunError(f"{name}: no such run in {root}/ (there: {there})")


def list_runs(root: str | Path = "runs") -> list[RunDirectory]:
    """Runs under a folder, the one that was active last first."""
    runs = [RunDirectory(file.parent) for file in Path(root).glob("*/run.yaml")]

    def last_activity(run: RunDirectory) -> float:
        for file in (run.events_file, run.config_file):
            with contextlib.suppress(OSError):
                return file.stat().st_mtime
        return 0.0

    return sorted(runs, key=last_activity, reverse=True)
