"""Live runs in a few words, for the first screen."""

from collections.abc import Sequence

from textual.content import Content

from ...engine.run.summary import RunSummary
from ..safe_text import safe_str
from .pairs import pair_lines
from .run_figures import STATES, steps_text

MOST = 3


def live_lines(runs: Sequence[RunSummary]) -> Content:
    """The runs that are live, a line for each of the first few; empty where none is."""
    pairs = []
    for number, run in enumerate(runs[:MOST]):
        glyph, word, style = STATES[run.state]
        where = f" on {run.elsewhere}" if run.elsewhere else ""
        facts = [f"{word}{where} {steps_text(run.step, run.total_steps)}"]
        if run.memory_gb is not None and run.memory_total_gb:
            facts.append(f"{run.memory_gb:.1f} of {run.memory_total_gb:.0f} GB")
        more = len(runs) - MOST if number == MOST - 1 else 0
        line = Content.styled(f"{glyph} ", f"bold ${style}") + Content.styled(safe_str(run.run.name, 32), "bold")
        line += Content("  " + safe_str(" · ".join(facts), 60))
        line += Content.styled("  w opens it", "$text-muted") if number == 0 else Content("")
        line += Content.styled(f"  and {more} more: 6", "$text-muted") if more > 0 else Content("")
        pairs.append(("live" if number == 0 else "", line))
    return pair_lines(pairs) if pairs else Content("")
