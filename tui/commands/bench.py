"""`evenfall bench`: how fast it trains here, beside other stacks on the same work."""

import argparse
import sys
from pathlib import Path

from .parser import Commands, path


def add(commands: Commands) -> None:
    words = "measure the speed of training, and of other stacks"
    parser = commands.add("bench", measure, words)
    parser.add_argument("shape", nargs="?", default="8b", choices=["8b", "1b", "tiny"], help="(8b)")
    for name, default, words in (
        ("rows", None, "rows of a step, with --data bins (16,384 tokens' worth)"),
        ("length", 2048, "tokens of a random row (2048)"),
        ("steps", 10, "timed steps (10)"),
        ("warmup", 4, "steps before them (4)"),
        ("pack", 8192, "tokens of a bin of real rows (8192)"),
        ("rank", 16, "of the adapter (16)"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=words)
    parser.add_argument("--data", type=path, metavar="FILE", help="real rows, packed, instead of random ones")
    parser.add_argument("--recompute", action="store_true", help="recompute activations")
    parser.add_argument(
        "--against", default="", metavar="STACKS",
        help="do the same work with trl, liger, unsloth, unsloth:default (comma between)",
    )  # fmt: skip
    parser.add_argument("--json", type=path, metavar="FILE", help="write all figures there")
    parser.add_argument("--keep", type=path, metavar="DIR", help="keep the random model for next time")


def measure(args: argparse.Namespace) -> int:
    from ...engine.bench.report import report_tree
    from ...engine.bench.run import Options, run_bench
    from ...engine.bench.stacks import parse_against
    from ...engine.bench.table import format_report
    from ...engine.bench.work import BenchError, to_json
    from ...engine.run.files import write_atomic
    from ..safe_text import safe_str
    from ..signals import exit_on_signals
    from .plain import PlainLines

    written = Path(args.json) if args.json else None
    if written and not written.absolute().parent.is_dir():
        raise BenchError(f"--json {written}: there is no such folder")
    exit_on_signals()  # so that its processes and folders go too
    options = Options(
        shape=args.shape,
        rows=args.rows,
        length=args.length,
        steps=args.steps,
        warmup=args.warmup,
        data=args.data,
        pack=args.pack,
        recompute=args.recompute,
        rank=args.rank,
        against=parse_against(args.against),
        keep=Path(args.keep) if args.keep else None,
    )
    report = run_bench(options, lambda text: print(safe_str(text, 400), file=sys.stderr, flush=True))
    PlainLines().say(format_report(report))
    if written:
        write_atomic(written, to_json(report_tree(report)))
    return report.exit_code
