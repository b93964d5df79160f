"""Summaries of many run directories, cheap enough to look at every run there is.

A long run's events are megabytes; its start (what it is) and its end (how far it is) are enough for a
row of a table, so only those are read. A run that has not changed is not read again.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config.run_config import ConfigError
from . import event_lines
from . import events as ev
from .directory import RunDirectory
from .find import list_runs
from .progress import RunProgress

END_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One row of the Runs screen."""

    run: RunDirectory
    state: str
    """`live`, `finished`, `stopped`, `failed`, `interrupted` or `new`."""
    model: str
    step: int
    total_steps: int | None
    loss: float | None
    """Smoothed over the last steps."""
    evaluation: float | None
    """The last one."""
    seconds: float | None
    """From the first event to the last."""
    when: float
    """Of the last event, seconds since the epoch."""
    megabytes: float
    checkpoints: tuple[int, ...]

    @property
    def resumable(self) -> bool:
        """Not live, not at its end, and there is something to go on from."""
        return self.state in ("failed", "interrupted", "stopped") and bool(self.checkpoints)


def read_ends(path: Path, at_most: int = END_BYTES) -> list[ev.Event]:
    """Events from the start and the end of an `events.jsonl`, in order; the middle of a long one is
    left out."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= 2 * at_most:
                lines = file.read().splitlines()
            else:
                lines = file.read(at_most).splitlines()[:-1]
                file.seek(size - at_most)
                lines += file.read().splitlines()[1:]
    except OSError:
        return []
    events = []
    for line in lines:
        try:
            event = event_lines.decode_event(line)
        except ValueError:  # a torn line
            continue
        if event is not None:
            events.append(event)
    return events


def summarise(run: RunDirectory) -> RunSummary:
    """Read what a row of the table shows."""
    events = read_ends(run.events_file)
    progress = RunProgress()
    progress.apply_all(events)
    try:
        model = run.config().model.name_or_path
    except ConfigError:
        model = progress.model.name if progress.model else "?"
    started = next((event.t for event in events if isinstance(event, ev.RunStarted)), None)
    return RunSummary(
        run=run,
        state=_state(progress, run.is_live()),
        model=model.rstrip("/").rsplit("/", 1)[-1],
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.smoothed_loss,
        evaluation=progress.evaluations[-1].loss if progress.evaluations else None,
        seconds=None if started is None else max(0.0, progress.last_time - started),
        when=progress.last_time or _modified(run.config_file),
        megabytes=_megabytes(run.path),
        checkpoints=tuple(run.checkpoints()),
    )


def _state(progress: RunProgress, live: bool) -> str:
    if live:
        return "live"
    if progress.finished and progress.state == "finished":
        return "finished" if progress.finished.reason == "complete" else "stopped"
    if progress.state == "failed":
        return "failed"
    return "new" if progress.started is None else "interrupted"


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _megabytes(folder: Path) -> float:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size
            except OSError:  # removed while we looked
                continue
    return total / 1e6


class RunScanner:
    """Lists runs and summarises the newest of them, keeping what has not changed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, tuple[float, RunSummary]] = {}

    def scan(self, at_most: int, report: Callable[[str], None]) -> tuple[list[RunSummary], int]:
        """Summaries of the newest `at_most` runs, the last active first, and how many runs there
        are in all."""
        runs = list_runs(self._root)
        rows = []
        for number, run in enumerate(runs[:at_most], 1):
            report(f"reading run {number} of {min(len(runs), at_most)}")
            rows.append(self._summary(run))
        return rows, len(runs)

    def _summary(self, run: RunDirectory) -> RunSummary:
        stamp = max(_modified(run.events_file), _modified(run.adapter), _modified(run.exports))
        known = self._known.get(run.path)
        if known and known[0] == stamp and known[1].state != "live" and not run.is_live():
            return known[1]
        summary = summarise(run)
        self._known[run.path] = (stamp, summary)
        return summary
