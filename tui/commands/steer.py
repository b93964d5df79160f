"""`evenfall pause | resume | save | eval | set | stop`: a command to a live run, from any terminal or script.

Each waits until the run has answered: done (exit code 0), or refused and why (1). A run that no process trains, or that
cannot be reached from here, is wrong usage (2).
"""

import argparse
import sys
import threading
from typing import TYPE_CHECKING

from .parser import Commands

if TYPE_CHECKING:
    from ...engine.run.commands import Command
    from ...engine.run.directory import RunDirectory

RATE = "train.learning_rate"
PATIENCE_SECONDS = 1.0
"""After so long without an answer a word is said of why."""


def add(commands: Commands) -> None:
    for name, words in (
        ("pause", "pause a live run after its step, memory kept"),
        ("resume", "let a paused run go on"),
        ("save", "have a live run write a checkpoint"),
        ("eval", "have a live run evaluate on its held-out rows"),
    ):
        _add_run(commands.add(name, _plain_command, words)).set_defaults(command=name)
    stop = _add_run(commands.add("stop", _stop, "save a live run and stop it; returns when it has ended"))
    stop.add_argument("--without-saving", action="store_true", help="lose what came after the last checkpoint")
    change = commands.add("set", _set, "change a live run's learning rate from its next step on")
    change.add_argument("words", nargs="+", metavar="[RUN] key=value", help=f"such as {RATE}=5e-5")
    change.add_argument("--hold", action="store_true", help="keep the value to the end; else the schedule is scaled")


def _add_run(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("run", nargs="?", metavar="RUN", help="name, start of one, or folder; else the only live run")
    return parser


def _plain_command(args: argparse.Namespace) -> int:
    from ...engine.run import commands as cmd

    kinds = {"pause": cmd.Pause, "resume": cmd.Resume, "save": cmd.SaveNow, "eval": cmd.EvaluateNow}
    done = {"pause": "paused", "resume": "goes on", "save": "saved", "eval": "evaluated"}
    return _give(_live(args.run, args), kinds[args.command](), done[args.command])


def _stop(args: argparse.Namespace) -> int:
    from ...engine.run.commands import Stop
    from .wait import wait_for

    run = _live(args.run, args)
    code = _give(run, Stop(save=not args.without_saving), "stops")
    return code or wait_for(run)


def _set(args: argparse.Namespace) -> int:
    from ...engine.config.run_config import ConfigError
    from ...engine.run.commands import SetLearningRate

    name, *pairs = args.words if "=" not in args.words[0] else [None, *args.words]
    if len(pairs) != 1:
        raise ConfigError("set: takes one key=value", f"such as {RATE}=5e-5")
    key, equals, text = pairs[0].partition("=")
    if not equals or key != RATE:
        raise ConfigError(
            f"set: {key}: only {RATE} can be changed while a run goes on",
            f"for another: evenfall stop RUN, then evenfall train --resume RUN {key}={text or 'value'}",
        )
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"set: {RATE}: takes a number, got {text!r}", f"such as {RATE}=5e-5") from None
    if not 0 <= value <= 10:  # asked here: NaN and infinity cannot be sent
        raise ConfigError(f"set: {RATE}: takes a number from 0 to 10, got {text!r}", f"such as {RATE}=5e-5")
    return _give(_live(name, args), SetLearningRate(value, "hold" if args.hold else "scale"), f"{key}={value:g}")


def _live(name: str | None, args: argparse.Namespace) -> "RunDirectory":
    from ...engine.run.find import find_live_run

    return find_live_run(name, args.runs)


def _give(run: "RunDirectory", command: "Command", done: str) -> int:
    """Give the command, wait for the answer, and say it."""
    from ...engine.run.events import CommandApplied
    from ...engine.session.attach import ask, owner_of
    from ..safe_text import safe_str

    waiting = threading.Timer(
        PATIENCE_SECONDS,
        lambda: print(f"{safe_str(run.name)}: asked, waits for the run's step to end", file=sys.stderr, flush=True),
    )
    waiting.daemon = True
    try:
        answer = ask(owner_of(run.path), command, waiting.start)
    finally:
        waiting.cancel()
    if isinstance(answer, CommandApplied):
        print(safe_str(f"{run.name}: {done}, after step {answer.step}{_found(run, command)}"))
        return 0
    print(safe_str(f"{run.name}: refused: {answer.why}", 1000), file=sys.stderr)
    return 1


def _found(run: "RunDirectory", command: "Command") -> str:
    """What an evaluation came to."""
    from ...engine.run.commands import EvaluateNow
    from ..words.run_figures import evaluation_words

    words = evaluation_words(run.progress()) if isinstance(command, EvaluateNow) else ""
    return f": {words}" if words else ""
