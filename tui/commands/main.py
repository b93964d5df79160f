"""The command `evenfall`: the app, and every part of it without screens.

A command is a file of this folder: its `add` tells its options, the function beside it does the work. Nothing heavy
loads before it is known that it is needed: the app paints while torch is imported behind it, and `--help` answers at
once. Exit codes: 0 done; 1 failed, or refused by the live run that was asked; 2 wrong usage or a configuration, file or
run that cannot be used (not live, for a command to a live run); 3 ended because memory ran out; 130 ended by Ctrl-C and
143 by SIGTERM (saved first).
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from ...engine.errors import UserError
from ...engine.machine.allocator import grow_segments
from . import bench, chat, convert, data, demo, doctor, export, runs, steer, train, wait, watch
from .app import open_app
from .parser import Commands, Handler, ShowVersion


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code."""
    args = _parse(argv)
    # It tells each import that an optional kernel of another package is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)  # for developers of libraries
    handler: Handler = args.handler
    if handler is not bench.measure:  # other stacks are measured as they are
        grow_segments()
    try:
        return handler(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has what it wants; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        from ..safe_text import safe_str

        print(f"evenfall: {safe_str(error.told(), 4096, lines=True)}", file=sys.stderr)
        return 2


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments, with words that come after an option added to those before it (argparse's own
    parser takes `train run.yaml --plain key=value` for an error)."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    for name in ("overrides", "forms"):
        if hasattr(args, name) and not any(word.startswith("-") for word in rest):
            setattr(args, name, [*getattr(args, name), *rest])
            rest = []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evenfall",
        description="Fine-tune a language model in an evening, from a terminal.",
        epilog="Without a command: the app. Keys are shown in it; ? lists them.",
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="show the version")
    parser.set_defaults(handler=open_app, runs="runs")
    commands = Commands(parser)
    for command in (demo, train, watch, steer, wait, runs, chat, export, convert, data, doctor, bench):
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
