"""`evenfall wait`: until a run has ended; its end as an exit code."""

import argparse
import time
from typing import TYPE_CHECKING

from .parser import Commands

if TYPE_CHECKING:
    from ...engine.run.directory import RunDirectory

CODES = {"finished": 0, "stopped": 0, "out-of-memory": 3}
"""A run's state once no process trains it -> exit code; 1 for every other."""


def add(commands: Commands) -> None:
    parser = commands.add("wait", _wait, "wait until a run has ended; the exit code says how")
    parser.add_argument("run", nargs="?", metavar="RUN", help="name, start of one, or folder; else the only live run")


def _wait(args: argparse.Namespace) -> int:
    from ...engine.run.find import find_live_run, find_run

    return wait_for(find_live_run(None, args.runs) if args.run is None else find_run(args.run, args.runs))


def wait_for(run: "RunDirectory") -> int:
    """Wait until no process trains a run, say how it ended, and return the exit code for that."""
    from ..safe_text import safe_str
    from .plain import end_line

    while run.is_live():
        time.sleep(0.2)
    progress = run.progress()
    print(safe_str(f"{run.name}: {end_line(progress, live=False)}", 1000))
    return CODES.get(progress.shown_state(live=False), 1)
