"""Run directories: where a run keeps its story.

    runs/NAME/run.yaml            the resolved configuration
              events.jsonl        every event, one a line (`log.py`)
              checkpoints/step-N/ adapter, optimiser and loop state
              adapter/            the finished adapter, in PEFT's format
              exports/            what `evenfall export` wrote
              log.txt             library output and tracebacks
              run.lock            held (flock) by the process that trains; holds its pid

Liveness is the lock itself, not a pid file, so that a killed process leaves nothing stale.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..config.run_config import RunConfig, load_config
from ..errors import UserError
from .files import clear_scratch, write_atomic
from .log import EventTail
from .progress import RunProgress


class RunError(UserError):
    """A run directory that cannot be used as asked; the message says which and what to do."""


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
                    f"{self.path}: is being trained by process {pid}; follow it with `evenfall watch {self.name}`"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            for folder in (self.path, self.path / "checkpoints"):
                clear_scratch(folder)
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
                raise RunError(f"{self.exports}: another export of this run is being written; wait for it") from None
            clear_scratch(self.exports)
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
