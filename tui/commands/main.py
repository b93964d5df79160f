"""The command `evenfall`: the app, and every part of it without screens.

Nothing heavy loads before it is known that it is needed: the app paints while torch is imported behind
it, and `--help` answers at once. Exit codes: 0 done; 1 failed; 2 wrong usage or a configuration, file
or run that cannot be used; 3 ended because memory ran out; 130 ended by Ctrl-C and 143 by SIGTERM
(saved first).
"""

import argparse
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine.machine.allocator import grow_segments

if TYPE_CHECKING:
    from ...engine.run.directory import RunDirectory
    from ...engine.session.session import Session


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the process's exit code."""
    args = _parse(argv)
    # It tells each import that an optional kernel of another package is not installed.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)  # for developers of libraries
    handler: Callable[[argparse.Namespace], int] = args.handler
    if handler is not _bench:  # other stacks are measured as they are
        grow_segments()
    try:
        return handler(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has what it wants; Python would flush once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except _usable_errors() as error:
        from ..safe_text import safe_str

        print(f"evenfall: {safe_str(error, 4096, lines=True)}", file=sys.stderr)
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


class _ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: that takes a tenth of the first paint."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(_version())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evenfall",
        description="Fine-tune a language model in an evening, from a terminal.",
        epilog="Without a command: the app. Keys are shown in it; ? lists them.",
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version")
    parser.set_defaults(handler=_app, runs="runs")
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument(
        "--runs", default="runs", metavar="DIR", help="folder with run directories (runs/)"
    )
    commands = parser.add_subparsers(title="commands", metavar="")

    def command(
        name: str, handler: Callable[[argparse.Namespace], int], words: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words, parents=[runs])
        sub.set_defaults(handler=handler)
        return sub

    demo = command("demo", _demo, "train a tiny model offline and show what it learnt")
    train = command("train", _train, "train what a run.yaml says")
    train.add_argument("config", nargs="?", metavar="run.yaml", help="the run's configuration")
    train.add_argument("--resume", metavar="RUN", help="take up a run from its last checkpoint")
    for sub in (demo, train):
        sub.add_argument(
            "overrides", nargs="*", metavar="key=value", help="such as train.learning_rate=1e-4"
        )
        sub.add_argument("--plain", action="store_true", help="progress lines instead of screens")
    watch = command("watch", _watch, "follow a run, read-only, from any terminal")
    watch.add_argument("run", metavar="RUN", help="name, start of a name, or folder")
    watch.add_argument("--plain", action="store_true", help="progress lines instead of screens")
    command("runs", _runs, "list the runs")
    chat = command("chat", _chat, "ask a run's model, with and without its adapter")
    chat.add_argument("run", metavar="RUN", help="name, start of a name, or folder")
    chat.add_argument("--max-new-tokens", type=int, default=256, metavar="N")
    chat.add_argument("--temperature", type=float, default=0.0, metavar="T")
    export = command("export", _export, "write the adapter or the merged model, checked")
    export.add_argument("run", metavar="RUN", help="name, start of a name, or folder")
    export.add_argument("forms", nargs="*", metavar="FORM", help="adapter, merged")
    export.add_argument("--checkpoint", type=int, metavar="STEP", help="instead of the final one")
    _add_convert_options(
        command("import", _import, "take over another tool's configuration, with a report"),
        command("config", _config, "write a run.yaml as another tool's file"),
    )
    data = command("data", _check_data, "check data before they are trained on")
    data.add_argument("what", choices=["check"], help="look for what goes wrong in training")
    data.add_argument(
        "source", metavar="PATH", help="run.yaml, or data: file, folder, hub id, demo"
    )
    data.add_argument(
        "overrides", nargs="*", metavar="key=value", help="such as data.max_length=1024"
    )
    data.add_argument("--json", action="store_true", help="print all that was found as JSON")
    command("doctor", _doctor, "check GPU, driver, versions, kernels, disk and memory")
    _add_bench_options(
        command("bench", _bench, "measure the speed of training, and of other stacks")
    )
    return parser


def _add_convert_options(bring: argparse.ArgumentParser, give: argparse.ArgumentParser) -> None:
    bring.add_argument("file", metavar="FILE", help="of axolotl, LLaMA-Factory, Unsloth, mlx-lm")
    bring.add_argument(
        "--ignore", action="append", default=[], metavar="KEY", help="leave a key of the file out"
    )
    give.add_argument("config", metavar="run.yaml", help="the run's configuration")
    give.add_argument("--to", required=True, choices=["trl", "axolotl"], help="whose file")
    for sub, default in ((bring, "run.yaml"), (give, None)):
        sub.add_argument(
            "overrides", nargs="*", metavar="key=value", help="such as train.learning_rate=1e-4"
        )
        words = f"file to write ({default or 'none: print it'})"
        sub.add_argument("-o", "--output", default=default, metavar="FILE", help=words)
        sub.add_argument("--force", action="store_true", help="write over a file that is there")


def _add_bench_options(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("shape", nargs="?", default="8b", choices=["8b", "1b", "tiny"], help="(8b)")
    for name, default, words in (
        ("rows", None, "rows of a step, with --data bins (16,384 tokens' worth)"),
        ("length", 2048, "tokens of a random row (2048)"),
        ("steps", 10, "timed steps (10)"),
        ("warmup", 4, "steps before them (4)"),
        ("pack", 8192, "tokens of a bin of real rows (8192)"),
        ("rank", 16, "of the adapter (16)"),
    ):
        bench.add_argument(f"--{name}", type=int, default=default, metavar="N", help=words)
    bench.add_argument("--data", metavar="FILE", help="real rows, packed, instead of random ones")
    bench.add_argument("--recompute", action="store_true", help="recompute activations")
    bench.add_argument(
        "--against", default="", metavar="STACKS",
        help="do the same work with trl, liger, unsloth, unsloth:default (comma between)",
    )  # fmt: skip
    bench.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    bench.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the random model for next time"
    )


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("evenfall")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+checkout"


def _usable_errors() -> tuple[type[BaseException], ...]:
    """Errors whose message is written for the user; only what is loaded can have been raised."""
    names = {
        "engine.config.run_config": "ConfigError",
        "engine.convert.report": "ConvertError",
        "engine.run.directory": "RunError",
        "engine.model.tokenizer": "LoadError",
        "engine.machine.device": "DeviceError",
        "engine.data.errors": "DataError",
        "engine.export.run": "ExportError",
        "engine.bench.work": "BenchError",
        "presets.load": "PresetError",
    }
    package = (__package__ or "").rpartition(".tui")[0]  # not __name__: it may be `__main__`
    return tuple(
        getattr(module, name)
        for path, name in names.items()
        if (module := sys.modules.get(f"{package}.{path}"))
    )


def _has_screen(args: argparse.Namespace) -> bool:
    return not args.plain and sys.stdin.isatty() and sys.stdout.isatty()


def _app(args: argparse.Namespace) -> int:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print("evenfall: the app needs a terminal; see `evenfall --help`", file=sys.stderr)
        return 2
    return _screens(root=Path(args.runs))


def _screens(**options: Any) -> int:
    """Run the app in a process that can outlive this terminal."""
    # What loads until the first paint stays for good: looking through it for garbage, and for
    # pydantic plugins in every installed package, takes a tenth of the time to that paint.
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    from ..terminal import run_detachable

    def body(release: Callable[[], None]) -> int:
        from ..attended import run_app

        return run_app(release, **options)

    return run_detachable(body)


def _demo(args: argparse.Namespace) -> int:
    from ...engine.inference.demo import demo_config
    from ...engine.run.directory import create_run

    run = create_run(demo_config([f"output_dir={args.runs}", *args.overrides]))
    code = _run(args, run, leave_when_done=True)
    if code == 0 and run.adapter.exists():
        return _show_demo(run)
    return code


def _show_demo(run: "RunDirectory") -> int:
    from ...engine.inference.demo import compare_answers
    from .plain import PlainLines

    say = PlainLines().say
    say("\nThe same questions, asked of the model before and after:\n")
    answers = compare_answers(run, lambda message, fraction: None)
    for answer in answers:
        mark = "✓" if answer.learnt else "✗"
        say(f"{mark} {answer.question}\n    before  {answer.before}\n    after   {answer.after}")
        if not answer.learnt:
            say(f"    wanted  {answer.expected}")
    learnt = sum(answer.learnt for answer in answers)
    say(
        f"\n{learnt} of {len(answers)} answered right only after training."
        f"\nGo on:  evenfall chat {run.name}  ·  evenfall export {run.name} merged  ·  evenfall"
    )
    return 0 if learnt * 2 > len(answers) else 1


def _train(args: argparse.Namespace) -> int:
    from ...engine.config.run_config import ConfigError, load_config
    from ...engine.run.directory import create_run, find_run

    if args.resume:
        overrides = [text for text in (args.config, *args.overrides) if text]
        run = find_run(args.resume, args.runs)
        if overrides:
            run.write_config(run.config().with_overrides(overrides))
        return _run(args, run, resume=True)
    if not args.config:
        raise ConfigError("train: name a run.yaml, or --resume RUN")
    overrides = list(args.overrides)
    if args.runs != "runs":
        overrides.append(f"output_dir={args.runs}")
    return _run(args, create_run(load_config(args.config, overrides)))


def _run(
    args: argparse.Namespace,
    run: "RunDirectory",
    *,
    resume: bool = False,
    leave_when_done: bool = False,
) -> int:
    """Train a run with screens or with lines, to its end."""
    if _has_screen(args):
        return _screens(
            root=run.path.parent, train=run, resume=resume, leave_when_done=leave_when_done
        )
    from ...engine.session.session import Session, run_headless
    from .plain import PlainLines

    session = Session(run, resume=resume, attended=sys.stdin.isatty())
    lines = PlainLines()
    stopped_by = _stop_on_signals(session, lines)
    if sys.stdin.isatty():
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)  # a run in the background is not to halt
        threading.Thread(target=_answer_from_keyboard, args=(session,), daemon=True).start()
    code = run_headless(session, lines)
    return 128 + stopped_by[0] if stopped_by and code == 0 else code


def _stop_on_signals(session: "Session", lines: Any) -> list[int]:
    """Ctrl-C and SIGTERM save and stop; a hang-up is no reason to end a run.

    Returns:
        The signals that came, as they come.
    """
    from ...engine.run.events import Stop

    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        if number == signal.SIGINT and came:
            os._exit(130)  # any other way out waits for the worker; on disk all is whole
        came.append(number)
        session.submit(Stop(save=True))
        with contextlib.suppress(RuntimeError):  # it came in the middle of another line
            lines.say("saving and stopping after this step (Ctrl-C again: end at once)")

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, lambda *_: session.set_attended(False))
    return came


def _answer_from_keyboard(session: "Session") -> None:
    """A number answers an out-of-memory question; anything else is left alone."""
    from ...engine.run.events import ApplyRecovery
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


def _watch(args: argparse.Namespace) -> int:
    from ...engine.run.directory import find_run

    run = find_run(args.run, args.runs)
    if _has_screen(args):
        return _screens(root=Path(args.runs), watch=run)
    import time

    from ...engine.run.directory import EventTail
    from .plain import PlainLines

    lines = PlainLines()
    tail = EventTail(run.events_file)
    while True:
        live = run.is_live()  # before reading: what it wrote last is then read too
        for event in tail.read_new():
            lines(event)
        if not live:
            state = lines.progress.state
            if state not in ("finished", "failed", "out-of-memory"):
                lines.say(f"no process trains {run.name}: `evenfall train --resume {run.name}`")
                return 1
            return 0 if state == "finished" else 1
        time.sleep(0.5)


def _runs(args: argparse.Namespace) -> int:
    from ...engine.run.directory import list_runs
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


def _chat(args: argparse.Namespace) -> int:
    from ...engine.machine.libraries import import_libraries
    from ...engine.run.directory import find_run

    run = find_run(args.run, args.runs)
    import_libraries()
    engine = importlib.import_module("...engine.inference.chat", __package__)
    talk = importlib.import_module(".chat", __package__)
    chat = engine.Chat.open(run, talk.report)
    return talk.talk(chat, max_new_tokens=args.max_new_tokens, temperature=args.temperature)


def _export(args: argparse.Namespace) -> int:
    from ...engine.machine.libraries import import_libraries
    from ...engine.run.directory import find_run
    from .plain import PlainLines

    say = PlainLines().say
    run = find_run(args.run, args.runs)
    import_libraries()
    from ...engine.export.run import export_run

    done = export_run(
        run, args.forms, checkpoint=args.checkpoint, report=lambda text, fraction: say(text)
    )
    for item in done:
        say(f"{item.form}: {item.path} ({item.megabytes:.1f} MB); {item.check}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from .convert import import_file

    return import_file(args)


def _config(args: argparse.Namespace) -> int:
    from .convert import convert_config

    return convert_config(args)


def _check_data(args: argparse.Namespace) -> int:
    from .data import check

    return check(args)


def _doctor(args: argparse.Namespace) -> int:
    del args
    from ...engine.doctor.checks import exit_code, format_check, run_checks
    from .plain import PlainLines

    say = PlainLines().say
    checks = []
    for check in run_checks():
        checks.append(check)
        say(format_check(check))
    return exit_code(checks)


def _bench(args: argparse.Namespace) -> int:
    from ...engine.bench.report import report_tree
    from ...engine.bench.run import Options, run_bench
    from ...engine.bench.stacks import parse_against
    from ...engine.bench.table import format_report
    from ...engine.bench.work import BenchError, to_json
    from ...engine.run.directory import write_atomic
    from ..safe_text import safe_str
    from .plain import PlainLines

    if args.json and not args.json.absolute().parent.is_dir():
        raise BenchError(f"--json {args.json}: there is no such folder")
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that its processes and folders go too
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    options = Options(
        args.shape, args.rows, args.length, args.steps, args.warmup, args.data, args.pack,
        args.recompute, args.rank, parse_against(args.against), args.keep,
    )  # fmt: skip
    report = run_bench(
        options, lambda text: print(safe_str(text, 400), file=sys.stderr, flush=True)
    )
    PlainLines().say(format_report(report))
    if args.json:
        write_atomic(args.json, to_json(report_tree(report)))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
