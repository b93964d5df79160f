"""InspectorPane: one row of the data with its keys: step, find, go to, problems, ids, raw.

Looking at a row may read a file, so it is done in a job. A step is nearly always quicker than the eye, so the
pane waits a moment for the job before it leaves it to the screen's poll: keys that are held down then walk
through the rows without a blink.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from ....engine.data.problems.codes import DUPLICATE, LEAK, NEAR_DUPLICATE
from ....engine.data.report.findings import Place
from ....engine.machine.jobs import Job
from ...safe_text import safe_text
from ...state.notices import notice
from ...widgets.field import TextField
from ...words import data
from .token_view import LEGEND, TokenView, stretches_of

if TYPE_CHECKING:
    from ....engine.data.inspector.inspect import InspectedRow
    from ....engine.data.inspector.preview import DataPreview
    from ...state.desk import Desk
    from ..base import EvenfallLike

TellRows = Callable[[int], None]
Question = Literal["find", "go"]

_MOMENT = 0.05
_BETWEEN_ROWS = (DUPLICATE, NEAR_DUPLICATE, LEAK)
"""What a row shows only beside others: the check knows."""
_ASKS: dict[Question, str] = {"find": "text to look for", "go": "row number"}


class InspectorPane(Vertical):
    """Shows the rows of a preview, one at a time."""

    class Changed(Message):
        """Another row is shown, or shown in another way: other keys may work."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._preview: DataPreview | None = None
        self._row: InspectedRow | None = None
        self._target: Place | None = None
        self._job: Job[InspectedRow | None] | None = None
        self._question: Question | None = None
        self._text = self._none = ""
        self._ids = False

    def compose(self) -> ComposeResult:
        yield Static("", id="data-row", markup=False)
        yield TextField(id="data-ask")
        with Horizontal(id="data-views"):
            yield TokenView(id="data-tokens")
            yield TokenView(id="data-raw")
        yield Static(
            LEGEND + Content.assemble(("  3", "$accent bold"), " goes on to training"),
            id="data-legend",
            markup=False,
        )

    @property
    def raw(self) -> bool:
        """Whether the row is shown as it stands in the file, and its tokens are not."""
        return self.has_class("-raw")

    @property
    def working(self) -> bool:
        """Whether a row is being looked for."""
        return self._job is not None

    def set_data(self, preview: "DataPreview | None") -> None:
        """Show the first row of a preview; None: nothing."""
        self.cancel()
        self._preview, self._row, self._target = preview, None, None
        self.set_class(False, "-raw")
        self.close_question()
        if preview is not None and len(preview.inspector.places):
            self.look_at(preview.inspector.places[0])

    def why_not(self, verb: str) -> str | None:
        """Why a verb cannot be done now; None where it can."""
        if self._preview is None or self._row is None:
            return "there are no rows to show: give a data set first (/)"
        if verb in ("next_match", "previous_match") and not self._text:
            return "there is nothing to look for yet (f)"
        if verb == "next_row" and self._neighbour(1) is None:
            return "this is the last row that is trained on"
        if verb == "previous_row" and self._neighbour(-1) is None:
            return "this is the first row"
        return None

    # Which row

    def step(self, by: int) -> None:
        """Show the next row that is trained on, or the one before."""
        place = self._neighbour(by)
        if place is not None:
            self.look_at(place)

    def _neighbour(self, by: int) -> Place | None:
        if self._preview is None or self._target is None:
            return None
        inspector = self._preview.inspector
        places, at = inspector.places, inspector.index_at(self._target)
        inside = at < len(places) and places[at] == self._target
        at += by if inside or by < 0 else 0  # a row that is left out stands between two
        return places[at] if 0 <= at < len(places) else None

    def next_problem(self) -> None:
        """Show the next row with which something is wrong."""
        if (preview := self._preview) is not None:
            start = self._target
            self._go_where(
                lambda tell: preview.inspector.next_problem(start, preview.check, tell),
                "nothing is wrong with any row",
            )

    def find(self, back: bool = False) -> None:
        """Show the next row that holds the text that was asked for, or the one before."""
        if (preview := self._preview) is not None:
            text, start = self._text, self._target
            self._go_where(
                lambda tell: preview.inspector.find(text, start, back, tell),
                f"no row holds {text!r}",
            )

    def look_at(self, place: Place) -> None:
        """Show a row, trained on or not."""
        self.cancel()
        self._target = place  # at once: a key that comes before the row is there goes on from it
        self._go_where(lambda tell: place, "")

    def _go_where(self, place_of: Callable[[TellRows], Place | None], none: str) -> None:
        """Look at the row that `place_of` gives; where it gives None, say `none`."""
        preview = self._preview
        if preview is None:
            return
        inspector = preview.inspector

        def work(job: Job[Any]) -> "InspectedRow | None":
            def tell(rows: int) -> None:
                job.report(f"{rows:,} rows read")

            place = place_of(tell)
            return None if place is None else inspector.look(place, tell)

        self.cancel()
        self._none = none
        self._job = self._desk.start_job(work, "row")
        self._job.wait(_MOMENT)
        self.poll()

    def cancel(self) -> None:
        """Stop looking for a row."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self._target = self._row.place if self._row else None
            self._show()

    def poll(self) -> None:
        """Take what a job has found, or show how far it is."""
        job = self._job
        if job is None:
            return
        if not job.done:
            busy = f"◌ {job.message or 'reading'} · esc stops"
            self.query_one("#data-row", Static).update(safe_text(busy, 100))
            return
        self._job = None
        if job.error is not None:
            notice(self.app, job.error, "error")
        elif not job.cancelled and job.result is None:
            notice(self.app, self._none, "information")
        elif not job.cancelled:
            self._row = job.result
        self._target = self._row.place if self._row else None
        self._show()

    @property
    def _desk(self) -> "Desk":
        return cast("EvenfallLike", self.app).desk

    # Questions

    def ask(self, question: Question) -> None:
        """Open the field for a text to find, or for a row's number."""
        self._question = question
        field = self.query_one("#data-ask", TextField)
        field.placeholder = _ASKS[question]
        field.put("")
        self.set_class(True, "-asking")
        field.focus()

    def close_question(self) -> None:
        self._question = None
        self.set_class(False, "-asking")

    @on(TextField.Committed)
    def _answered(self, event: TextField.Committed) -> None:
        event.stop()  # the screen's fields are settings, this one is not
        question, text = self._question, event.text.strip()
        self.close_question()
        if not event.entered:
            return
        self.focus_view()
        if not text or question is None:
            return
        if question == "find":
            self._text = text
            self.find()
        elif text.replace(",", "").isdecimal():
            self._go_to(int(text.replace(",", "")))
        else:
            notice(self.app, f"{text!r} is no row number", "warning")

    def _go_to(self, number: int) -> None:
        if self._target is not None:
            self.look_at(Place(self._target.file, number))

    # How it is shown

    def turn_ids(self) -> None:
        """Show token ids, or not."""
        self._ids = not self._ids
        self._show()

    def turn_raw(self) -> None:
        """Show the row as it stands in the file, or its tokens again."""
        self.set_class(not self.raw, "-raw")
        self._show()
        self.focus_view()

    def focus_view(self) -> None:
        """Give the keys that scroll to the row."""
        self.query_one("#data-raw" if self.raw else "#data-tokens").focus()

    def _show(self) -> None:
        row, preview = self._row, self._preview
        head = Content("")
        if row is not None and preview is not None:
            inspector = preview.inspector
            before, count = inspector.index_at(row.place), len(inspector.places)
            found = [one.code for one in preview.check.findings if row.place in one.places]
            between = [code for code in found if code in _BETWEEN_ROWS and not row.left_out]
            head = data.inspected(row, before, count, between)
            tokens = self.query_one("#data-tokens", TokenView)
            if row.tokens or self.screen.has_class("-widest"):
                tokens.set_stretches(stretches_of(row, self._ids))
            else:  # there is nothing to show of it but the row in its file, which has no place beside it
                tokens.set_raw(row.raw)
            self.query_one("#data-raw", TokenView).set_raw(row.raw)
        self.query_one("#data-row", Static).update(head)
        self.post_message(self.Changed())
