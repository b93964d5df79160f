"""`evenfall runs`: what there is, a line each, the same rows as on the Runs screen; or all of it as JSON."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parser import Commands

if TYPE_CHECKING:
    from ...engine.run.summary import RunSummary


def add(commands: Commands) -> None:
    parser = commands.add("runs", _runs, "list the runs of a folder, and those that are live elsewhere")
    parser.add_argument("--json", action="store_true", help="as one JSON array, for scripts")


def _runs(args: argparse.Namespace) -> int:
    from ...engine.run.find import list_runs
    from ...engine.run.registry import other_places
    from ...engine.run.summary import live_elsewhere, summarise
    from ..safe_text import safe_str

    root = Path(args.runs)
    here = list_runs(root)
    rows = [summarise(run) for run in here]
    elsewhere = [summarise(run) for run in live_elsewhere(root, here)]
    if args.json:
        print(json.dumps([_tree(row) for row in rows + elsewhere], ensure_ascii=True, allow_nan=False, indent=1))
        return 0
    if rows:
        _print_table(rows)
    else:
        print(f"no runs in {safe_str(root)}/ yet: `evenfall demo` makes one")
    if elsewhere:
        print("\nlive in other folders:")
        _print_table(elsewhere)
        print("\n".join(f"  {safe_str(row.run.path, 1000)}" for row in elsewhere))
    if places := other_places(root):
        print(f"\nother folders of runs: {', '.join(safe_str(place, 1000) for place in places[:8])}")
    return 0


def _print_table(rows: "list[RunSummary]") -> None:
    from ..safe_text import safe_str
    from ..words.run_figures import LOSS_MEANING, loss_figure, state_word, steps_text, time_figure

    print(
        f"{'RUN':32} {'STATE':22} {'STEP':>13} {'LOSS':>8} {'EVAL':>8} {'TRAINED':>8}  MODEL\n"
        f"(LOSS: {LOSS_MEANING}; EVAL: loss of the last evaluation; TRAINED: time in steps alone)"
    )
    for row in rows:
        where = f" on {row.elsewhere}" if row.elsewhere else ""
        print(
            f"{safe_str(row.run.name):32} {safe_str(state_word(row.state) + where, 40):22} "
            f"{steps_text(row.step, row.total_steps):>13} {loss_figure(row.loss):>8} "
            f"{loss_figure(row.evaluation):>8} {time_figure(row.trained_seconds):>8}  "
            f"{safe_str(row.model, 60)}"
        )
        if row.note:
            print(f"    note: {safe_str(row.note)}")


def _tree(row: "RunSummary") -> dict[str, Any]:
    """A row for scripts: plain values, null for what is not known or no number."""
    owner = row.owner
    tree = {
        "name": row.run.name,
        "path": str(row.run.path.absolute()),
        "state": row.state,
        "live": row.live,
        "pid": owner.pid if owner else None,
        "host": owner.host if owner else None,
        "here": owner.is_here if owner else None,
        "device": owner.device or None if owner else None,
        "model": row.model,
        "step": row.step,
        "total_steps": row.total_steps,
        "loss": row.loss,
        "eval_loss": row.evaluation,
        "trained_seconds": row.trained_seconds,
        "memory_gb": row.memory_gb,
        "last_event": row.when,
        "megabytes": row.megabytes,
        "checkpoints": list(row.checkpoints),
        "resumable": row.resumable,
        "note": row.note,
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in tree.items()}
