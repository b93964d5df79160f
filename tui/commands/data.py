"""`evenfall data check`: what is wrong with data, before any GPU time is spent on them."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...engine.config.run_config import RunConfig


def check(args: argparse.Namespace) -> int:
    """Print what a check finds.

    Exit codes: 0 green or amber; 1 red; 2 the data cannot be read, or something is asked.
    """
    config = _config(args.source, args.overrides)
    from ...engine.machine.libraries import import_libraries
    from ...engine.run.pace import last_pace
    from ..safe_text import safe_str

    import_libraries()
    from ...engine.data.inspector.preview import build_preview

    try:
        found = build_preview(config, _tell, last_pace(config)).check
    finally:
        _tell("", None)
    if args.json:
        import orjson

        print(
            orjson.dumps(
                {"level": found.level, **asdict(found)}, option=orjson.OPT_INDENT_2
            ).decode()
        )
    else:
        from ..words.check import check_lines

        for line in check_lines(found):
            print(safe_str(line))
        print(
            safe_str(
                f"tokenizer   {config.model.name_or_path} (model.name_or_path=... takes another)"
            )
        )
    return 1 if found.level == "red" else 0


def _config(source: str, overrides: list[str]) -> "RunConfig":
    from ...engine.config.run_config import load_config, parse_config

    if (Path(source) / "run.yaml").is_file():  # a run
        source = str(Path(source) / "run.yaml")
    if Path(source).suffix in (".yaml", ".yml"):
        return load_config(source, overrides)
    return parse_config({"data": {"path": source}}).with_overrides(overrides)


def _tell(stage: str, fraction: float | None) -> None:
    """On a terminal, in one line that is written over."""
    if sys.stderr.isatty():
        from ..safe_text import safe_str

        share = "" if fraction is None else f" {100 * fraction:.0f} %"
        print(f"\r\x1b[K{safe_str(stage + share, 78)}", end="", file=sys.stderr, flush=True)
