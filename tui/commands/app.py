"""The app from the command line: whether there is a terminal for it, and the process that it runs in."""

import argparse
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def has_screen(args: argparse.Namespace) -> bool:
    """Whether a command that can do either shows screens: a terminal at both ends, and no --plain."""
    return not args.plain and sys.stdin.isatty() and sys.stdout.isatty()


def open_app(args: argparse.Namespace) -> int:
    """`evenfall` without a command."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("evenfall: the app needs a terminal; see `evenfall --help`", file=sys.stderr)
        return 2
    from ...engine.run.registry import live_runs

    live = next((run.path for run in live_runs() if run.owner and run.owner.is_on_this_machine), None)
    return show_screens(root=Path(args.runs), watch=live)


def show_screens(**options: Any) -> int:
    """Run the app in a process that can outlive this terminal."""
    # What loads until the first paint stays for good: looking through it for garbage, and for
    # pydantic plugins in every installed package, takes a tenth of the time to that paint.
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    for name in ("COLUMNS", "LINES"):  # where they are exported they stand, and a terminal's new size is not asked for
        os.environ.pop(name, None)
    from ..terminal import run_detachable

    def body(release: Callable[[], None]) -> int:
        from ..attended import run_app

        return run_app(release, **options)

    return run_detachable(body)
