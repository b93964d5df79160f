"""From a path to numbered rows.

What a file is, is told by its bytes, not by its name: a JSON array in a `.jsonl` or `.txt` file is
read as JSON. JSON is parsed here (orjson) and not by a data frame library, because only then can an
error name the row that is at fault, and because rows may differ in type without being refused.

* JSON: an array of objects, `{"data": [...]}`, or one object a line (blank lines are skipped).
* CSV and TSV: comma, or tab for `.tsv`; the first line names the columns; all values are text.
* Parquet: through pyarrow, batch by batch.
* Anything else that is text (`.txt`, `.md`, ...) is *one* document. A blank line does not end it: in
  a book it ends a paragraph. Several documents belong in JSON Lines with a `text` key.
* A path that is no file but looks like one on the Hugging Face hub (`name` or `owner/name`) goes to
  `datasets.load_dataset`; `demo` is the data set that comes with Evenfall.

The module is light: pyarrow and datasets are imported where they are needed.
"""

import csv
import difflib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..config import DatasetConfig
from .errors import DataError, listed, shown

_FILE_SUFFIXES = {
    ".arrow", ".csv", ".gz", ".json", ".jsonl", ".md", ".ndjson", ".parquet", ".text", ".tsv",
    ".txt", ".xlsx", ".zip", ".zst",
}  # fmt: skip
_JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
_HUB_ID = re.compile(r"\w[\w.\-]{0,95}(/\w[\w.\-]{0,95})?")
_LOOKS_LIKE_JSON = re.compile(r"\s*(\[\s*[{\]]|\{\s*[\"}])")
_NOT_TEXT = {
    b"\x1f\x8b": ("gzip", "unpack it: gunzip"),
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it: unzstd"),
    b"ARROW1": ("an Arrow file", "save it as parquet"),
    b"\xff\xfe": ("UTF-16 text", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text", "save it as UTF-8"),
}


@dataclass(frozen=True)
class SourceRow:
    """One row as it stands in its file."""

    file: str
    """The path as the user gave it."""
    number: int
    """From 1: the row; for JSON Lines the line in the file."""
    value: dict[str, Any] | str
    """An object, or the text of a document."""
    unit: str = "row"
    """What `number` counts: `row` or `line`."""

    @property
    def place(self) -> str:
        return f"{self.file}: {self.unit} {self.number}"

    def error(self, message: str) -> DataError:
        """A DataError that names this row."""
        return DataError(f"{self.place}: {message}")


def read_rows(source: DatasetConfig) -> Iterator[SourceRow]:
    """Yield the rows of a data set, read as the module's docstring says. Nothing is read before the
    first row is asked for.

    Raises:
        DataError: there is no such file or data set, or a row cannot be read.
    """
    path = source.path
    if path == "demo":
        from ...presets.load import demo_folder

        yield from _read_file(demo_folder() / "train.jsonl", "demo")
        return
    file = Path(path).expanduser()
    if file.is_file():
        yield from _read_file(file, path)
    elif file.is_dir():
        inside = sorted(item.name for item in file.iterdir() if item.suffix in _FILE_SUFFIXES)
        raise DataError(f"{path}: is a folder; name one file in it. It holds {listed(inside)}")
    elif _HUB_ID.fullmatch(path) and file.suffix.lower() not in _FILE_SUFFIXES:
        yield from _read_hub(source)
    else:
        raise DataError(f"{path}: no such file{_near_miss(file)}")


def _near_miss(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; the folder {file.parent} does not exist either"
    names = sorted(item.name for item in file.parent.iterdir() if item.is_file())
    near = difflib.get_close_matches(file.name, names, 3, 0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _read_file(file: Path, name: str) -> Iterator[SourceRow]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
    if not data.strip():
        raise DataError(f"{name}: the file is empty")
    if data[:4] == b"PAR1":
        yield from _read_parquet(file, name)
        return
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        raise DataError(f"{name}: is not a parquet file: it does not begin with PAR1")
    text = _decode(data, name)
    del data
    if _LOOKS_LIKE_JSON.match(text) or suffix in _JSON_SUFFIXES:
        yield from _read_json(text, name)
    elif suffix in (".csv", ".tsv"):
        yield from _read_csv(text, name, "\t" if suffix == ".tsv" else ",")
    else:
        yield SourceRow(name, 1, text.replace("\r\n", "\n"))


def _decode(data: bytes, name: str) -> str:
    for magic, (what, fix) in _NOT_TEXT.items():
        if data.startswith(magic):
            raise DataError(f"{name}: is {what}, expected text or parquet; {fix}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as "
            "UTF-8 (iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}: line {line}: holds a NUL byte, so it is no text file")
    return text


def _read_json(text: str, name: str) -> Iterator[SourceRow]:
    if text.lstrip().startswith("["):
        try:
            rows = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise DataError(_array_error(text, name, error)) from error
        yield from _objects(rows, name)
        return
    try:
        whole = orjson.loads(text)
    except orjson.JSONDecodeError:
        yield from _read_json_lines(text, name)
        return
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        yield from _objects(whole["data"], name)
    else:
        yield from _objects([whole], name)


def _objects(rows: list[Any], name: str) -> Iterator[SourceRow]:
    if not rows:
        raise DataError(f"{name}: holds no rows: the list is empty")
    for number, value in enumerate(rows, 1):
        if not isinstance(value, dict):
            raise DataError(f"{name}: row {number}: expected an object, got {shown(value)}")
        yield SourceRow(name, number, value)


def _read_json_lines(text: str, name: str) -> Iterator[SourceRow]:
    # Not str.splitlines: it also splits at U+2028 and others, which JSON strings may hold.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise DataError(
                f"{name}: line {number}, column {error.colno}: is not JSON: {error.msg}; expected "
                f"one whole object in each line, got {shown(line.strip())}"
            ) from error
        if not isinstance(value, dict):
            raise DataError(f"{name}: line {number}: expected an object, got {shown(value)}")
        yield SourceRow(name, number, value, "line")


def _array_error(text: str, name: str, error: orjson.JSONDecodeError) -> str:
    # orjson knows the position only; the standard decoder walks to the element that breaks.
    decoder, row = json.JSONDecoder(), 1
    at = text.index("[") + 1
    try:
        while True:
            at = re.compile(r"\s*").match(text, at).end()  # type: ignore[union-attr]
            _, at = decoder.raw_decode(text, at)
            at = re.compile(r"\s*").match(text, at).end()  # type: ignore[union-attr]
            if text[at : at + 1] != ",":
                break
            at, row = at + 1, row + 1
    except (ValueError, RecursionError):
        pass
    where = f"{name}: row {row} (line {error.lineno}, column {error.colno})"
    if error.pos >= len(text.rstrip()):
        return f"{where}: the JSON list does not end: the file is cut off"
    return f"{where}: is not JSON: {error.msg}, at {shown(text[error.pos : error.pos + 40])}"


def _read_csv(text: str, name: str, delimiter: str) -> Iterator[SourceRow]:
    csv.field_size_limit(sys.maxsize)  # documents are longer than the module's 128 KiB
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        header = next(reader)
        _check_header(header, name, delimiter)
        for cells in reader:
            if not cells:
                continue
            number += 1
            if len(cells) != len(header):
                raise DataError(
                    f"{name}: row {number} (line {reader.line_num}): expected {len(header)} cells "
                    f"({listed(header)}), got {len(cells)}; a cell that holds the delimiter or a "
                    "line break must be quoted"
                )
            yield SourceRow(name, number, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{name}: row {number + 1} (line {reader.line_num}): is not CSV: {error}; a quote "
            "inside a quoted cell is written twice"
        ) from error
    if not number:
        raise DataError(f"{name}: holds a header and no rows")


def _check_header(header: list[str], name: str, delimiter: str) -> None:
    others = [mark for mark in ",;\t|" if mark != delimiter and mark in header[0]]
    if len(header) == 1 and others:
        raise DataError(
            f"{name}: the header {shown(header[0])} is one column: cells seem to be separated by "
            f"{others[0]!r}; expected {delimiter!r}"
        )
    twice = [column for place, column in enumerate(header) if column in header[:place]]
    if twice or "" in header:
        raise DataError(
            f"{name}: line 1: every column needs a name of its own, got {listed(header)}"
        )


def _read_parquet(file: Path, name: str) -> Iterator[SourceRow]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as source:
            for batch in source.iter_batches(batch_size=1024):
                for value in batch.to_pylist():
                    number += 1
                    yield SourceRow(name, number, value)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{name}: row {number + 1}: the parquet file cannot be read: {error}"
        ) from error
    if not number:
        raise DataError(f"{name}: holds no rows")


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
