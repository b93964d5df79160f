"""Which files of a folder are its rows.

A file is data by its suffix, or, where its name has none, by its bytes. What people and the `datasets` library write
beside data (a README, a licence, `dataset_info.json`) is none. Data in a form that is not read, such as a
spreadsheet or what zstd packed, is an error and not passed over: the rows in it would be missed by nobody.

A name may say which split a file is of: a word such as `train` or `dev` as the name of a folder, or with which a
name begins or ends (`train.jsonl`, `train_sft-00000-of-00003.parquet`, `my_data.test.csv`). Where all names do,
those of `split` are taken. Where only some do, the word may just as well be the subject (`dev_tools.jsonl` beside
`python.jsonl`), so that has to be said: by a split that is not the default, or by naming the files.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError, listed
from .sniff import SUFFIXES, TEXT_SUFFIXES, ClosedFile, sniff, suffix_of

_NOTES = re.compile(
    r"(readme|licen[sc]e|copying|notice|authors|changelog|changes|citation|contributing|code_of_conduct"
    r"|security|data(set)?[-_ ]?card)([-_. ].*)?",
    re.IGNORECASE,
)
"""What people write beside data: names of files of text, or without a suffix."""
_BY_DATASETS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
_CLOSED_SUFFIXES = {
    ".7z", ".avro", ".bz2", ".lz4", ".ods", ".orc", ".pickle", ".pkl", ".rar", ".tar", ".tgz", ".xls", ".xlsx",
    ".xz", ".zip", ".zst", ".zstd",
}  # fmt: skip
"""Of files that rows are kept in and that are not read."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
}
"""Words in names -> the split that they mean."""
_SHARD = re.compile(r"[-_.]?\d+([-_.]of[-_.]\d+)?$")


def files_of(folder: Path, name: str, split: str) -> list[Path]:
    """The data files in a folder and below, in the order of their paths.

    Args:
        name: the folder as the user gave it, for errors.

    Raises:
        DataError: there are none; none of the split; some of which it cannot be told; or what may or
            may not be meant: files that cannot be read, and running text beside rows.
    """
    data, closed = _data_in(folder)
    if not data and not closed:
        there = listed(sorted(item.name for item in folder.iterdir()))
        raise DataError(f"{name}: the folder holds no data files; it holds {there}")
    taken = _of_split(sorted([*data, *closed]), folder, name, split)
    unread = [_inside(file, folder) for file in taken if file in closed]
    if unread:
        rest = ", or name those to read" if len(unread) < len(taken) else ""
        raise DataError(
            f"{name}: the folder holds files that cannot be read: {listed(unread)}; expected JSON, "
            "CSV, parquet, arrow or text, plain or gzipped. Unpack or convert them, or move them "
            f"away{rest}"
        )
    text = [file for file in taken if suffix_of(file) in TEXT_SUFFIXES]
    if text and len(text) < len(taken):
        rows = next(file for file in taken if file not in text)
        raise DataError(
            f"{name}: the folder holds rows (such as {rows.name}) and running text (such as "
            f"{text[0].name}); name the file, or move what is not meant"
        )
    return taken


def same_split(split: str) -> str:
    """A split under the name that its synonyms share: `val` and `dev` are `validation`."""
    word = split.lower()
    for name, begin in (("train", "train"), ("test", "test"), ("validation", "val")):
        if word.startswith(begin):
            return name
    return SPLITS.get(word, word)


def _data_in(folder: Path) -> tuple[list[Path], set[Path]]:
    """(data files, those that look like data and cannot be read)."""
    data: list[Path] = []
    closed: set[Path] = set()
    bare: list[Path] = []
    for file in folder.rglob("*"):
        suffix = suffix_of(file)
        if not file.is_file() or _is_beside(file.relative_to(folder), suffix):
            continue
        if suffix in SUFFIXES:
            data.append(file)
        elif suffix in _CLOSED_SUFFIXES:
            closed.add(file)
        elif not suffix:
            bare.append(file)
    # The hub's cache holds links, and beside them what they stand for.
    named = {file.resolve() for file in data}
    for file in bare:
        if file.resolve() in named:
            continue
        try:
            if sniff(file, file.name) != "text":  # text without a suffix: a Makefile, say
                data.append(file)
        except ClosedFile:
            closed.add(file)
        except DataError:
            pass  # empty, or bytes of another kind: no data
    return data, closed


def _is_beside(path: Path, suffix: str) -> bool:
    """Whether a file is hidden, or stands beside data and is none."""
    if any(part.startswith(".") for part in path.parts):
        return True
    if suffix and suffix not in TEXT_SUFFIXES:
        return path.name.lower() in _BY_DATASETS
    return bool(_NOTES.fullmatch(path.name)) or (not suffix and path.name.startswith("_"))


def _of_split(files: list[Path], folder: Path, name: str, split: str) -> list[Path]:
    splits = {file: _split_of(file.relative_to(folder)) for file in files}
    wanted = same_split(split)
    named = sorted({found for found in splits.values() if found})
    if not named:
        return files
    if not all(splits.values()) and (wanted == "train" or wanted not in named):
        raise DataError(_told_of_some(splits, folder, name))
    if wanted not in named:
        raise DataError(
            f"{name}: no file in the folder is of the split `{split}`; there are {listed(named)}. Set "
            "data.split, or name one file"
        )
    return [file for file, found in splits.items() if found == wanted]


def _told_of_some(splits: Mapping[Path, str | None], folder: Path, name: str) -> str:
    said = [f"{_inside(file, folder)} ({found})" for file, found in splits.items() if found]
    unsaid = [_inside(file, folder) for file, found in splits.items() if not found]
    others = sorted({found for found in splits.values() if found and found != "train"})
    by_split = "".join(f"data.split={found} for those of that split, " for found in others)
    return (
        f"{name}: the names of some files in the folder say a split: {listed(said)}; others do not: "
        f"{listed(unsaid)}. Set {by_split}data.path={name.rstrip('/')}/{unsaid[0]} for one file, or "
        "data.datasets=[{path: FILE}, {path: FILE}] for several"
    )


def _inside(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder))


def _split_of(path: Path) -> str | None:
    """The split that a file's name, or a folder above it, says it is of."""
    stem = path.name.removesuffix(".gz").removesuffix(".GZ")
    own = stem[: len(stem) - len(suffix_of(path))]
    for part in (own, *reversed(path.parts[:-1])):
        words = [word for word in re.split(r"[^a-z]+", _SHARD.sub("", part.lower())) if word]
        found = {SPLITS[word] for word in (*words[:1], *words[-1:]) if word in SPLITS}
        if found:
            return found.pop() if len(found) == 1 else None  # `train_test` is of both
    return None
