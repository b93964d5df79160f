"""`evenfall data check`: what is wrong with data, before any GPU time is spent on them."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .parser import Commands, add_overrides

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...engine.config.run_config import RunConfig
    from ...engine.data.inspector.first_row import FirstRow
    from ...engine.data.report.findings import DataCheck


def add(commands: Commands) -> None:
    parser = commands.add("data", check, "check data before they are trained on")
    parser.add_argument("what", choices=["check"], help="look for what goes wrong in training")
    parser.add_argument("source", metavar="PATH", help="run.yaml, or data: file, folder, hub id, demo")
    add_overrides(parser, "data.max_length=1024")
    parser.add_argument("--json", action="store_true", help="print all that was found as JSON")


def check(args: argparse.Namespace) -> int:
    """Print what a check finds.

    Exit codes: 0 green or amber; 1 red; 2 the data cannot be read, or something is asked.
    """
    config = _config(args.source, args.overrides)
    from ...engine.data.prepare.begun import begin_processes, end_processes
    from ..safe_text import safe_str

    begin_processes(config)
    try:
        found = _found(config, None if args.json else _tell_first)
    finally:
        end_processes()
        _tell("", None)
    if args.json:
        import orjson

        print(orjson.dumps({"level": found.level, **asdict(found)}, option=orjson.OPT_INDENT_2).decode())
    else:
        from ..words.check import check_lines

        for line in check_lines(found):
            print(safe_str(line))
        print(safe_str(f"tokenizer   {config.model.name_or_path} (model.name_or_path=... takes another)"))
    return 1 if found.level == "red" else 0


def _found(config: "RunConfig", first_told: "Callable[[FirstRow], None] | None") -> "DataCheck":
    from ...engine.run.pace import last_pace
    from ...engine.session.imports import import_for_data

    import_for_data()
    from ...engine.data.inspector.preview import build_preview

    return build_preview(config, _tell, last_pace(config), first_told).check


def _tell_first(row: "FirstRow") -> None:
    from ..safe_text import safe_str
    from ..words.check import first_row_lines

    _tell("", None)
    for line in first_row_lines(row):
        print(safe_str(line))
    print(flush=True)


def _config(source: str, overrides: list[str]) -> "RunConfig":
    from ...engine.config.run_config import ConfigError, load_config, parse_config

    if not source:
        raise ConfigError("the path of the data is empty", "name a run.yaml, a file, a folder, a hub id or demo")
    if (Path(source) / "run.yaml").is_file():  # a run
        source = str(Path(source) / "run.yaml")
    if Path(source).suffix in (".yaml", ".yml"):
        try:
            return load_config(source, overrides)
        except ConfigError as error:
            if not _has_none_of_the_keys(source):
                raise
            raise ConfigError(
                f"{source}: is no run.yaml: it has none of its sections",
                "rows in YAML are not read: write them as JSON Lines, one object in each line; another tool's "
                "configuration is read by evenfall import",
            ) from error
    return parse_config({"data": {"path": source}}).with_overrides(overrides)


def _has_none_of_the_keys(source: str) -> bool:
    import yaml

    from ...engine.config.run_config import RunConfig
    from ...engine.config.yaml12 import load_yaml

    try:
        tree = load_yaml(Path(source).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(tree, list) or (
        isinstance(tree, dict) and bool(tree) and not tree.keys() & RunConfig.model_fields.keys()
    )


def _tell(stage: str, fraction: float | None) -> None:
    """On a terminal, in one line that is written over."""
    if sys.stderr.isatty():
        from ..safe_text import safe_str

        share = "" if fraction is None else f" {100 * fraction:.0f} %"
        print(f"\r\x1b[K{safe_str(stage + share, 78)}", end="", file=sys.stderr, flush=True)
