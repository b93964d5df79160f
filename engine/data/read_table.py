"""Tables: delimited text, parquet and arrow, a piece at a time.

The first line of delimited text names the columns; all values are text, but for token ids, which stand in a cell
as JSON. What separates the cells is what separates the first line into most: `,`, `;`, tab or `|`. A first
column without a name is what pandas writes of its index, and is called so.
"""

import csv
import itertools
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from .errors import DataError, listed
from .row import SourceRow
from .sniff import decoded, find_delimiter, lines_of, suffix_of

_BATCH = 1024
_TOKEN_COLUMNS = ("input_ids", "attention_mask", "labels")


def read_table(file: Path, name: str) -> Iterator[SourceRow]:
    """The rows of delimited text."""
    csv.field_size_limit(sys.maxsize)  # documents are longer than the module's 128 KiB
    read = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for number, line in lines_of(file, name):
            read += len(line)
            yield decoded(line, name, number)

    whole = lines()
    first = next(whole)
    delimiter = find_delimiter([first]) or ("\t" if suffix_of(file) == ".tsv" else ",")
    whole = itertools.chain([first], whole)
    before = 0
    for row in _rows(csv.reader(whole, delimiter=delimiter, strict=True), name):
        yield replace(row, size=read - before)
        before = read


def _rows(reader: Any, name: str) -> Iterator[SourceRow]:
    number = 0
    try:
        header = next(reader)
        if header[0] == "" and "index" not in header:
            header[0] = "index"
        twice = [column for place, column in enumerate(header) if column in header[:place]]
        if twice or "" in header:
            raise DataError(
                f"{name}: line 1: every column needs a name of its own, got {listed(header)}"
            )
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
            values = map(_value, header, cells)
            yield SourceRow(name, number, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{name}: row {number + 1} (line {reader.line_num}): is not CSV: {error}; a quote "
            "inside a quoted cell is written twice"
        ) from error
    if not number:
        raise DataError(f"{name}: holds a header and no rows")


def _value(column: str, cell: str) -> Any:
    """A cell as it is meant: the numbers of a column of token ids; any other is text."""
    if column not in _TOKEN_COLUMNS or not cell.startswith("["):
        return cell
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell


def read_columnar(file: Path, name: str, kind: str) -> Iterator[SourceRow]:
    """The rows of a parquet or arrow file; `kind` as `sniff` says it."""
    import pyarrow

    number = 0
    try:
        size = 0
        for batch, rows in _batches(file, kind):
            size = size or (
                file.stat().st_size // rows if rows else batch.nbytes // max(1, len(batch))
            )
            for value in batch.to_pylist():
                number += 1
                yield SourceRow(name, number, value, size=size)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{name}: row {number + 1}: the {kind.split()[0]} file cannot be read: {error}"
        ) from error
    if not number:
        raise DataError(f"{name}: holds no rows")


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
