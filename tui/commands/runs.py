"""`evenfall runs`: what there is, a line each."""

import argparse

from .parser import Commands


def add(commands: Commands) -> None:
    commands.add("runs", _runs, "list the runs")


def _runs(args: argparse.Namespace) -> int:
    from ...engine.run.find import list_runs
    from ..safe_text import safe_str

    runs = list_runs(args.runs)
    if not runs:
        print(f"no runs in {safe_str(args.runs)}/ yet: `evenfall demo` makes one")
        return 0
    print(f"{'RUN':32} {'STATE':14} {'STEP':>13} {'LOSS':>8} {'EVAL':>8}  MODEL")
    for run in runs:
        progress = run.progress()
        state = progress.state
        if not run.is_live() and state not in ("finished", "failed", "out-of-memory"):
            state = "interrupted"
        steps = f"{progress.step}/{progress.total_steps or '?'}"
        loss = f"{progress.steps[-1].loss:.4f}" if progress.steps else "-"
        tested = f"{progress.evaluations[-1].loss:.4f}" if progress.evaluations else "-"
        model = progress.model.name if progress.model else "-"
        print(
            f"{safe_str(run.name):32} {state:14} {steps:>13} {loss:>8} {tested:>8}  "
            f"{safe_str(model, 60)}"
        )
    return 0
