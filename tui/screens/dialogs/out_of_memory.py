"""Out of memory: what happened, what is kept, and the ways on, each with its price; one key takes one."""

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ....engine.run.commands import ApplyRecovery, Stop
from ....engine.run.events import OutOfMemory, Rung
from ...safe_text import safe_str
from ...state.sources import RunSource
from ..base import EvenfallModal

PHASES = {"load": "while loading the model", "step": "in a step", "evaluation": "while evaluating"}


class OutOfMemoryModal(EvenfallModal):
    """Gives ApplyRecovery, Stop, or None where it was closed; closes by itself once it is answered
    elsewhere."""

    CSS_PATH = "../../styles/modals.tcss"

    def __init__(self, source: RunSource, trouble: OutOfMemory) -> None:
        super().__init__()
        self._source, self._trouble = source, trouble

    def compose(self) -> ComposeResult:
        trouble = self._trouble
        phase = PHASES.get(trouble.phase, safe_str(trouble.phase, 20))
        with Vertical(classes="dialog wide") as dialog:
            dialog.border_title = Content.styled(f"Out of memory {phase}", "bold $error")
            yield Static(self._facts(), classes="dialog-text", markup=False)
            if trouble.rungs:
                yield OptionList(*map(self._option, range(len(trouble.rungs))), markup=False)
            yield Static(self._keys(), classes="dialog-keys", markup=False)

    def on_mount(self) -> None:
        if self._trouble.rungs:
            self.query_one(OptionList).highlighted = 0
            self.query_one(OptionList).focus()

    def _facts(self) -> Content:
        trouble = self._trouble
        asked = f"asked for {trouble.requested_gb:.1f} GB more · " if trouble.requested_gb else ""
        kept = (
            f"Step {trouble.step} and all before it are kept; the run waits."
            if trouble.step
            else "No step was made yet; the run waits."
        )
        figures = (
            f"{asked}before {trouble.before_gb:.1f} · at the failure {trouble.at_gb:.1f} · "
            f"freed to {trouble.after_gb:.1f} · limit {trouble.limit_gb:.1f} GB"
        )
        return Content.styled(kept, "bold") + Content.styled("\n" + figures, "$text-muted")

    def _option(self, index: int) -> Option:
        rung: Rung = self._trouble.rungs[index]
        head = Content.styled(f"{index + 1} ", "bold $accent")
        title = Content.styled(safe_str(rung.title, 100), "bold")
        price = []
        if rung.peak_gb is not None:
            price.append(f"≈ {rung.peak_gb:.1f} GB")
        if rung.speed is not None:
            price.append("same speed" if rung.speed == 1 else f"≈ {rung.speed:.2g}× the speed")
        effect = f"\n  {safe_str(rung.effect, 200)}" if rung.effect else ""
        shown = head + title + Content("   " + "   ".join(price))
        return Option(shown + Content.styled(effect, "$text-muted"))

    def _keys(self) -> Content:
        keys = "x save and stop   esc close, the run waits"
        if not self._trouble.rungs:
            return Content("Nothing is known that would help.\n") + Content.styled(keys, "$text-muted")
        count = len(self._trouble.rungs)
        number = "1" if count == 1 else f"1-{min(count, 9)}"
        return Content.styled(f"{number} or enter: apply and go on   {keys}", "$text-muted")

    def source_changed(self) -> None:
        now = self._source.progress.out_of_memory
        if self.is_current and (now is None or now.n != self._trouble.n):
            self.dismiss(None)

    def on_key(self, event: events.Key) -> None:
        if event.key == "x":
            event.stop()
            self.dismiss(Stop(save=True))
        elif event.key.isdigit() and 0 < int(event.key) <= len(self._trouble.rungs):
            event.stop()
            self._apply(int(event.key) - 1)

    @on(OptionList.OptionSelected)
    def _selected(self, message: OptionList.OptionSelected) -> None:
        message.stop()
        self._apply(message.option_index)

    def _apply(self, index: int) -> None:
        self.dismiss(ApplyRecovery(self._trouble.rungs[index].id))
