"""`evenfall runs`: what there is, a line each; the same rows as on the Runs screen."""

import argparse
from pathlib import Path

from .parser import Commands


def add(commands: Commands) -> None:
    commands.add("runs", _runs, "list the runs")


def _runs(args: argparse.Namespace) -> int:
    from ...engine.run.find import list_runs
    from ...engine.run.summary import summarise
    from ..safe_text import safe_str
    from ..words.run_figures import (
        LOSS_MEANING,
        loss_figure,
        state_word,
        steps_text,
        time_figure,
    )

    runs = list_runs(Path(args.runs))
    if not runs:
        print(f"no runs in {safe_str(args.runs)}/ yet: `evenfall demo` makes one")
        return 0
    print(
        f"{'RUN':32} {'STATE':22} {'STEP':>13} {'LOSS':>8} {'EVAL':>8} {'TRAINED':>8}  MODEL\n"
        f"(LOSS: {LOSS_MEANING}; EVAL: loss of the last evaluation; TRAINED: time in steps alone)"
    )
    for run in runs:
        row = summarise(run)
        print(
            f"{safe_str(row.run.name):32} {state_word(row.state):22} "
            f"{steps_text(row.step, row.total_steps):>13} {loss_figure(row.loss):>8} "
            f"{loss_figure(row.evaluation):>8} {time_figure(row.trained_seconds):>8}  "
            f"{safe_str(row.model, 60)}"
        )
    return 0
