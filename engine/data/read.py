"""From a path to numbered rows.

What a file is, is told by its bytes, not by its name (`sniff.py`): JSON in its forms (`read_json.py`), tables as
text, parquet or arrow (`read_table.py`), each of them gzipped or not. Anything else that is text is *one* document:
a blank line does not end it, since in a book it ends a paragraph; several documents belong in JSON Lines with a
`text` key. Turns that stand in a row as JSON text are read as turns (`json_text.py`), wherever the row comes from.

A folder stands for the data files in it and below. Where their names say which split they are (`train-00000.parquet`,
`test/rows.jsonl`), those of `split` are taken. A path that is no file but looks like one on the Hugging Face hub
(`name` or `owner/name`) goes to `datasets.load_dataset`; `demo` is the data set that comes with Evenfall.

The module is light: pyarrow and datasets are imported where they are needed.
"""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from ..config import DatasetConfig
from .errors import DataError, listed
from .json_text import read_text_turns
from .read_json import read_array, read_objects
from .read_table import read_columnar, read_table
from .row import SourceRow
from .sniff import SUFFIXES, sniff, suffix_of, text_of, unpacked_size

_HUB_ID = re.compile(r"\w[\w.\-]{0,95}(/\w[\w.\-]{0,95})?")
_NO_HUB_SUFFIXES = {*SUFFIXES, ".gz", ".xlsx", ".zip", ".zst"}
_SPLITS = {"train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval"}
_NOT_DATA = re.compile(
    r"(readme|license|licence|changelog|citation|contributing)(\..*)?"
    r"|dataset_infos?\.json|dataset_dict\.json|state\.json|\..*",
    re.IGNORECASE,
)
"""Files beside the data of a data set: what people and the `datasets` library write about it."""


def read_rows(source: DatasetConfig, keep_broken: bool = False) -> Iterator[SourceRow]:
    """Yield the rows of a data set, read as the module's docstring says. Nothing is read before the
    first row is asked for.

    Args:
        keep_broken: a line of JSON Lines or a row of a table that cannot be read is a row that says
            why (`broken`). Where a fault hides where the next row begins, it is an error still.

    Raises:
        DataError: there is no such file or data set, or a row cannot be read.
    """
    for row in _rows(source, keep_broken):
        if isinstance(row.value, dict):
            read_text_turns(row.value)
        yield row


def _rows(source: DatasetConfig, keep_broken: bool) -> Iterator[SourceRow]:
    path = source.path
    if path == "demo":
        from ...presets.load import demo_folder

        yield from _read_file(demo_folder() / "train.jsonl", "demo")
        return
    file = Path(path).expanduser()
    if file.is_file():
        yield from _read_file(file, path, keep_broken)
    elif file.is_dir():
        for inside in files_of(file, path, source.split):
            name = f"{path.rstrip('/')}/{inside.relative_to(file)}"
            yield from _read_file(inside, name, keep_broken)
    elif _HUB_ID.fullmatch(path) and file.suffix.lower() not in _NO_HUB_SUFFIXES:
        yield from _read_hub(source)
    else:
        raise DataError(f"{path}: no such file{_near_miss(file)}")


def size_of(source: DatasetConfig) -> int:
    """Bytes of the rows of a data set, unpacked, about; 0 where that is not known before it is read.

    Raises:
        DataError: as `files_of`.
    """
    file = Path(source.path).expanduser()
    if file.is_dir():
        return sum(map(unpacked_size, files_of(file, source.path, source.split)))
    return unpacked_size(file) if file.is_file() else 0


def files_of(folder: Path, name: str, split: str) -> list[Path]:
    """The data files in a folder and below, in the order of their paths.

    Raises:
        DataError: there are none; none of the split; or data files beside text files, of which
            either may be meant.
    """
    inside = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and suffix_of(file) in SUFFIXES
        and not any(_NOT_DATA.fullmatch(part) for part in file.relative_to(folder).parts)
    ]
    if not inside:
        there = listed(sorted(item.name for item in folder.iterdir()))
        raise DataError(f"{name}: the folder holds no data files; it holds {there}")
    of_splits = {file: _split_of(file.relative_to(folder)) for file in inside}
    if any(of_splits.values()):
        wanted = _same_split(split)
        inside = [
            file for file, found in of_splits.items() if found and _same_split(found) == wanted
        ]
        if not inside:
            found = listed(sorted({one for one in of_splits.values() if one}))
            raise DataError(
                f"{name}: no file in the folder is of the split `{split}`; there are {found}. Set "
                "data.split, or name one file"
            )
    text = [file for file in inside if suffix_of(file) in (".md", ".txt", ".text")]
    if text and len(text) < len(inside):
        data = next(file for file in inside if file not in text)
        raise DataError(
            f"{name}: the folder holds rows (such as {data.name}) and running text (such as "
            f"{text[0].name}); name the file, or move what is not meant"
        )
    return inside


def _split_of(path: Path) -> str | None:
    """The split that a file's name, or a folder above it, says it is of."""
    for part in reversed(path.parts):
        words = re.split(r"[^a-z]+", part.lower())
        found = next((word for word in words if word in _SPLITS), None)
        if found:
            return found
    return None


def _same_split(split: str) -> str:
    word = split.lower()
    for name, begin in (("train", "train"), ("test", "test"), ("validation", "val")):
        if word.startswith(begin):
            return name
    return {"dev": "validation", "eval": "validation"}.get(word, word)


def _near_miss(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; the folder {file.parent} does not exist either"
    names = sorted(item.name for item in file.parent.iterdir() if item.is_file())
    near = difflib.get_close_matches(file.name, names, 3, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _read_file(file: Path, name: str, keep_broken: bool = False) -> Iterator[SourceRow]:
    kind = sniff(file, name)
    if kind == "array":
        yield from read_array(file, name)
    elif kind == "object":
        yield from read_objects(file, name, keep_broken)
    elif kind == "table":
        yield from read_table(file, name, keep_broken)
    elif kind == "text":
        yield SourceRow(name, 1, text_of(file, name).replace("\r\n", "\n"))
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
        yield SourceRow(label, number, dict(value))
