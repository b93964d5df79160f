"""Files as users have them become numbered rows, or an error that names the place."""

import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from evenfall.engine.config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read import read_rows

ROWS = [{"text": "one"}, {"text": "two\u2028still two"}, {"text": "drei, ünïcode 🎈"}]


def read(path):
    return list(read_rows(DatasetConfig(path=str(path))))


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=2)),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.jsonl", LINES),
        ("a.jsonl", json.dumps(ROWS)),  # an array behind the wrong name
        ("a.txt", json.dumps(ROWS)),
        ("a.txt", LINES),
        ("a.json", LINES + "\n"),
        ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n")),
        ("a.json", "\ufeff\n " + json.dumps(ROWS)),
        ("a.csv", '\ufefftext\r\none\r\n"two\u2028still two"\r\n"drei, ünïcode 🎈"\r\n'),
        ("a.tsv", "text\none\ntwo\u2028still two\n\ndrei, ünïcode 🎈\n"),
    ],
)
def test_the_same_rows_from_every_kind_of_file(tmp_path, name, content):
    rows = read(write(tmp_path / name, content))
    assert [row.value for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


def test_parquet(tmp_path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.bin")
    assert [row.value for row in read(tmp_path / "a.bin")] == ROWS
    whole = (tmp_path / "a.bin").read_bytes()
    with pytest.raises(DataError, match=r"cut\.parquet: row 1: the parquet file cannot be read"):
        read(write(tmp_path / "cut.parquet", whole[:-20]))


def test_json_lines_are_numbered_by_the_line_in_the_file(tmp_path):
    rows = read(write(tmp_path / "a.jsonl", '{"text": "a"}\n\n\r\n{"text": "b"}\n'))
    assert [(row.number, row.place[-6:]) for row in rows] == [(1, "line 1"), (4, "line 4")]


def test_a_text_file_is_one_document(tmp_path):
    book = "Chapter 1\r\n\r\nIt was [{ a dark night.\r\n"
    (row,) = read(write(tmp_path / "book.txt", book))
    assert row.value == book.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"a": 1}, {"a": 2}, {"a": ', "row 3 .*cut off"),
        ("a.json", '[{"a": 1},\n {"a": 2}', "row 2 .*cut off"),
        ("a.json", '[{"a": 1},\n {"a": nope}]', r"row 2 \(line 2, column \d+\): is not JSON"),
        ("a.json", '[{"a": 1}, 7]', "row 2: expected an object, got a number"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", "col1,col2\n1,2\n", "line 1, column 1: is not JSON"),
        ("a.jsonl", '{"a": 1}\n\n{"a": 2', "line 3, column .*expected one whole object"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: expected an object, got a list"),
        ("a.jsonl", '{"a": "\\ud800"}\n{"a": 1}', "line 1, column .*is not JSON"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"row 2 \(line 3\): expected 2 cells \(`a`, `b`\), got 3"),
        ("a.csv", 'a,b\n1,"2\n', r"row 1 .*is not CSV"),
        ("a.csv", "a;b\n1;2\n", "separated by ';'"),
        ("a.csv", "a,a\n1,2\n", "name of its own"),
        ("a.csv", "a,b\n", "a header and no rows"),
        ("a.txt", "", "is empty"),
        ("a.jsonl", " \n \n", "is empty"),
        ("a.txt", b"caf\xe9\n", "line 1: byte 0xe9 is not UTF-8; save"),
        ("a.txt", "a\nb\0", "line 2: holds a NUL byte"),
        ("a.jsonl.gz", b"\x1f\x8b\x08rest", "is gzip.*gunzip"),
        ("a.json", "\ufeffx".encode("utf-16"), "UTF-16"),
        ("a.parquet", "text", "not a parquet file"),
    ],
)
def test_errors_name_file_place_and_fix(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_proposes_the_nearest_name(tmp_path):
    write(tmp_path / "train.jsonl", LINES)
    with pytest.raises(DataError, match=r"no such file; did you mean train\.jsonl"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist"):
        read(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match=r"is a folder.*`train\.jsonl`"):
        read(tmp_path)


def test_hub_ids_go_to_datasets(monkeypatch):
    import datasets

    asked = []

    def load_dataset(path, name, split):
        asked.append((path, name, split))
        if path == "owner/missing":
            raise FileNotFoundError("no such data set")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = list(read_rows(DatasetConfig(path="owner/set", name="main", split="test")))
    assert asked == [("owner/set", "main", "test")]
    assert [row.value for row in rows] == ROWS
    assert rows[1].place == "owner/set (main, test): row 2"
    with pytest.raises(DataError, match=r"owner/missing.*FileNotFoundError: no such data set"):
        list(read_rows(DatasetConfig(path="owner/missing")))


def test_screens_can_import_the_data_modules_without_torch():
    code = (
        "import sys; import evenfall.engine.data.preview, evenfall.engine.data.formats;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
