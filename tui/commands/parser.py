"""What the files of this folder share: a command's parser, and whether there are screens."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

Handler = Callable[[argparse.Namespace], int]
"""Runs a command and returns the process's exit code."""


class Commands:
    """The commands of `evenfall`. Each file adds its own: `commands.add("runs", _run, "list the runs")`."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(title="commands", metavar="COMMAND")
        self._shared = argparse.ArgumentParser(add_help=False)
        self._shared.add_argument(
            "--runs",
            default="runs",
            type=folder,
            metavar="DIR",
            help="folder with run directories (runs/)",
        )

    def add(self, name: str, handler: Handler, words: str) -> argparse.ArgumentParser:
        """A command's own parser, for its options."""
        parser = self._parsers.add_parser(name, help=words, description=words, parents=[self._shared])
        parser.set_defaults(handler=handler)
        return parser


def path(text: str) -> str:
    """The type of an argument that is a file or a folder.

    Raises:
        ArgumentTypeError: it is empty, and would be this very folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def folder(text: str) -> str:
    """The type of an argument that is a folder, or is to be one.

    Raises:
        ArgumentTypeError: it is empty, or a file.
    """
    if Path(path(text)).is_file():
        raise argparse.ArgumentTypeError(f"{text} is a file; it takes a folder")
    return text


def positive(text: str) -> int:
    """The type of an argument that is a whole number from 1.

    Raises:
        ArgumentTypeError: it is another.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1")
    return int(text)


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Words such as `train.learning_rate=1e-4`, which set keys of a run.yaml."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help=f"such as {example}")


def add_run(parser: argparse.ArgumentParser) -> None:
    """A run that is there."""
    parser.add_argument("run", metavar="RUN", help="name, start of a name, or folder")


def add_plain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plain", action="store_true", help="progress lines instead of screens")


class ShowVersion(argparse.Action):
    """Looks the version up only when it is asked for: that takes a tenth of the first paint."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("evenfall"))
        except PackageNotFoundError:  # run from a checkout that is not installed
            print("0+checkout")
        parser.exit()
