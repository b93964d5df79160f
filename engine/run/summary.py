"""Summaries of many run directories, cheap enough to look at every run there is.

A long run's events are megabytes, nearly all of them steps, and building an event takes ten times as
long as finding the end of its line. So of the steps only the last hundred are made into events, which
is more than any figure of `RunProgress` looks at; all else is read. A run that has not changed is not
read again.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..config.run_config import ConfigError, RunConfig
from . import event_lines
from . import events as ev
from .directory import RunDirectory
from .find import list_runs
from .owner import Owner, read_owner
from .progress import RunProgress, ShownState
from .registry import identity, live_runs

RESUMABLE: frozenset[ShownState] = frozenset({"stopped", "failed", "out-of-memory", "interrupted"})
"""States that a run with a checkpoint can be taken up again from."""

_STEP = b'{"type":"Step"'


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run in a line: `evenfall runs` and the Runs screen. Figures are those of RunProgress."""

    run: RunDirectory
    state: ShownState
    live: bool
    """A process trains it now."""
    owner: Owner | None
    """Which one, where it has written itself down."""
    model: str
    """The last part of its base model's name."""
    step: int
    total_steps: int | None
    loss: float | None
    """`RunProgress.loss`: the mean of the last five steps."""
    evaluation: float | None
    """Loss of the last evaluation."""
    memory_gb: float | None
    """Held at the last step, as `Step.memory_gb`."""
    memory_total_gb: float | None
    trained_seconds: float | None
    """`RunProgress.trained_seconds`."""
    when: float
    """Of the last event, seconds since the epoch."""
    megabytes: float
    checkpoints: tuple[int, ...]
    note: str = ""
    """The user's own line."""

    @property
    def failed_start(self) -> bool:
        """Not live, and it came to no step: there is nothing in it but why."""
        return not (self.live or self.step or self.checkpoints or self.run.adapter.exists())

    @property
    def elsewhere(self) -> str:
        """The machine or container that trains it, where that is another one than this."""
        return self.owner.host if self.owner and not self.owner.is_here else ""

    @property
    def resumable(self) -> bool:
        """Not live, not at its end, and there is something to go on from."""
        return not self.live and self.state in RESUMABLE and bool(self.checkpoints)


def read_outline(path: Path, at_most: int = 100) -> list[ev.Event]:
    """The events of an `events.jsonl`, in order, with none but the last `at_most` of the steps that
    count: those that a resumed run did once more are passed over. Logs of versions whose steps do not
    tell `seconds_so_far` come with all of them."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    events: list[ev.Event] = []  # the last one first
    wanted, below = at_most, math.inf
    for line in reversed(lines):
        is_step = line.startswith(_STEP)
        if is_step and wanted <= 0:
            continue
        try:
            event = event_lines.decode_event(line)
        except ValueError:  # a torn line
            continue
        if isinstance(event, ev.Step):
            if event.step >= below:
                continue
            below = event.step
            if event.seconds_so_far is not None:
                wanted -= 1
        elif isinstance(event, ev.RunStarted) and event.resumed_from is not None:
            below = min(below, event.resumed_from + 1)
        elif isinstance(event, ev.RecoveryApplied) and event.rung == "rank":
            below = 1
        if event is not None:
            events.append(event)
    return events[::-1]


def total_steps_of(progress: RunProgress, config: RunConfig | None) -> int | None:
    """Steps of the whole run; None where neither its events nor its configuration tell."""
    return progress.total_steps or (config.train.max_steps if config else None)


def summarise(run: RunDirectory) -> RunSummary:
    """Read what a row of the table shows."""
    live = run.is_live()  # before reading: what an ending process wrote last is then read too
    progress = RunProgress()
    progress.apply_all(read_outline(run.events_file))
    try:
        config = run.config()
        model = config.model.name_or_path
    except ConfigError:
        config, model = None, progress.model.name if progress.model else "?"
    return RunSummary(
        run=run,
        state=progress.shown_state(live=live),
        live=live,
        owner=read_owner(run.path) if live else None,
        model=model.rstrip("/").rsplit("/", 1)[-1],
        step=progress.step,
        total_steps=total_steps_of(progress, config),
        loss=progress.loss,
        evaluation=progress.evaluation.loss if progress.evaluation else None,
        memory_gb=progress.steps[-1].memory_gb if progress.steps else None,
        memory_total_gb=progress.steps[-1].memory_total_gb if progress.steps else None,
        trained_seconds=progress.trained_seconds,
        when=progress.last_time or _modified(run.config_file),
        megabytes=_megabytes(run.path),
        checkpoints=tuple(run.checkpoints()),
        note=run.note(),
    )


def live_elsewhere(root: Path, here: Iterable[RunDirectory]) -> list[RunDirectory]:
    """Live runs that are neither under `root` nor among those listed there, the one that was started last first."""
    own = {identity(root), *(identity(run.path) for run in here)}
    found = [run.path for run in live_runs()]
    return [RunDirectory(path) for path in found if own.isdisjoint((identity(path), identity(path.parent)))]


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
        self._known: dict[Path, tuple[tuple[float, ...], RunSummary]] = {}

    def scan(self, at_most: int, report: Callable[[str], None]) -> tuple[list[RunSummary], int]:
        """Summaries of the live runs of other folders, and of the newest `at_most` of this one, the last active first;
        and how many runs there are in all."""
        runs = list_runs(self._root)
        elsewhere = live_elsewhere(self._root, runs)
        rows = [self._summary(run) for run in elsewhere]
        for number, run in enumerate(runs[:at_most], 1):
            report(f"reading run {number} of {min(len(runs), at_most)}")
            rows.append(self._summary(run))
        return rows, len(elsewhere) + len(runs)

    def _summary(self, run: RunDirectory) -> RunSummary:
        stamp = tuple(map(_modified, (run.events_file, run.adapter, run.exports, run.note_file, run.config_file)))
        known = self._known.get(run.path)
        if known and known[0] == stamp and not known[1].live and not run.is_live():
            return known[1]
        summary = summarise(run)
        self._known[run.path] = (stamp, summary)
        return summary
