"""`evenfall watch`: open a run from any terminal: its screens, with all their keys, or its lines."""

import argparse
from pathlib import Path

from .app import has_screen, show_screens
from .parser import Commands, add_plain, add_run


def add(commands: Commands) -> None:
    parser = commands.add("watch", _watch, "open a run from any terminal: watch it, and steer it while it goes on")
    add_run(parser)
    add_plain(parser)


def _watch(args: argparse.Namespace) -> int:
    from ...engine.run.find import find_run

    run = find_run(args.run, args.runs)
    if has_screen(args):
        return show_screens(root=Path(args.runs), watch=run.path)
    import time

    from ...engine.run.log import EventTail
    from .plain import PlainLines

    lines = PlainLines()
    tail = EventTail(run.events_file)
    while True:
        live = run.is_live()  # before reading: what it wrote last is then read too
        for event in tail.read_new():
            lines(event)
        if not live:
            ending = lines.progress.ending
            if ending is None:
                lines.say_end(live=False)
                lines.say(f"no process trains {run.name}: `evenfall train --resume {run.name}`")
            return 0 if ending in ("finished", "stopped") else 1
        time.sleep(0.5)
