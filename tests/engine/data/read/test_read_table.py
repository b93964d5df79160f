"""Tables: delimited text with what people and spreadsheets do to it, and packed parquet and arrow."""

import gzip
import json
import tempfile

import pyarrow
import pyarrow.parquet
import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read.read import read_rows, size_of

ROWS = [{"prompt": f"p{n}", "completion": "c" * n} for n in range(3000)]


def read(path, keep_broken=False):
    return list(read_rows(DatasetConfig(path=str(path)), keep_broken))


def table(tmp_path, content):
    (tmp_path / "a.csv").write_text(content, newline="")
    return tmp_path / "a.csv"


def test_a_row_with_other_cells_is_one_that_cannot_be_read(tmp_path):
    path = table(tmp_path, 'a,b\n1,2\n1,2,"x,\ny"\n3,"4\n5"\n6\n7,8\n')
    rows = read(path, keep_broken=True)
    assert [row.value for row in rows if not row.broken] == [
        {"a": "1", "b": "2"}, {"a": "3", "b": "4\n5"}, {"a": "7", "b": "8"},
    ]  # fmt: skip
    there = [json.loads(row.value) for row in rows if isinstance(row.value, str)]
    assert there == [["1", "2", "x,\ny"], ["6"]]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]
    quoted = "a cell that holds the delimiter or a line break must be quoted"
    got = ("got 3, with text ('x,\\ny') behind the last column", "got 1")
    assert [row.broken for row in rows if row.broken] == [
        f"{path}: row 2 (line 4): expected 2 cells (`a`, `b`), {got[0]}; {quoted}",
        f"{path}: row 4 (line 7): expected 2 cells (`a`, `b`), {got[1]}; {quoted}",
    ]
    assert sum(row.size for row in rows) == path.stat().st_size
    with pytest.raises(DataError, match=r"row 2 \(line 4\): expected 2 cells"):
        read(path)


def test_a_quote_at_fault_ends_a_table(tmp_path):
    with pytest.raises(DataError, match=r"row 2 \(line 3\): is not CSV.*written twice"):
        read(table(tmp_path, 'a,b\n1,2\n3,"4" 5\n6,7\n'), keep_broken=True)


def test_a_run_goes_on_without_rows_that_cannot_be_read(tmp_path, run):
    path = table(tmp_path, "prompt,completion\nq,a\nq,a,b\nq,c\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\): expected 2 cells"):
        run(path)
    assert run(path, drop=["bad"]).report.rows == 3


@pytest.mark.parametrize("content", [
    " prompt , completion\nq,a\n",
    "prompt,completion,\nq,a,\nq,a,  \n",
    "prompt,completion,,\nq,a,,\nq,a\n",
    "\n \nprompt,completion\nq,a\n",
])  # fmt: skip
def test_headers_as_people_leave_them(tmp_path, content):
    rows = read(table(tmp_path, content))
    assert rows and all(row.value == {"prompt": "q", "completion": "a"} for row in rows)


def test_text_behind_the_last_column_is_not_left_out(tmp_path):
    rows = read(table(tmp_path, "prompt,completion,\nq,a,\nq,a,more\nq,a,,\n"), keep_broken=True)
    assert [bool(row.broken) for row in rows] == [False, True, True]
    assert "row 2 (line 3)" in rows[1].broken and "text ('more')" in rows[1].broken


@pytest.mark.parametrize(("content", "line"), [("a,,b\n1,2,3\n", 1), ("\n\na,a\n1,2\n", 3)])
def test_columns_need_names(tmp_path, content, line):
    with pytest.raises(DataError, match=rf"line {line}: every column needs a name of its own"):
        read(table(tmp_path, content))


def test_lines_that_end_as_on_an_old_mac_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.csv: row 1 \(line 1\): is not CSV"):
        read(table(tmp_path, "prompt,completion\rq,a\r"))


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_columns_may_be_gzipped(tmp_path, kind, monkeypatch):
    whole = pyarrow.Table.from_pylist(ROWS)
    plain = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(whole, plain)
    else:
        make = {"arrow": pyarrow.ipc.new_file, "stream": pyarrow.ipc.new_stream}[kind]
        with pyarrow.OSFile(str(plain), "wb") as out, make(out, whole.schema) as to:
            to.write_table(whole)
    packed = tmp_path / f"a.{kind}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "unpacked").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "unpacked"))
    rows = read(packed)
    assert [row.value for row in rows] == ROWS and rows[2].place == f"{packed}: row 3"
    assert [row.size for row in rows] == [row.size for row in read(plain)]
    assert size_of(DatasetConfig(path=str(packed))) == plain.stat().st_size
    half = read_rows(DatasetConfig(path=str(packed)))
    next(half)
    assert list((tmp_path / "unpacked").iterdir())
    del half
    assert not list((tmp_path / "unpacked").iterdir())
    for cut, message in (
        (plain.read_bytes()[:-40], "file cannot be read"),
        (None, "damaged or cut"),
    ):
        data = gzip.compress(cut) if cut else packed.read_bytes()[:-40]
        packed.write_bytes(data)
        with pytest.raises(DataError, match=message) as error:
            read(packed)
        assert str(error.value).startswith(f"{packed}: ")


def test_a_tsv_is_separated_by_tabs(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("question (short, plain)\tanswer\nred, green, and blue thing\tflag\n")
    assert [row.value for row in read(path)] == [
        {"question (short, plain)": "red, green, and blue thing", "answer": "flag"}
    ]


def test_quotes_that_enclose_no_cell_of_a_tsv_are_letters(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('question\tanswer\n"Up" means what?\tHigh\n"Left out"\tNo\n')
    assert [row.value for row in read(path)] == [
        {"question": '"Up" means what?', "answer": "High"}, {"question": '"Left out"', "answer": "No"},
    ]  # fmt: skip
    path.write_text('question\tanswer\n"He said ""up"""\t"a\nb"\n')
    assert [row.value for row in read(path)] == [{"question": 'He said "up"', "answer": "a\nb"}]


@pytest.mark.parametrize("above", ["# made in 2026\n", "# made, of old\n\n# and new\n"])
def test_comments_above_the_header_are_left_out(tmp_path, above):
    (row,) = read(table(tmp_path, above + "id,prompt,completion\n1,q,a\n"))
    assert row.value == {"id": "1", "prompt": "q", "completion": "a"}
    (row,) = read(table(tmp_path, "# id,prompt\n1,q\n"))
    assert row.value == {"# id": "1", "prompt": "q"}


def test_pairs_without_a_header_may_be_read_with_their_first(tmp_path, run):
    path = tmp_path / "a.tsv"
    path.write_text("Good day\tGuten Tag\nThank you\tDanke\n")
    with pytest.raises(DataError, match=r"data\.header=false"):
        run(path)
    with pytest.raises(DataError) as raised:
        run(path, header=False)
    assert "data.header" not in str(raised.value) and "column_1" in str(raised.value)
    path.write_text("Question\tRemark\nThank you\tDanke\n")
    with pytest.raises(DataError) as raised:
        run(path)
    assert "data.header" not in str(raised.value)
