"""Desk: what the six screens share, whatever shows it.

On it lie the draft of the next run, the session that trains in this process, the run that is viewed, and the run that
Export and Chat work on. The app polls it twice a second; the engine never calls it. It tells the app what is new
through a `Host` and knows no screen.

Light until the first paint: the engine's own modules (pydantic, the events) are imported where they are first used.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...engine.machine.jobs import Job
from ..keys import ScreenName
from .notices import Severity
from .refused import DraftField, Refusal, RefusedValues
from .warm_up import WarmUp

if TYPE_CHECKING:
    from ...engine.config.run_config import RunConfig
    from ...engine.run.directory import RunDirectory
    from ...engine.run.registry import LiveRun as LiveOwner
    from ...engine.session.session import Session
    from .sources import LiveRun, RunSource


class Host(Protocol):
    """Whoever shows what is on the desk."""

    def show(self, name: ScreenName) -> None:
        """Bring a screen to the front."""
        ...

    def tell(self, text: object, severity: Severity = "information") -> None:
        """Show a passing notice; any text is safe."""
        ...

    def draft_changed(self) -> None:
        """The draft is another one now."""
        ...

    def marks_changed(self) -> None:
        """A mark in the nav strip is another one now."""
        ...

    def run_changed(self) -> None:
        """The run that is viewed, or that trains here, has news."""
        ...

    def ask_beside(self, other: "LiveOwner", go_on: Callable[[], object]) -> None:
        """Ask whether a run is to start beside one that has its device; `go_on` starts it."""
        ...

    def run_ended(self, source: "RunSource") -> None:
        """The run that trains here, or the viewed one of another process, is over. Told once."""
        ...


class Desk:
    """Args:
    host: is told what is new.
    root: the folder of run directories.
    config: the draft to begin with; none: the demo's.
    """

    def __init__(self, host: Host, *, root: Path, config: "RunConfig | None" = None) -> None:
        self.root = root
        self.session: Session | None = None
        """The run that this process trains, or trained last."""
        self.live: LiveRun | None = None
        """The same, as a source."""
        self.source: RunSource | None = None
        """The run that Train shows."""
        self.chosen_run: RunDirectory | None = None
        """The run that Export and Chat work on."""
        self.leaving = False
        """The app ends once the session has saved and stopped."""
        self.refused = RefusedValues()
        """What fields hold and the draft does not; no run starts meanwhile."""
        self.warm_up = WarmUp()
        self.draft_origin = 0
        """Another number once another draft has taken the place of this one as a whole."""
        self._host = host
        self._draft = config
        self._kept = config
        """The draft as it was written down last, or as it was given."""
        self._own_marks: dict[ScreenName, str] = {}
        if config is not None:
            self._own_marks |= {"model": "done", "data": "done"}
        self._opening: Job[Session] | None = None
        self._asking: Job[list[LiveOwner]] | None = None
        """Looks whether another run has the device that the next one takes."""
        self._go_on: Callable[[], bool] = lambda: False
        self._going: set[RunSource] = set()
        """Those that a process trained when they were polled last."""

    @property
    def busy(self) -> bool:
        """Whether this process trains a run now (or takes one up)."""
        return self.opening or (self.session is not None and not self.session.done)

    @property
    def opening(self) -> bool:
        """Whether a run is being taken up, and nothing trains yet."""
        return self._opening is not None

    @property
    def loading(self) -> bool:
        """Whether the history of the viewed run is still being read."""
        return self.source is not None and self.source.loading

    # The draft

    @property
    def draft(self) -> "RunConfig":
        """What the next run will be."""
        if self._draft is None:
            self._draft = self._begin_draft()
        return self._draft

    def _begin_draft(self) -> "RunConfig":
        """What was chosen last, else the defaults."""
        from ...engine.config.run_config import ConfigError, RunConfig
        from .last_draft import read_last_draft

        last = None
        try:
            last = read_last_draft(self.root)
        except ConfigError as error:
            self._host.tell(f"What was chosen last cannot be used, so it begins anew. {error}", "warning")
        if last is not None:
            self._kept = last
            self._own_marks.setdefault("model", "done")
            self._own_marks.setdefault("data", "done")
        return last or RunConfig(output_dir=str(self.root))

    def _keep_draft(self) -> None:
        """Write down what is chosen, where that is new."""
        from .last_draft import keep_draft

        draft = self._draft
        if draft is not None and draft is not self._kept:
            self._kept = draft
            Job(lambda job: keep_draft(draft), "keep-draft")

    def update_draft(self, overrides: Sequence[str]) -> None:
        """Change the next run.

        Raises:
            ConfigError: a key or value that does not fit; the draft stays as it was.
        """
        draft = self.draft.with_overrides(overrides)
        self._draft = self.refused.follow(self.draft, draft)
        self._host.draft_changed()

    def offer(self, field: DraftField, overrides: Sequence[str]) -> str:
        """Change the next run by what was typed into a field.

        Returns:
            Why it was refused, where it was: then the draft stays, and no run starts before the field holds something
            else. Empty where it was taken.
        """
        from ...engine.config.run_config import ConfigError

        try:
            draft = self.draft.with_overrides(overrides)
        except ConfigError as error:
            self.refuse(Refusal(field, str(error), tuple(overrides)))
            return str(error)
        self.refused.drop(field)
        self._draft = self.refused.follow(self.draft, draft)
        self._host.draft_changed()
        return ""

    def refuse(self, refusal: Refusal) -> None:
        """Keep that a field holds what does not fit: no run starts now, and the screens say so."""
        self.refused.hold(refusal)
        self._host.draft_changed()

    def set_draft(self, config: "RunConfig") -> None:
        """Take another draft as a whole, in place of all that was set and typed."""
        self.refused.clear()
        self._draft = config
        self.draft_origin += 1
        self._host.draft_changed()

    # Marks of the nav strip

    def set_mark(self, name: ScreenName, mark: str) -> None:
        """Mark a screen in the nav strip: `done`, `attention`, or an empty string."""
        self._own_marks[name] = mark
        self._host.marks_changed()

    def marks(self) -> dict[ScreenName, str]:
        marks = dict(self._own_marks)
        if source := self.gauged:
            marks["train"] = source.mark()
        return marks

    @property
    def gauged(self) -> "RunSource | None":
        """The run that the nav strip tells of: the one that goes on, be it viewed or not."""
        if self.source and not self.source.done:
            return self.source
        return self.live or self.source

    # Runs

    def start_job(self, work: Callable[[Job[Any]], Any], name: str) -> Job[Any]:
        """A Job that may import heavy modules."""
        return self.warm_up.job(work, name)

    def start_run(self) -> bool:
        """Train the draft as a new run and show it; False (and a notice why) where it cannot be tried."""
        from ...engine.errors import UserError
        from ...engine.session.ready import check_ready

        if self._told_busy():
            return False
        if reason := self.refused.why_no_start():
            self._host.tell(reason, "warning")
            return False
        try:
            check_ready(self.draft)
        except UserError as error:
            self._host.tell(error.told(), "error")
            return False
        return self._unless_beside(self.draft.train.device, None, self._start_draft)

    def _start_draft(self) -> bool:
        from ...engine.errors import UserError
        from ...engine.run.find import create_run
        from ...engine.session.session import Session

        try:
            run = create_run(self.draft)
        except UserError as error:
            self._host.tell(error.told(), "error")
            return False
        self.begin(Session(run, attended=True))
        return True

    def resume_run(self, run: "RunDirectory") -> bool:
        """Take a run up from its last checkpoint and show it; False where it cannot be tried."""
        from ...engine.errors import UserError

        if self._told_busy():
            return False
        try:
            device = run.config().train.device
        except UserError as error:
            self._host.tell(error.told(), "error")
            return False
        return self._unless_beside(device, run, lambda: self._take_up(run))

    def _take_up(self, run: "RunDirectory") -> bool:
        from ...engine.session.session import Session

        # A session reads the run's whole history when it is made.
        self._opening = Job(lambda job: Session(run, resume=True, attended=True), "open-run")
        self._host.show("train")
        return True

    def _unless_beside(self, device: str, run: "RunDirectory | None", go_on: Callable[[], bool]) -> bool:
        """Go on at once where no other run is live; else look whether one has the device, and ask then."""
        from ...engine.run.registry import live_runs
        from ...engine.session.beside import runs_beside

        if not live_runs():
            return go_on()
        but = str(run.path.absolute()) if run else ""
        self._go_on = go_on
        self._asking = Job(lambda job: runs_beside(device, but), "runs-beside")
        return True

    def _asked_beside(self, asking: "Job[list[LiveOwner]]") -> None:
        self._asking, go_on = None, self._go_on
        others = [] if asking.error else asking.result
        if others:
            self._host.ask_beside(others[0], lambda: None if self._told_busy() else go_on())
        elif not self._told_busy():
            go_on()

    def view_run(self, run: "RunDirectory") -> None:
        """Show a run in Train, whichever process trains it."""
        self.look_at(run)
        self._host.show("train")

    def look_at(self, run: "RunDirectory") -> None:
        """Take a run as the one that Train shows."""
        from .sources import FollowedRun

        if isinstance(self.source, FollowedRun):
            self.source.close()
        own = self.live is not None and self.live.run.is_same(run)
        self.source = self.live if own else FollowedRun(run)

    def run_moved(self, old: "RunDirectory", new: "RunDirectory") -> None:
        """A run that no process trains has another name now: whatever refers to it follows."""
        if self.chosen_run and self.chosen_run.is_same(old):
            self.chosen_run = new
        if self.live and self.live.run.is_same(old):
            self.live.run = self.live.session.run = new
        elif self.source and self.source.run.is_same(old):
            self.look_at(new)

    def runs_gone(self, gone: "Sequence[RunDirectory]", instead: "RunDirectory | None") -> None:
        """Runs that no process trained were deleted: nothing refers to them any more. `instead` is then the one that
        Export and Chat work on."""

        def is_gone(run: "RunDirectory") -> bool:
            return any(run.is_same(one) for one in gone)

        if self.chosen_run and is_gone(self.chosen_run):
            self.chosen_run = instead
        if self.source and is_gone(self.source.run):
            self.source = None
        if self.live and is_gone(self.live.run):
            self.live = self.session = None
        self._host.marks_changed()

    def begin(self, session: "Session") -> None:
        """Start a session, show it, and work on its run from now on."""
        from .sources import FollowedRun, LiveRun

        self.session = session
        if isinstance(self.source, FollowedRun):
            self.source.close()
        self.live = self.source = LiveRun(session)
        self.chosen_run = session.run
        self._own_marks |= {"model": "done", "data": "done"}
        session.start()
        self._going.add(self.live)
        self._host.show("train")
        self.poll()

    def leave_useless_run(self, ended: "RunSource") -> None:
        """Export and Chat go back to a run that works, where the one that ended has saved nothing."""
        from ...engine.run.facts import newest_usable, saved_key

        if self.chosen_run and self.chosen_run.is_same(ended.run) and saved_key(ended.run) is None:
            self.chosen_run = newest_usable(self.root) or ended.run

    def stop_session(self) -> None:
        """Save the run of this process, if there is one, and stop it. May be called from a signal handler."""
        if self.live:
            from ...engine.run.commands import Stop

            self.live.submit(Stop(save=True))

    def poll(self) -> None:
        """Take in what the engine has told since the last time."""
        self._keep_draft()
        if self._asking and self._asking.done:
            self._asked_beside(self._asking)
        if self._opening and self._opening.done:
            opening, self._opening = self._opening, None
            if opening.error:
                self._host.tell(opening.error, "error")
            else:
                self.begin(opening.result)
        sources = {source for source in (self.live, self.source) if source}
        going = {source for source in sources if not source.done}  # before reading: no last event is missed
        news = [source.poll() for source in sources]
        if any(news):
            self._host.run_changed()
        ended = (self._going - going) & sources
        self._going = going
        for source in ended:
            self._host.run_ended(source)

    def _told_busy(self) -> bool:
        if self.busy:
            text = "A run is going already: stop it first (x on the Train screen)"
            self._host.tell(text, "warning")
        return self.busy
