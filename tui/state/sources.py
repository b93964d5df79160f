"""Where a run's events come from: the session of this process, or a run directory on disk.

The screens draw from a RunSource and never ask which kind it is, so the run of this process, one that another process
trains and a finished one look alike and are steered alike. A source is polled from the UI thread: the engine never
waits for a terminal.
"""

import os
import time
from collections.abc import Iterable
from typing import Protocol

from ...engine.config.run_config import ConfigError, RunConfig
from ...engine.machine.jobs import Job
from ...engine.run import commands as cmd
from ...engine.run import events as ev
from ...engine.run.directory import RunDirectory
from ...engine.run.log import EventTail
from ...engine.run.owner import read_owner
from ...engine.run.progress import RunProgress
from ...engine.session.attach import Attachment
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
    def owner(self) -> str:
        """The process that trains it: `process 5741`; `no process` where none does."""
        ...

    @property
    def read_only(self) -> str | None:
        """Why no command can be given; None where it can."""
        ...

    @property
    def done(self) -> bool:
        """No event will follow from the process that trains."""
        ...

    @property
    def trouble(self) -> str | None:
        """What is wrong between the run and its viewers: its last events are not on disk, or it does not answer."""
        ...

    def mark(self) -> str:
        """Its mark in the nav strip."""
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

    @property
    def done(self) -> bool:
        raise NotImplementedError

    def mark(self) -> str:
        """Its mark in the nav strip."""
        state = self.progress.shown_state(live=not self.done)
        if state in ("finished", "stopped"):
            return "done"
        asks = ("failed", "out-of-memory", "interrupted", "waiting")
        return "attention" if state in asks else "running"

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
    def owner(self) -> str:
        return f"process {os.getpid()}"

    @property
    def read_only(self) -> str | None:
        return None

    @property
    def done(self) -> bool:
        return self.session.done

    @property
    def trouble(self) -> str | None:
        error = self.session.log_error
        return error and f"the run's log is not on disk: {error}"

    def poll(self) -> bool:
        return self._fold(self.session.events_since(self.progress.last_event))

    def submit(self, command: cmd.Command) -> None:
        self.pending[type(command).__name__] = command
        self.session.submit(command)


class FollowedRun(_Folded):
    """A run directory that is followed as it grows; steered through the run's socket while a process trains it.

    The history (20,000 steps are some megabytes) is read on a thread; what comes after it is little
    and is read when polled.
    """

    LIVE_CHECK_SECONDS = 2.0

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(run)
        self._tail = EventTail(run.events_file)
        self._live = False
        self._told: tuple[object, ...] = ()
        self._checked = float("-inf")
        self._attachment: Attachment | None = None
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
            self._attach()
        return self._live

    def _attach(self) -> None:
        """Connect to the process that trains, anew where the connection was lost; let go where there is none."""
        attachment = self._attachment
        if attachment and (attachment.over or not self._live):
            attachment.close()
            self._attachment = None
            for name in list(self.pending):
                self._refused(name, attachment.why_not or "the run has ended")
        if self._live and self._attachment is None:
            before = attachment and attachment.why_not
            self._attachment = Attachment(self.run.path, before) if before else Attachment(self.run.path)

    def _refused(self, name: str, why: str) -> None:
        self.pending.pop(name, None)
        self.story.add(ev.CommandRefused(name, why))

    @property
    def owner(self) -> str:
        owner = read_owner(self.run.path)
        return owner.told if owner else "no process"

    @property
    def read_only(self) -> str | None:
        if not self.live:
            return "read-only: no process trains this run now"
        return self._attachment.why_not if self._attachment else "connecting to the run"

    @property
    def done(self) -> bool:
        return not self.live

    @property
    def trouble(self) -> str | None:
        attachment = self._attachment
        if attachment is None:
            return None
        if silent := attachment.silent_seconds:
            return f"the run has not answered for {silent:.0f} s"
        return attachment.log_error and f"the run's log is not on disk: {attachment.log_error}"

    def poll(self) -> bool:
        if self._first is not None:
            if not self._first.done:
                return False
            first, self._first, self.loading = self._first, None, False
            self._told = self._standing()
            if first.error is None:
                self.config, events = first.result
                self._fold(events)
            return True
        told, self._told = self._told, self._standing()  # before reading: no last event is missed
        for answer in self._attachment.answers() if self._attachment else ():
            self.pending.pop(answer.command, None)
        return self._fold(self._tail.read_new()) or self._told != told

    def _standing(self) -> tuple[object, ...]:
        """What viewers see of the process that trains."""
        return self.live, self.read_only, self.trouble, tuple(self.pending)

    def submit(self, command: cmd.Command) -> None:
        name = type(command).__name__
        self.pending[name] = command
        why = self._attachment.submit(command) if self._attachment else self.read_only
        if why:
            self._refused(name, why)

    def close(self) -> None:
        """Nobody looks at it any more."""
        if self._attachment:
            self._attachment.close()
            self._attachment = None
