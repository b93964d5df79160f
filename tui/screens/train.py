"""Train: a run as it goes, or as it went; and the verbs that steer it.

Texts follow the poll of the app, twice a second; the plots are drawn each `CHART_SECONDS` at most and only when
there is something new, as they are what the screen costs.
"""

import time

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from ...engine.run import commands as cmd
from ...engine.run.progress import RunProgress
from ..state.history import History
from ..state.sources import RunSource
from ..state.story import Line as StoryLine
from ..widgets.charts import Chart
from ..widgets.lines import Facts, Line, ProgressLine
from ..widgets.log import LogPanel
from ..words import run as view
from ..words import run_plots
from .base import EvenfallScreen
from .dialogs.common import InfoModal, LearningRateModal, StopModal

CHART_SECONDS = 3.0
STEERING = {"pause", "rate", "save_now", "evaluate_now", "stop_run", "recover"}
TONES = {
    "plain": "text", "good": "success", "warning": "warning", "error": "error", "you": "accent",
    "dim": "text-muted",
}  # fmt: skip


class TrainScreen(EvenfallScreen):
    """Draws `app.source`."""

    NAME = "train"
    CSS_PATH = "../styles/train.tcss"

    def __init__(self) -> None:
        super().__init__()
        self._source: RunSource | None = None
        self._history = History()
        self._window: int | None = None
        self._y_log = False
        self._lines_shown = 0
        self._drawn_at = float("-inf")
        self._drawn: object = None

    def compose_body(self) -> ComposeResult:
        yield Static(id="no-run", markup=False)
        with Vertical(id="run"):
            yield Line(id="status")
            yield ProgressLine(id="progress")
            yield Static(id="card", markup=False)
            with Horizontal(id="panels"):
                with Vertical(id="left"):
                    yield Chart("the first step is awaited", id="loss")
                    with Horizontal(id="small-charts"):
                        yield Chart("", id="rate")
                        yield Chart("", id="memory")
                with Vertical(id="right"):
                    yield Facts("this run", id="facts")
                    yield LogPanel(id="log")

    def on_mount(self) -> None:
        super().on_mount()
        self.poll_every(CHART_SECONDS, self.draw_charts)

    # What is shown

    def draft_changed(self) -> None:
        if not self.desk.source:
            self._show_empty()

    def source_changed(self) -> None:
        source = self.desk.source
        self.query_one("#no-run").display = source is None
        self.query_one("#run").display = source is not None
        if source is None:
            self._show_empty()
            return
        if source is not self._source:
            self._take_up(source)
        self._show_texts(source)
        self._show_story(source)
        first = bool(source.progress.steps) and not self._history.steps
        if first or source.done or time.monotonic() - self._drawn_at >= CHART_SECONDS:
            self.draw_charts()

    def _take_up(self, source: RunSource) -> None:
        self._source = source
        self._history = History()
        self._lines_shown = 0
        self._drawn_at, self._drawn = float("-inf"), None
        self.query_one(LogPanel).forget()

    def _show_empty(self) -> None:
        draft = self.desk.draft
        lines = [
            Content.styled("No run yet", "bold"),
            Content(""),
            view.key_hint(("1", "pick a model"), ("2", "pick data"), ("r", "start")),
            Content(""),
            Content.styled("r would train", "$text-muted"),
            view.recipe_line(draft, RunProgress()),
        ]
        if reason := self.desk.refused.why_no_start():
            lines += [Content(""), view.safe_text(reason, 500, lines=True, style="$text-error")]
        self.query_one("#no-run", Static).update(Content("\n").join(lines))

    def _show_texts(self, source: RunSource) -> None:
        state = view.state_of(source)
        left = Content("  ").join(
            [view.badge(state), Content.styled(view.safe_str(source.name, 40), "bold"),
             view.recipe_line(source.config, source.progress)]
        )  # fmt: skip
        self.query_one("#status", Line).set_data(left, self._status_right(source))
        bar = view.bar_view(source, source.config)
        self.query_one("#progress", ProgressLine).set_data(bar.before, bar.fraction, bar.after)
        self.query_one("#facts", Facts).set_data(view.facts(source, source.config))
        self._show_card(view.card(source))

    def _status_right(self, source: RunSource) -> Content:
        if source.trouble:
            return Content.styled(f"! {view.safe_str(source.trouble, 60)}", "$error")
        if self.desk.leaving:
            return Content.styled("○ saving, then leaving …", "$accent")
        return view.status_right(source)

    def _show_card(self, content: Content | None) -> None:
        widget = self.query_one("#card", Static)
        shown = getattr(widget, "content", None)
        same = isinstance(shown, Content) and content is not None and content.is_same(shown)
        if content is not None and not same:
            widget.update(content)
        widget.display = content is not None

    def _show_story(self, source: RunSource) -> None:
        new = source.story.total - self._lines_shown
        if new <= 0:
            return
        self._lines_shown = source.story.total
        lines = list(source.story.lines)[-new:]
        self.query_one(LogPanel).tell([self._log_line(line) for line in lines])

    def _log_line(self, line: StoryLine) -> tuple[int | None, str, str]:
        return line.step, line.text, self.app.theme_variables[TONES[line.tone]]

    def draw_charts(self) -> None:
        """Draw what is new since the last time."""
        source = self.desk.source
        if source is None:
            return
        progress = source.progress
        now = (id(source), progress.last_event, self._window, self._y_log)
        if now == self._drawn:
            return
        self._drawn, self._drawn_at = now, time.monotonic()
        history, window = self._history, self._window
        history.follow(progress.steps)
        colors = self._palette()
        empty = "no step was made" if source.done else "the first step is awaited"
        self.query_one("#loss", Chart).set_data(
            run_plots.loss_plot(history, progress, colors, window, self._y_log),
            run_plots.loss_title(history, progress, colors, window, self._y_log),
            empty,
        )
        self.query_one("#rate", Chart).set_data(
            run_plots.rate_plot(history, progress, colors, window),
            run_plots.rate_title(progress, colors),
        )
        self.query_one("#memory", Chart).set_data(
            run_plots.memory_plot(history, progress, colors, window),
            run_plots.memory_title(progress, colors),
        )

    def _palette(self) -> run_plots.Palette:
        names = self.app.theme_variables
        return run_plots.Palette(
            band=names["chart-band"],
            smooth=names["accent"],
            held_out=names["success"],
            change=names["secondary"],
            lost=names["error"],
            rate=names["primary"],
            memory=names["secondary"],
        )

    # Verbs

    def why_not(self, verb: str) -> str | None:
        source = self.desk.source
        if verb == "run_draft":
            if self.desk.busy:
                return "a run is going: x stops it"
            return None if self._resumable() else self.desk.refused.why_no_start()
        if source is None:
            return "there is no run yet: r starts one"
        if verb not in STEERING:
            return None
        if reason := source.read_only:
            return reason
        return self._why_not_steer(verb, source)

    def _why_not_steer(self, verb: str, source: RunSource) -> str | None:
        state = view.state_of(source)
        if source.done or source.progress.ending:
            return "the run has ended"
        if verb == "recover":
            return None if state == "waiting" else "the run has all the memory it needs"
        if verb == "stop_run":
            return None
        if state == "waiting":
            return "the run waits for an answer: o shows what helps"
        if state not in ("training", "paused"):
            return "the run is still being set up"
        if verb == "evaluate_now" and source.progress.data and not source.progress.data.eval_rows:
            return "no rows are held out: set data.eval_fraction before the run"
        return None

    def verb_title(self, verb: str) -> str | None:
        source = self.desk.source
        if verb == "pause" and source and view.state_of(source) == "paused":
            return "Go on"
        if verb == "run_draft" and self._resumable():
            return "Resume"
        return None

    def _resumable(self) -> bool:
        """Whether `r` takes up the viewed run rather than starting the draft."""
        source = self.desk.source
        return source is not None and view.resumable(source)

    def action_run_draft(self) -> None:
        source = self.desk.source
        if source and self._resumable():
            self.desk.resume_run(source.run)
        else:
            self.desk.start_run()

    def _submit(self, command: cmd.Command) -> None:
        if self.desk.source:
            self.desk.source.submit(command)
            self._show_texts(self.desk.source)

    def action_pause(self) -> None:
        source = self.desk.source
        paused = source is not None and view.state_of(source) == "paused"
        self._submit(cmd.Resume() if paused else cmd.Pause())

    def action_save_now(self) -> None:
        self._submit(cmd.SaveNow())

    def action_evaluate_now(self) -> None:
        self._submit(cmd.EvaluateNow())

    def action_stop_run(self) -> None:
        self.app.push_screen(StopModal(), self._stop_answered)

    def _stop_answered(self, save: bool | None) -> None:
        if save is not None:
            self._submit(cmd.Stop(save=save))

    def action_rate(self) -> None:
        source = self.desk.source
        if source and source.progress.steps:
            current = source.progress.steps[-1].learning_rate
            self.app.push_screen(LearningRateModal(current), self._rate_answered)
        else:
            self.tell("The first step is not done yet", "warning")

    def _rate_answered(self, command: cmd.SetLearningRate | None) -> None:
        if command:
            self._submit(command)

    def action_recover(self) -> None:
        if self.desk.source:
            self.evenfall.ask_recovery(self.desk.source)

    def action_window(self) -> None:
        at = view.WINDOWS.index(self._window)
        self._window = view.WINDOWS[(at + 1) % len(view.WINDOWS)]
        self.draw_charts()

    def action_log_y(self) -> None:
        self._y_log = not self._y_log
        self.draw_charts()

    def action_run_info(self) -> None:
        source = self.desk.source
        if source:
            rows = [
                ("run", view.safe_text(source.run.path)),
                *([("note", view.safe_text(note))] if (note := source.run.note()) else []),
                *view.facts(source, source.config),
            ]
            parts = source.progress.parts.parts if source.progress.parts else []
            self.app.push_screen(InfoModal(rows, parts))
