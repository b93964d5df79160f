"""Data files that an imported configuration names and this machine has not.

The file may lie on the machine that will train, so this is no refusal. What counts as a file is what a
run takes for one: whatever does not look like an id of the Hugging Face hub (`engine/data/read/sniff.py`).
"""

import os
from pathlib import Path

from ..config.run_config import RunConfig
from ..data.read.sniff import is_hub_id
from .report import Line, setting


def missing_files(config: RunConfig, file: Path) -> list[Line]:
    """A line for each data file that is not there, with the setting that names another.

    Args:
        file: the configuration that was imported; a data file may lie beside it.
    """
    data, lines = config.data, []
    if data.datasets:
        paths = [one.path for one in data.datasets]
        named = [
            one.model_dump(exclude_defaults=True)
            | {"path": _elsewhere(one.path, file) if is_missing(one.path) else one.path}
            for one in data.datasets
        ]
        lines += [_line(path, setting("data.datasets", named)) for path in dict.fromkeys(paths)]
    elif data.path:
        lines.append(_line(data.path, setting("data.path", _elsewhere(data.path, file))))
    if data.eval_path:
        lines.append(_line(data.eval_path, setting("data.eval_path", _elsewhere(data.eval_path, file))))
    return [line for line in lines if is_missing(line.key)]


def is_missing(path: str) -> bool:
    """Whether a run would look for a file or folder here, and find none."""
    return path != "demo" and not _is_there(path) and not is_hub_id(path)


def _is_there(path: str) -> bool:
    # Unlike Path's, these take any text: names that are too long, users that are not there.
    return os.path.exists(os.path.expanduser(path))


def _elsewhere(path: str, file: Path) -> str:
    """The file beside the configuration, where it is there; else a word for it."""
    beside = str(file.parent / path)
    return beside if _is_there(beside) else "FILE"


def _line(path: str, target: str) -> Line:
    folder = os.path.dirname(os.path.expanduser(path)) or "."
    said = "looked for in the working directory" if folder == "." else f"looked for in {folder}"
    if folder != "." and not os.path.isabs(folder):
        said += ", from the working directory"
    if folder != "." and not _is_there(folder):
        said += "; there is no such folder"
    return Line(key=path, value=None, verdict="missing", target=target, said=said)
