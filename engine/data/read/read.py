"""From a path to numbered rows.

What a file is, is told by its bytes, not by its name (`sniff.py`): JSON in its forms (`read_json.py`), tables as
text, parquet or arrow (`read_table.py`), each of them gzipped or not. Anything else that is text is *one* document:
a blank line does not end it, since in a book it ends a paragraph; several documents belong in JSON Lines with a
`text` key. Turns that stand in a row as JSON text are read as turns (`json_text.py`), wherever the row comes from.

A folder stands for the data files in it and below (`folder.py`). A path that is no file but looks like one on the
Hugging Face hub (`name` or `owner/name`) goes to `datasets.load_dataset`; `demo` is the data set that comes with
Evenfall.

The module is light: pyarrow and datasets are imported where they are needed.
"""

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...config.run_config import DatasetConfig
from ..errors import DataError
from ..formats.json_text import read_text_turns
from ..row import SourceRow
from .folder import files_of, same_split
from .read_json import read_json
from .read_table import read_columnar, read_table
from .sniff import is_hub_id, sniff, text_of, unpacked_size
from .threads import conversations, is_threaded


def read_rows(source: DatasetConfig, keep_broken: bool = False) -> Iterator[SourceRow]:
    """Yield the rows of a data set, read as the module's docstring says. Nothing is read before the
    first row is asked for.

    Args:
        keep_broken: a line of JSON Lines or a row of a table that cannot be read is a row that says
            why (`broken`). Where a fault hides where the next row begins, it is an error still.

    Raises:
        DataError: there is no such file or data set, or a row cannot be read.
    """
    rows = _rows(source, keep_broken)
    if source.roles:
        keys = {source.columns.get(key, key) for key in ("role", "from")}
        rows = _with_roles(rows, source.roles, keys)
    for row in conversations(rows, source.columns) if is_threaded(source.columns) else rows:
        if isinstance(row.value, dict):
            for column in source.ignore:
                row.value.pop(column, None)
            read_text_turns(row.value)
        yield row


def _with_roles(rows: Iterator[SourceRow], roles: Mapping[str, str], keys: set[str]) -> Iterator[SourceRow]:
    """The rows with the roles of their turns (or, where a row is one, of the turn) under their own names."""
    for row in rows:
        for turn in _turns_in(row.value, keys):
            for key in keys & turn.keys():
                if isinstance(turn[key], str):
                    turn[key] = roles.get(turn[key], turn[key])
        yield row


def _turns_in(value: Any, keys: set[str]) -> Iterator[dict[str, Any]]:
    """The row itself, turns in its columns, and their replies; not what stands inside a turn, such as arguments."""
    waiting = [value, *(value.values() if isinstance(value, dict) else ())]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            yield one
            waiting += [part for key, part in one.items() if key in ("replies", "messages") or not keys & one.keys()]


def _rows(source: DatasetConfig, keep_broken: bool) -> Iterator[SourceRow]:
    path = source.path
    if path == "demo":
        from ....presets.load import demo_folder

        yield from _read_file(demo_folder() / "train.jsonl", "demo", source)
        return
    file = Path(path).expanduser()
    if file.is_file():
        yield from _read_file(file, path, source, keep_broken)
    elif file.is_dir():
        for inside in files_of(file, path, source.split):
            name = f"{path.rstrip('/')}/{inside.relative_to(file)}"
            yield from _read_file(inside, name, source, keep_broken)
    elif is_hub_id(path):
        yield from _read_hub(source)
    else:
        raise DataError(_no_such_file(path))


def check_path(path: str, key: str) -> None:
    """See that a path is there, or may be on the hub.

    Args:
        key: whose path it is: it stands before the message.

    Raises:
        DataError: it is neither.
    """
    if path != "demo" and not Path(path).expanduser().exists() and not is_hub_id(path):
        raise DataError(f"{key}: {_no_such_file(path)}")


def size_of(source: DatasetConfig) -> int:
    """Bytes of the rows of a data set, unpacked, about; 0 where that is not known before it is read.

    Raises:
        DataError: as `files_of`.
    """
    file = Path(source.path).expanduser()
    if file.is_dir():
        return sum(map(unpacked_size, files_of(file, source.path, source.split)))
    return unpacked_size(file) if file.is_file() else 0


def split_to_evaluate(source: DatasetConfig) -> str:
    """Which split of a folder or hub data set is for evaluation: its validation, else its test split; `train`,
    which stands for all, where there is neither."""
    file = Path(source.path).expanduser()
    if file.is_dir():
        for split in ("validation", "test"):
            with contextlib.suppress(DataError):
                files_of(file, source.path, split)
                return split
    elif not file.exists() and is_hub_id(source.path):
        import datasets

        # As in `_read_hub`; what is wrong with the id is said when it is read.
        with contextlib.suppress(Exception):
            there = datasets.get_dataset_split_names(source.path, source.name)
            named = {same_split(split): split for split in there}
            return named.get("validation") or named.get("test") or "train"
    return "train"


def _no_such_file(path: str) -> str:
    return f"{path}: no such file{_near_miss(Path(path).expanduser())}"


def _near_miss(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; the folder {file.parent} does not exist either"
    names = sorted(item.name for item in file.parent.iterdir() if item.is_file())
    near = difflib.get_close_matches(file.name, names, 3, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _read_file(file: Path, name: str, source: DatasetConfig, keep_broken: bool = False) -> Iterator[SourceRow]:
    kind = sniff(file, name)
    if kind == "json":
        yield from read_json(file, name, source.split, keep_broken)
    elif kind == "table":
        yield from read_table(file, name, source.header, keep_broken)
    elif kind == "text":
        yield SourceRow(file=name, number=1, value=text_of(file, name).replace("\r\n", "\n"))
    else:
        yield from read_columnar(file, name, kind)


def _read_hub(config: DatasetConfig) -> Iterator[SourceRow]:
    import datasets

    path = config.path

    try:
        loaded = datasets.load_dataset(path, config.name, split=config.split)
    # The hub client raises the errors of five libraries (datasets, huggingface_hub, httpx, fsspec,
    # pyarrow); whichever it is, the user needs the id, the message and what to try.
    except Exception as error:
        near = _near_miss(Path(path)) if Path(path).parent.is_dir() else ""
        raise DataError(
            f"{path}: is no file here{near}, and the hub gave no data set "
            f"(name={config.name}, split={config.split}): {type(error).__name__}: {error}"
        ) from error
    label = f"{path} ({', '.join(part for part in (config.name, config.split) if part)})"
    for number, value in enumerate(loaded, 1):
        yield SourceRow(file=label, number=number, value=dict(value))
