"""Tables: delimited text, parquet and arrow, a piece at a time.

The first line of delimited text names the columns, spaces around a name left out; all values are text, but for token
ids, which stand in a cell as JSON. What separates the cells is what separates the first line into most: `,`, `;`, tab
or `|`; in a file named `.tsv` it is the tab, and quotes are letters where they enclose no cells. Lines above the header
that begin with `#`, and have not as many cells, are comments. A first column without a name is what pandas writes of
its index, and is called so; last ones are what a spreadsheet leaves behind, and are left out as long as nothing is in
them.

A row with too many cells or too few is a row that cannot be read: the next one begins in a line of its own. A quote
at fault is an error: nobody knows where its cell ends.
"""

import contextlib
import csv
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import orjson

from ..errors import DataError, listed, shown
from ..formats.cells import loads
from ..formats.fits import NAMES
from ..formats.ways import Candidate, UndecidedFormat
from ..row import SourceRow
from .sniff import decoded, find_delimiter, is_gzipped, lines_of, opened, suffix_of

_BATCH = 1024
_LONGEST_NAME = 60
_LINES_SEEN = 1000
_QUOTED = re.compile('"(?:[^"]|"")*"')
_TOKEN_COLUMNS = ("input_ids", "attention_mask", "labels")


def read_table(file: Path, name: str, header: bool | None = None, keep_broken: bool = False) -> Iterator[SourceRow]:
    """The rows of delimited text.

    Args:
        header: whether the first line names the columns; None: it does, and it is asked where it looks like data.
        keep_broken: a row that has not a cell for each column is one that says why, instead of an error.

    Raises:
        DataError: the file is no table, or a row is none of it.
        UndecidedFormat: the first line looks like data.
    """
    csv.field_size_limit(sys.maxsize)  # documents are longer than the module's 128 KiB
    read = line_number = 0

    def lines() -> Iterator[str]:
        nonlocal read, line_number
        for line_number, line in lines_of(file, name):
            read += len(line)
            yield decoded(line, name, line_number)

    above, delimiter, quoting = _layout(file, name)
    whole = itertools.islice(itertools.dropwhile(str.isspace, lines()), above, None)
    reader = csv.reader(whole, delimiter=delimiter, quoting=quoting, strict=True)
    number = before = 0
    try:
        cells = next(reader)
        if header is None and _looks_like_data(cells):
            raise _ask_for_header(cells, name)
        if header is False:
            columns, unnamed = [f"column_{place}" for place in range(1, len(cells) + 1)], 0
            reader = itertools.chain([cells], reader)
        else:
            columns, unnamed = _header(cells, name, line_number)
        for cells in reader:
            if not cells:
                continue
            number += 1
            size, before = read - before, read
            if len(cells) > len(columns) and unnamed:
                cells = _without_blank(cells, len(columns), unnamed)
            if len(cells) == len(columns):
                values = map(_value, columns, cells)
                yield SourceRow(
                    file=name,
                    number=number,
                    value=dict(zip(columns, values, strict=True)),
                    size=size,
                )
                continue
            broken = f"{name}: row {number} (line {line_number}): {_ragged(columns, cells)}"
            if not keep_broken:
                raise DataError(broken)
            there = orjson.dumps(cells, option=orjson.OPT_INDENT_2).decode()
            yield SourceRow(file=name, number=number, value=there, size=size, broken=broken)
    except csv.Error as error:
        raise DataError(
            f"{name}: row {number + 1} (line {line_number}): is not CSV: {error}; a quote "
            "inside a quoted cell is written twice"
        ) from error
    if not number:
        raise DataError(f"{name}: holds a header and no rows")


def _layout(file: Path, name: str) -> tuple[int, str, Literal[0, 3]]:
    """How a table is written: the lines of comment above its header, what separates its cells, and whether quotes are
    letters like any other."""
    with contextlib.closing(line.decode(errors="replace") for _, line in lines_of(file, name)) as lines:
        head = [*itertools.islice(lines, _LINES_SEEN)]
    head = [line.rstrip("\r\n") for line in itertools.dropwhile(str.isspace, head)]
    is_tsv = suffix_of(file) == ".tsv"
    above = sum(1 for _ in itertools.takewhile(lambda line: line.startswith("#") or not line.strip(), head))
    if above == len(head) or not _are_comments(head[:above], head[above], is_tsv):
        above = 0
    delimiter = _delimiter(head[above], is_tsv)
    cells = [line.split(delimiter) for line in head[above:] if line]
    plain = is_tsv and len(set(map(len, cells))) == 1 and any(map(_is_open, itertools.chain(*cells)))
    return above, delimiter, csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL


def _delimiter(line: str, is_tsv: bool) -> str:
    return "\t" if is_tsv and "\t" in line else find_delimiter([line]) or ("\t" if is_tsv else ",")


def _are_comments(lines: list[str], header: str, is_tsv: bool) -> bool:
    """Whether lines above what may be the header are none of the table: they have not as many cells."""
    delimiter = _delimiter(header, is_tsv)
    return all(line.count(delimiter) != header.count(delimiter) for line in lines)


def _is_open(cell: str) -> bool:
    """Whether a cell begins with a quote that does not enclose it."""
    return cell.startswith('"') and not _QUOTED.fullmatch(cell)


def _looks_like_data(cells: list[str]) -> bool:
    """Whether a line is no header: a name of a column ends no sentence, is no number and is not long; and none of the
    cells is a name that is known."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    if len(filled) < len(cells) or any(cell.lower() in NAMES for cell in filled):
        return False
    return any(
        len(cell) > _LONGEST_NAME or cell.endswith((".", "?", "!", "。", "？", "！")) or _is_number(cell)
        for cell in filled
    )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _ask_for_header(cells: list[str], name: str) -> UndecidedFormat:
    row = SourceRow(file=name, number=1, value=dict(zip(map(str, range(1, len(cells) + 1)), cells, strict=True)))
    return UndecidedFormat(
        f"the first line looks like data, not like the names of columns: {listed(cells)}",
        [
            Candidate(
                format="auto",
                columns={},
                reason="it is a row: the columns are column_1, column_2, ...",
                settings=("data.header=false",),
            ),
            Candidate(format="auto", columns={}, reason="it names the columns", settings=("data.header=true",)),
        ],
        [],
        row,
    )


def _header(cells: list[str], name: str, line: int) -> tuple[list[str], int]:
    """The columns' names, and how many columns without one follow them."""
    columns = [cell.strip() for cell in cells]
    while len(columns) > 1 and not columns[-1]:
        columns.pop()
    if columns[0] == "" and "index" not in columns:
        columns[0] = "index"
    twice = [column for place, column in enumerate(columns) if column in columns[:place]]
    if twice or "" in columns:
        raise DataError(f"{name}: line {line}: every column needs a name of its own, got {listed(columns)}")
    return columns, len(cells) - len(columns)


def _without_blank(cells: list[str], columns: int, unnamed: int) -> list[str]:
    """The cells of the columns, if those behind them are the unnamed columns' and nothing is in them."""
    behind = cells[columns:]
    return cells[:columns] if len(behind) <= unnamed and not "".join(behind).strip() else cells


def _ragged(columns: list[str], cells: list[str]) -> str:
    more = next((cell for cell in cells[len(columns) :] if cell.strip()), "")
    behind = f", with {shown(more)} behind the last column" if more else ""
    return (
        f"expected {len(columns)} cells ({listed(columns)}), got {len(cells)}{behind}; a cell that "
        "holds the delimiter or a line break must be quoted"
    )


def _value(column: str, cell: str) -> Any:
    """A cell as it is meant: the numbers of a column of token ids; any other is text."""
    if column not in _TOKEN_COLUMNS or not cell.startswith("["):
        return cell
    try:
        return loads(cell)
    except orjson.JSONDecodeError:
        return cell


def read_columnar(file: Path, name: str, kind: str) -> Iterator[SourceRow]:
    """The rows of a parquet or arrow file; `kind` as `sniff` says it."""
    import pyarrow

    number = size = 0
    with _unpacked(file, name) as plain:
        try:
            for batch, rows in _batches(plain, kind):
                size = size or (plain.stat().st_size // rows if rows else batch.nbytes // max(1, len(batch)))
                for value in batch.to_pylist():
                    number += 1
                    yield SourceRow(file=name, number=number, value=value, size=size)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name}: row {number + 1}: the {kind.split()[0]} file cannot be read: {error}") from error
    if not number:
        raise DataError(f"{name}: holds no rows")


@contextlib.contextmanager
def _unpacked(file: Path, name: str) -> Iterator[Path]:
    """The file, or where it is gzipped what is in it: columns are not read from front to back."""
    if not is_gzipped(file):
        yield file
        return
    with tempfile.NamedTemporaryFile(prefix="evenfall-", suffix=suffix_of(file)) as plain:
        with opened(file, name) as packed:
            shutil.copyfileobj(packed, plain)
        plain.flush()
        yield Path(plain.name)


def _batches(file: Path, kind: str) -> Iterator[tuple[Any, int]]:
    """(some rows, how many there are in all, 0 where the file does not say so)."""
    import pyarrow
    import pyarrow.parquet

    if kind == "parquet":
        with pyarrow.parquet.ParquetFile(file) as source:
            for batch in source.iter_batches(batch_size=_BATCH):
                yield batch, source.metadata.num_rows
        return
    with pyarrow.memory_map(str(file)) as mapped:
        if kind == "arrow stream":
            for batch in pyarrow.ipc.open_stream(mapped):
                yield batch, 0
            return
        table = pyarrow.ipc.open_file(mapped)
        for place in range(table.num_record_batches):
            yield table.get_batch(place), 0
