"""Where a run's events come from: the session of this process, or a run directory on disk.

The screens draw from a RunSource and never ask which kind it is, so the live view, `evenfall watch`
and a finished run look alike. A source is polled from the UI thread: the engine never waits for a
terminal.
"""

import time
from collections.abc import Iterable
from typing import Protocol

from ...engine.config.run_config import ConfigError, RunConfig
from ...engine.machine.jobs import Job
from ...engine.run import commands as cmd
from ...engine.run import events as ev
from ...engine.run.directory import RunDirectory
from ...engine.run.log import EventTail
from ...engine.run.progress import RunProgress
from ...engine.session.session import Session
from .story import Story


class RunSource(Protocol):
    """A run as the screens see it."""

    run: RunDirectory
    config: RunConfig | None
    """None where run.yaml cannot be read, or is not read yet."""
    progress: RunProgress
    story: Story
    pending: dict[str, cmd.Command]
    """Commands without an answer yet, by their class's name."""
    loading: bool
    """The history is still being read; `progress` is empty until then."""

    @property
    def name(self) -> str: ...

    @property
    def read_only(self) -> str | None:
        """Why no command can be given; None where it can."""
        ...

    @property
    def done(self) -> bool:
        """No event will follow from the process that trains."""
        ...

    def poll(self) -> bool:
        """Fold new events into `progress` and `story`; True where there were any, or where the
        process that trains has come or gone."""
        ...

    def submit(self, command: cmd.Command) -> None: ...


class _Folded:
    """What both kinds share: progress, story and unanswered commands."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.config: RunConfig | None = None
        self.progress = RunProgress()
        self.story = Story()
        self.pending: dict[str, cmd.Command] = {}
        self.loading = False

    @property
    def name(self) -> str:
        return self.run.name

    def _fold(self, events: Iterable[ev.Event]) -> bool:
        count = 0
        for event in events:
            count += 1
            self.progress.apply(event)
            self.story.add(event)
            if isinstance(event, ev.CommandApplied | ev.CommandRefused):
                self.pending.pop(event.command, None)
            elif isinstance(event, ev.RecoveryApplied):  # the run's configuration is another now
                self.config = _config_of(self.run)
        if self.progress.ending:
            self.pending.clear()
        return count > 0


def _config_of(run: RunDirectory) -> RunConfig | None:
    try:
        return run.config()
    except ConfigError:
        return None


class LiveRun(_Folded):
    """The run that this process trains."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.run)
        self.config = _config_of(session.run)
        self.session = session

    @property
    def read_only(self) -> str | None:
        return None

    @property
    def done(self) -> bool:
        return self.session.done

    def mark(self) -> str:
        """Its mark in the nav strip."""
        state = self.progress.shown_state(live=not self.done)
        if state in ("finished", "stopped"):
            return "done"
        asks = ("failed", "out-of-memory", "interrupted", "waiting")
        return "attention" if state in asks else "running"

    def poll(self) -> bool:
        return self._fold(self.session.events_since(self.progress.last_event))

    def submit(self, command: cmd.Command) -> None:
        self.pending[type(command).__name__] = command
        self.session.submit(command)


class ReplayRun(_Folded):
    """A run directory, read only; it is followed as it grows.

    The history (20,000 steps are some megabytes) is read on a thread; what comes after it is little
    and is read when polled.
    """

    LIVE_CHECK_SECONDS = 2.0

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(run)
        self._tail = EventTail(run.events_file)
        self._live = self._told_live = False
        self._checked = float("-inf")
        self.loading = True
        self._first: Job[tuple[RunConfig | None, list[ev.Event]]] | None = Job(
            lambda job: (_config_of(run), self._tail.read_new()), "read-events"
        )

    @property
    def live(self) -> bool:
        """Whether some process trains this run (looked up every two seconds)."""
        now = time.monotonic()
        if now - self._checked > self.LIVE_CHECK_SECONDS:
            self._checked, self._live = now, self.run.is_live()
        return self._live

    @property
    def read_only(self) -> str | None:
        if self.live:
            started = self.progress.started
            owner = f"process {started.pid}" if started else "another process"
            return f"read-only: this run belongs to {owner}"
        return "read-only: this is the record of a run that no process trains now"

    @property
    def done(self) -> bool:
        return not self.live

    def poll(self) -> bool:
        if self._first is None:
            was_live, live = self._told_live, self.live  # before reading: no last event is missed
            self._told_live = live
            return self._fold(self._tail.read_new()) or live != was_live
        if not self._first.done:
            return False
        first, self._first, self.loading = self._first, None, False
        self._told_live = self.live
        if first.error is None:
            self.config, events = first.result
            self._fold(events)
        return True

    def submit(self, command: cmd.Command) -> None:
        raise RuntimeError(self.read_only)
