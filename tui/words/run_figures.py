"""A run's state and figures in words, the same in every list, card and line.

What they are is defined once, in `engine/run/progress.py`; here is what they are called and how they are
written. Light (no textual), as `evenfall runs` needs no more.
"""

from ...engine.run.progress import LOSS_STEPS, RunProgress
from ..state.story import loss_text, seconds_text

STATES: dict[str, tuple[str, str, str]] = {
    "new": ("○", "not begun", "text-muted"),
    "reading": ("◌", "reading", "text-muted"),
    "loading": ("◌", "loading", "warning"),
    "ready": ("◌", "ready", "warning"),
    "training": ("●", "training", "success"),
    "paused": ("‖", "paused", "warning"),
    "waiting": ("▲", "out-of-memory, waiting", "error"),
    "finished": ("✓", "finished", "success"),
    "stopped": ("■", "stopped", "warning"),
    "failed": ("✗", "failed", "error"),
    "out-of-memory": ("✗", "out-of-memory", "error"),
    "interrupted": ("✗", "interrupted", "error"),
}
"""ShownState, or `reading` while a viewer has not read the run yet -> glyph, word, theme colour: never
colour alone."""

LOSS_MEANING = f"mean of the last {LOSS_STEPS} steps"
"""What a run's loss is, wherever it is shown."""


def state_word(state: str) -> str:
    return STATES[state][1]


def steps_text(step: int, total: int | None) -> str:
    """33/60, or 33 where the total is not known."""
    return f"{step}/{total}" if total else f"{step}"


def loss_figure(loss: float | None) -> str:
    """A run's loss; a dash for none."""
    return "-" if loss is None else loss_text(loss)


def time_figure(seconds: float | None) -> str:
    """The time that a run trained; a dash for none."""
    return "-" if seconds is None else seconds_text(seconds)


def loss_words(progress: RunProgress) -> str:
    """`loss 2.912 → 1.927 (means of 5 steps)`, the run's first five and its last; empty where there is
    none."""
    if progress.loss is None:
        return ""
    if progress.step <= LOSS_STEPS:  # its first and its last are the same ones
        return f"loss {loss_text(progress.loss)} ({_mean_of_all(progress.step)})"
    first = progress.finished.first_loss if progress.finished else None
    if first is None:
        return f"loss {loss_text(progress.loss)} ({LOSS_MEANING})"
    return f"loss {loss_text(first)} → {loss_text(progress.loss)} (means of {LOSS_STEPS} steps)"


def _mean_of_all(steps: int) -> str:
    return f"mean of its {steps} steps" if steps > 1 else "its one step"


def evaluation_words(progress: RunProgress) -> str:
    """`eval 1.049 at step 1200`, of the last evaluation; empty where there is none."""
    done = progress.evaluation
    return f"eval {loss_text(done.loss)} at step {done.step}" if done else ""
