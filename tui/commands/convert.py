"""`evenfall import` and `evenfall config --to`: configurations of other tools, in and out."""

import argparse
from pathlib import Path

from .parser import Commands, add_overrides, path


def add(commands: Commands) -> None:
    bring = commands.add("import", import_file, "take over another tool's configuration, with a report")
    bring.add_argument("file", type=path, metavar="FILE", help="of axolotl, LLaMA-Factory, Unsloth, mlx-lm")
    bring.add_argument("--ignore", action="append", default=[], metavar="KEY", help="leave a key of the file out")
    give = commands.add("config", convert_config, "write a run.yaml as another tool's file")
    give.add_argument("config", metavar="run.yaml", help="the run's configuration")
    give.add_argument("--to", required=True, choices=["trl", "axolotl"], help="whose file")
    for parser, default in ((bring, "run.yaml"), (give, None)):
        add_overrides(parser, "train.learning_rate=1e-4")
        words = f"file to write ({default or 'none: print it'})"
        parser.add_argument("-o", "--output", type=path, default=default, metavar="FILE", help=words)
        parser.add_argument("--force", action="store_true", help="write over a file that is there")


def import_file(args: argparse.Namespace) -> int:
    """Print what an import makes of a file; write run.yaml if nothing stands in its way.

    Exit codes: 0 written; 1 something is refused; 2 something is asked, or cannot be read or written.
    """
    from ...engine.convert.importer import import_config
    from ..safe_text import safe_str
    from .plain import PlainLines

    say = PlainLines().say
    output = Path(args.output)
    report = import_config(args.file, args.overrides, args.ignore)
    # One line at a time: a report is longer than what is said at once.
    for line in report.to_text(_width()).splitlines():
        print(safe_str(line))
    if report.config is None:
        return 1 if report.of("refused") else 2
    _write(output, report.config.to_yaml(), args.force)
    say(f"wrote {output}; train it: evenfall train {output}")
    return 0


def convert_config(args: argparse.Namespace) -> int:
    """Write a run.yaml as another tool's file, to the terminal or to a file."""
    from ...engine.config.run_config import load_config
    from ...engine.convert.to_axolotl import to_axolotl
    from ...engine.convert.to_trl import to_trl
    from ..safe_text import safe_str
    from .plain import PlainLines

    config = load_config(args.config, args.overrides)
    text = to_trl(config) if args.to == "trl" else to_axolotl(config)
    if args.output is None:
        for line in text.splitlines():
            print(safe_str(line, 100_000))
        return 0
    _write(Path(args.output), text, args.force)
    PlainLines().say(f"wrote {args.output}")
    return 0


def _width() -> int:
    import shutil

    return min(max(shutil.get_terminal_size((100, 24)).columns, 40), 120)


def _write(file: Path, text: str, force: bool) -> None:
    from ...engine.convert.report import ConvertError

    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise ConvertError(f"{file}: is there already; name another with -o, or --force") from None
    except OSError as error:
        raise ConvertError(f"{file}: cannot be written: {error.strerror or error}") from error
