"""The question before a run starts on a device that another one has."""

from textual.content import Content

from ....engine.run.owner import is_owned
from ....engine.run.registry import LiveRun
from ...safe_text import safe_str
from .common import Choice, ChoiceModal


class BesideModal(ChoiceModal):
    """`open`: the run that is there; `start`: beside it; None: neither. Closes itself once the other run has ended."""

    def __init__(self, other: LiveRun) -> None:
        self._other = other
        owner = f" ({other.owner.told})" if other.owner else ""
        super().__init__(
            Content("Another run is live"),
            Content(
                f"{safe_str(other.name, 60)}{safe_str(owner, 60)} trains on the same device.\n"
                "Two at once are slower, and may not fit into its memory."
            ),
            [
                Choice(key="o", title="Open it", note="watch it, and steer it", result="open"),
                Choice(key="b", title="Start beside it", note="both go on", result="start"),
                Choice(key="c", title="Cancel", note="start nothing", result=None),
            ],
        )

    def on_mount(self) -> None:
        super().on_mount()
        self.set_interval(1.0, self._look)

    def _look(self) -> None:
        if not is_owned(self._other.path):
            self.close_with("the other run has ended meanwhile: r starts this one")
