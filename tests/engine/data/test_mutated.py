"""Whatever is in a file: all its rows come out, or an error that names the file and, where there is one, the place."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read.read import read_rows

texts = st.text(max_size=12) | st.sampled_from(
    ["\x1b[31m", "\u2028", "\ufeff", "{% raw %}", "<|im_end|>", "\r", "\0", "🎈", '"', "a,b;c\td", "\\ud800"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rows = st.lists(
    st.dictionaries(
        st.sampled_from(["instruction", "output", "text", "messages", "prompt", "data"]) | texts,
        values,
        max_size=4,
    ),
    max_size=5,
)
spans = st.tuples(st.floats(0, 1), st.floats(0, 1))
NAMES = [
    "a.json",
    "a.jsonl",
    "a.txt",
    "a.csv",
    "a.tsv",
    "a.md",
    "a.parquet",
    "a.arrow",
    "a.json.gz",
    "a",
]


def read(content: bytes, name: str) -> list:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return [row.value for row in read_rows(DatasetConfig(path=str(path)))]
        except DataError as error:
            assert str(error).startswith(str(path))
            raise


def written(given_rows: list, form: str) -> bytes:
    if form == "lines":
        return "\n".join(json.dumps(row) for row in given_rows).encode()
    if form == "array":
        return json.dumps(given_rows).encode()
    return json.dumps({"rows": given_rows}, indent=2).encode()


@settings(max_examples=150, deadline=None)
@given(
    rows,
    st.sampled_from(["lines", "array", "wrapped"]),
    st.sampled_from(NAMES),
    spans,
    st.sampled_from(["cut", "drop", "twice", "noise", "gzip", "utf-16", "latin-1"]),
    st.binary(max_size=4),
)
def test_a_damaged_file_is_read_or_refused(given_rows, form, name, span, damage, noise):  # fmt: skip
    content = written(given_rows, form)
    begin, end = sorted(int(part * len(content)) for part in span)
    if damage == "cut":
        content = content[:end]
    elif damage == "drop":
        content = content[:begin] + content[end:]
    elif damage == "twice":
        content = content[:end] + content[begin:]
    elif damage == "noise":
        content = content[:begin] + noise + content[begin:]
    elif damage == "gzip":
        content = gzip.compress(content)[: max(2, end)]
    elif damage == "utf-16":
        content = content.decode().encode("utf-16")[: end * 2 + 2]
    else:
        content = content.decode().encode("latin-1", "replace")
    try:
        found = read(content, name)
    except DataError:
        return
    assert found


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
whole_rows = st.lists(
    st.dictionaries(st.text(max_size=8).filter(lambda key: key != "rows"), plain, min_size=1, max_size=4),
    min_size=2, max_size=6,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    whole_rows,
    st.sampled_from(["lines", "array", "wrapped"]),
    st.booleans(),
    st.sampled_from(["a.json", "a.jsonl", "a.txt", "a"]),
    st.booleans(),
)
def test_every_row_of_a_sound_file_comes_out_as_it_was(given_rows, form, zipped, name, bom):  # fmt: skip
    content = (b"\xef\xbb\xbf" if bom else b"") + written(given_rows, form)
    if zipped:
        content = gzip.compress(content)
    assert read(content, name) == given_rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.sampled_from(",;\t|"))
def test_every_cell_of_a_table_comes_out_as_it_was(cells, delimiter):
    import csv
    import io

    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "completion"), *cells])
    text = out.getvalue()
    assert read(text.encode("utf-8", "surrogatepass"), "a.csv") == [
        {"prompt": prompt, "completion": completion} for prompt, completion in cells
    ]


def test_a_huge_line(tmp_path):
    row = {"text": "x" * 20_000_000}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + '\n{"text": "' + "y" * 1_000_000)
    read_all = read_rows(DatasetConfig(path=str(path)))
    assert next(read_all).value == row and next(read_all).value == row
    with pytest.raises(DataError, match="line 3") as error:
        next(read_all)
    assert len(str(error.value)) < 1000
