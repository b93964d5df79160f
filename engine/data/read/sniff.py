"""What a file is, told by its bytes, and its bytes as UTF-8 lines.

Names lie: JSON arrays come as `.txt`, JSON Lines as `.json`, tables separated by semicolons as `.csv`, and anything
may be gzipped. So the beginning decides; the name only where the beginning leaves it open, which is between a
table and running text, and for text whose markup holds the rows (YAML, XML, HTML). What begins like JSON is JSON if it
goes on as such: a list of things to do that begins with `[ ]` is text, as is what begins with a brace and ends in
prose.
"""

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from ..errors import DataError

Kind = Literal["json", "table", "parquet", "arrow", "arrow stream", "text"]

TABLE_SUFFIXES = {".csv", ".tsv"}
JSON_SUFFIXES = {".json", ".jsonl", ".ndjson"}
TEXT_SUFFIXES = {".md", ".text", ".txt"}
BINARY_SUFFIXES = {".arrow", ".feather", ".parquet"}
SUFFIXES = TABLE_SUFFIXES | JSON_SUFFIXES | TEXT_SUFFIXES | BINARY_SUFFIXES
"""Of the files that are taken from a folder, plain or with `.gz` behind."""

_HUB_ID = re.compile(r"\w[\w.\-]{0,95}(/\w[\w.\-]{0,95})?")
_NO_HUB_SUFFIXES = {*SUFFIXES, ".gz", ".xlsx", ".zip", ".zst"}
_HEAD = 65_536
_ROWS_SEEN = 20
_CUT = 9  # where a head ends within `-Infinity` or an escape, its beginning is at fault


def is_hub_id(path: str) -> bool:
    """Whether a path that is no file may name a data set of the Hugging Face hub."""
    suffix = Path(path).suffix.lower()
    return _HUB_ID.fullmatch(path) is not None and suffix not in _NO_HUB_SUFFIXES


class Bytes(Protocol):
    """What `opened` gives."""

    def read(self, size: int = -1) -> bytes: ...
    def readline(self) -> bytes: ...


_JSON = re.compile(r"\s*(\[\s*[{\]]|\{\s*[\"}])")
_JSON_ROWS = re.compile(r"\s*\[\s*\{\s*\"")
_GZIP = b"\x1f\x8b"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BOM = b"\xef\xbb\xbf"
_CLOSED = {
    b"PK\x03\x04": ("a zip archive or a spreadsheet", "unpack it, or save the sheet as CSV"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unpack it: unzstd"),
    b"BZh": ("bzip2", "unpack it: bunzip2"),
    b"\xfd7zXZ": ("xz", "unpack it: unxz"),
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        ("a Python pickle", "save it as JSON or parquet: pickles can run code"),
    ),
    b"%PDF": ("a PDF", "extract its text first"),
}
_MARKED_UP = {
    **dict.fromkeys((".yaml", ".yml"), "YAML"),
    **dict.fromkeys((".xml", ".tmx", ".xlf", ".xliff", ".tei", ".rss"), "XML"),
    **dict.fromkeys((".html", ".htm", ".xhtml"), "HTML"),
    ".toml": "TOML",
}
"""Suffixes of text whose markup is hardly meant to be learnt."""
_BEGINNINGS = {"<?xml": "XML", "<!doctype html": "HTML", "<html": "HTML"}
_COLUMNS = {
    "answer", "chosen", "completion", "content", "input", "instruction", "label", "messages", "output",
    "prompt", "query", "question", "rejected", "response", "system", "text",
}  # fmt: skip
DELIMITERS = ",;\t|"


class ClosedFile(DataError):
    """A file of a form that may well hold rows, and is not read."""


def suffix_of(file: Path) -> str:
    """The name's last suffix in small letters, that of compression left out."""
    name = file.with_suffix("") if file.suffix.lower() == ".gz" else file
    return name.suffix.lower()


@contextlib.contextmanager
def opened(file: Path, name: str) -> Iterator[Bytes]:
    """A file's bytes, unpacked where it is gzipped and as UTF-8 where it is UTF-16.

    Raises:
        DataError: it cannot be read or unpacked; also while it is read.
    """
    try:
        with contextlib.ExitStack() as stack:
            raw: Any = stack.enter_context(file.open("rb"))
            if raw.read(2) == _GZIP:
                raw.seek(0)
                raw = stack.enter_context(gzip.open(raw))
            raw.seek(0)
            begin = raw.read(2)
            raw.seek(0)
            yield _Utf8(raw) if begin in _UTF16 else raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: the gzip file is damaged or cut off: {error}") from error
    except UnicodeError as error:
        raise DataError(f"{name}: is no whole UTF-16 text: {error}; save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error


class _Utf8:
    """UTF-16 text read as UTF-8, a piece at a time."""

    def __init__(self, raw: BinaryIO) -> None:
        self._text = io.TextIOWrapper(raw, encoding="utf-16", newline="")
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return self._take(None)
        while len(self._left) < size and (piece := self._text.read(_HEAD)):
            self._left += piece.encode()
        return self._take(size)

    def readline(self) -> bytes:
        while b"\n" not in self._left and (piece := self._text.read(_HEAD)):
            self._left += piece.encode()
        end = self._left.find(b"\n") + 1
        return self._take(end or None)

    def _take(self, size: int | None) -> bytes:
        if size is None:
            taken, self._left = self._left + self._text.read().encode(), b""
        else:
            taken, self._left = self._left[:size], self._left[size:]
        return taken


def sniff(file: Path, name: str) -> Kind:
    """What the file is.

    Raises:
        ClosedFile: rows may be in it, but cannot be read from it; the message says what it is.
        DataError: it is empty, or is not what its name says.
    """
    with opened(file, name) as stream:
        head = stream.read(_HEAD)
    suffix = suffix_of(file)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    if head.startswith(b"\xff\xff\xff\xff"):
        return "arrow stream"
    for magic, (what, fix) in _CLOSED.items():
        if head.startswith(magic):
            raise ClosedFile(f"{name}: is {what}, expected text, parquet or arrow; {fix}")
    if suffix in BINARY_SUFFIXES:
        raise DataError(f"{name}: is not {_article(suffix)} file: its first bytes are another's")
    whole = len(head) < _HEAD
    text = head.removeprefix(_BOM).decode("utf-8", "replace")
    if not text.strip():
        raise DataError(f"{name}: the file is empty")
    if suffix in JSON_SUFFIXES or _is_json(text, whole):
        return "json"
    if suffix in TABLE_SUFFIXES or _is_table(text, whole):
        return "table"
    if what := _MARKED_UP.get(suffix) or (suffix not in TEXT_SUFFIXES and _markup_of(text)):
        raise ClosedFile(
            f"{name}: is {what}, of which no rows are read; write them as JSON Lines, one object in each line, or, to "
            "learn it as it stands, give it a name that ends in .txt"
        )
    return "text"


def _markup_of(text: str) -> str:
    begin = text.lstrip()[:64].lower()
    return next((what for word, what in _BEGINNINGS.items() if begin.startswith(word)), "")


def _article(suffix: str) -> str:
    return {".parquet": "a parquet"}.get(suffix, "an arrow")


def _is_json(head: str, whole: bool) -> bool:
    """Whether text begins like rows in JSON and goes on as JSON: to the end of the first value and
    then of its line, or to the end of the head; or else one of its lines is a whole object.

    Args:
        whole: the head is all that there is.
    """
    if not _JSON.match(head):
        return False
    if _JSON_ROWS.match(head):
        return True
    try:
        value, end = json.JSONDecoder().raw_decode(head, len(head) - len(head.lstrip()))
    except json.JSONDecodeError as error:
        cut = len(head.rstrip()) if whole else len(head) - _CUT
        ended = error.pos >= cut or error.msg.startswith("Unterminated")
        return ended or any(map(_is_object, head.split("\n")))
    except RecursionError:
        return True
    rest = head[end:] if value == [] else head[end:].split("\n", 1)[0]
    return not rest.strip()


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_table(head: str, whole: bool) -> bool:
    """Whether the first line names columns that data sets have, and most of the next have as many cells."""
    lines = [f"{line}\n" for line in head.split("\n")]
    if not whole:
        lines.pop()  # is cut off
    delimiter = find_delimiter(lines)
    if delimiter is None or head.lstrip().startswith("|"):  # a table in Markdown is text
        return False
    try:
        rows = filter(None, csv.reader(lines, delimiter=delimiter))
        names, *cells = itertools.islice(rows, _ROWS_SEEN + 1)
    except csv.Error:
        return False
    if not whole:
        del cells[-1:]  # may be cut off within a quoted cell
    alike = sum(len(row) == len(names) for row in cells)
    known = sum(name.strip().lower() in _COLUMNS for name in names)
    return known > 1 and (2 * alike > len(cells) or not (whole or cells))


def find_delimiter(lines: list[str]) -> str | None:
    """What separates the cells of a table's first line into most; None: nothing does."""
    first = [line.partition("\r")[0] for line in lines[:1]]
    counts = {mark: len(next(csv.reader(first, delimiter=mark), [])) for mark in DELIMITERS}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] > 1 else None


def text_of(file: Path, name: str) -> str:
    """The whole text.

    Raises:
        DataError: it is not UTF-8, or holds a NUL byte; names the line.
    """
    with opened(file, name) as stream:
        data = stream.read()
    text = decoded(data.removeprefix(_BOM), name, 1)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{name}: line {line}: holds a NUL byte, so it is no text file")
    return text


def is_gzipped(file: Path) -> bool:
    """Whether its first bytes say so."""
    with file.open("rb") as stream:
        return stream.read(2) == _GZIP


def unpacked_size(file: Path) -> int:
    """The bytes that `opened` will give, without reading them; of a gzip file about as many."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        if stream.read(2) != _GZIP or size < 18:
            return size
        stream.seek(-4, 2)
        told = int.from_bytes(stream.read(4), "little")
    # The trailer says the size modulo 4 GiB; text shrinks to about a quarter.
    return told + max(0, round((4 * size - told) / 2**32)) * 2**32


def lines_of(file: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """(number, line) of each line, its end included; only one is held at a time."""
    with opened(file, name) as stream:
        number = 0
        while line := stream.readline():
            number += 1
            if number == 1:
                line = line.removeprefix(_BOM)
            yield number, line


def decoded(data: bytes, name: str, line: int) -> str:
    """UTF-8 as text; `line` is the number of its first line, for the error."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise DataError(
            f"{name}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as "
            "UTF-8 (iconv -f latin1 -t utf-8, if it is Latin-1)"
        ) from error
