"""`evenfall train`: train what a run.yaml says, or take up a run again."""

import argparse
import contextlib
import os
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING

from .app import has_screen, show_screens
from .parser import Commands, add_overrides, add_plain

if TYPE_CHECKING:
    from pathlib import Path

    from ...engine.config.run_config import RunConfig
    from ...engine.run.directory import RunDirectory
    from ...engine.session.session import Session


def add(commands: Commands) -> None:
    parser = commands.add("train", _train, "train what a run.yaml says")
    parser.add_argument("config", nargs="?", metavar="run.yaml", help="the run's configuration")
    parser.add_argument("--resume", metavar="RUN", help="take up a run from its last checkpoint")
    add_overrides(parser, "train.learning_rate=1e-4")
    add_plain(parser)
    add_beside(parser)


def _train(args: argparse.Namespace) -> int:
    from ...engine.config.run_config import ConfigError, load_config
    from ...engine.model.same_base import check_same_base
    from ...engine.run.find import create_run, find_run
    from ...engine.session.ready import check_ready

    if args.resume is not None:
        overrides = [text for text in (args.config, *args.overrides) if text is not None]
        run = find_run(args.resume, args.runs)
        require_over(args, run)
        config = run.config().with_overrides(overrides)  # before anything starts: it may not do
        check_ready(config)
        if overrides:
            if steps := run.checkpoints():
                check_same_base(run.checkpoint(steps[-1]), config.model.name_or_path)
            run.write_config(config.with_whole_paths())
        require_alone(args, config, run)
        return train_run(args, run, resume=True)
    if args.config is None or ("=" in args.config and not os.path.exists(args.config)):
        raise ConfigError("train: name a run.yaml, or --resume RUN")
    overrides = list(args.overrides)
    if args.runs != "runs":
        overrides.append(f"output_dir={args.runs}")
    config = load_config(args.config, overrides)
    check_ready(config)  # before there is a run of which nothing can come
    require_alone(args, config)
    return train_run(args, create_run(config))


def add_beside(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--beside", action="store_true", help="start though another run trains on the same device")


def require_alone(args: argparse.Namespace, config: "RunConfig", run: "RunDirectory | None" = None) -> None:
    """See that no other live run has the device, or that this one may go beside it.

    Raises:
        RunError: another run has it.
    """
    from ...engine.run.directory import RunError
    from ...engine.session.beside import runs_beside

    if args.beside:
        return
    if others := runs_beside(config.train.device, str(run.path.absolute()) if run else ""):
        first = others[0]
        owner = first.owner.told if first.owner else "another process"
        raise RunError(
            f"{first.path}: trains on the same device already ({owner}); two at once are slower, and may not fit",
            f"{_watch_line(args, first.path)} opens it; --beside starts this one beside it",
        )


def require_over(args: argparse.Namespace, run: "RunDirectory") -> None:
    """See that no process trains the run that is to be taken up.

    Raises:
        RunError: one does.
    """
    from ...engine.run.directory import RunError
    from ...engine.run.owner import STALE_SECONDS, read_owner

    if not run.is_live():
        return
    owner = read_owner(run.path)
    hint = f"{_watch_line(args, run.path)} opens it"
    if owner and not owner.is_on_this_machine:
        hint += f"; if that has ended, try again in {STALE_SECONDS:.0f} s"
    raise RunError(f"{run.path}: is being trained by {owner.told if owner else 'another process'}", hint)


def _watch_line(args: argparse.Namespace, run: "Path") -> str:
    from ...engine.run.find import way_to

    return f"evenfall watch {shlex.quote(way_to(run, args.runs))}"


def train_run(
    args: argparse.Namespace,
    run: "RunDirectory",
    *,
    resume: bool = False,
    leave_when_done: bool = False,
) -> int:
    """Train a run with screens or with lines, to its end."""
    if has_screen(args):
        return show_screens(root=run.path.parent, train=run, resume=resume, leave_when_done=leave_when_done)
    from ...engine.session.headless import run_headless
    from ...engine.session.session import Session
    from ..signals import hold_back, stop_on_signals
    from .plain import PlainLines

    hold_back()
    session = Session(run, resume=resume, attended=sys.stdin.isatty())
    lines = PlainLines()
    stopped_by = stop_on_signals(session, lines.say)
    if sys.stdin.isatty():
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # a run in the background is not to halt
        threading.Thread(target=_answer_from_keyboard, args=(session,), daemon=True).start()
    code = run_headless(session, lines)
    return 128 + stopped_by[0] if stopped_by and code == 0 else code


def _answer_from_keyboard(session: "Session") -> None:
    """A number answers an out-of-memory question; anything else is left alone."""
    from ...engine.run.commands import ApplyRecovery
    from ...engine.run.progress import RunProgress

    # Not through sys.stdin: its lock, held by a thread that waits, aborts the interpreter's exit.
    with contextlib.suppress(OSError):
        while data := os.read(0, 4096):
            text = data.decode(errors="replace").strip()
            progress = RunProgress()
            progress.apply_all(session.events_since(0))
            question = progress.out_of_memory
            if question and text.isdecimal() and 0 < int(text) <= len(question.rungs):
                session.submit(ApplyRecovery(question.rungs[int(text) - 1].id))
    session.set_attended(False)  # the keyboard is gone: nobody can answer
