"""Files as users have them become numbered rows, or an error that names the place."""

import gzip
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read.read import read_rows

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
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.json", json.dumps(ROWS).encode("utf-16-be").join([b"\xfe\xff", b""])),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json.gz", gzip.compress(json.dumps(ROWS, indent=1).encode(), mtime=0)),
        ("rows", gzip.compress(LINES.encode("utf-16"), mtime=0)),
        ("a.json", json.dumps({"info": [1], "rows": ROWS}, indent=2)),
    ],
)
def test_the_same_rows_from_every_kind_of_file(tmp_path, name, content):
    rows = read(write(tmp_path / name, content))
    assert [row.value for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]


PAIRS = [{"prompt": "a;b", "completion": "c"}, {"prompt": "d\ne", "completion": "f"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps({"prompt": ["a;b", "d\ne"], "completion": ["c", "f"]})),
        ("a.json", json.dumps({"prompt": {"0": "a;b", "1": "d\ne"}, "completion": {"0": "c", "1": "f"}})),
        ("a.csv", 'prompt,completion\na;b,c\n"d\ne",f\n'),
        ("a.csv", 'prompt;completion\n"a;b";c\n"d\ne";f\n'),
        ("a.csv", 'prompt|completion\na;b|c\n"d\ne"|f\n'),
        ("a.tsv", 'prompt\tcompletion\na;b\tc\n"d\ne"\tf\n'),
        ("a.txt", 'prompt,completion\na;b,c\n"d\ne",f\n'),
        ("table", gzip.compress(b'prompt\tcompletion\na;b\tc\n"d\ne"\tf\n', mtime=0)),
    ],
)  # fmt: skip
def test_columns_however_they_are_written(tmp_path, name, content):
    assert [row.value for row in read(write(tmp_path / name, content))] == PAIRS


@pytest.mark.parametrize("row", [
    {"messages": [{"role": "user", "content": "a"}]},
    {"input_ids": [1, 2], "labels": [1, 2]},
    {"chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "user", "content": "b"}]},
    {"instruction": "a", "output": "b"},
])  # fmt: skip
def test_a_file_of_one_row_is_one_row(tmp_path, row):
    assert [one.value for one in read(write(tmp_path / "a.json", json.dumps(row, indent=2)))] == [row]


def test_arrow_files_and_streams(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    for name, open_writer in (
        ("a.arrow", pyarrow.ipc.new_file),
        ("b.arrow", pyarrow.ipc.new_stream),
    ):
        with (
            pyarrow.OSFile(str(tmp_path / name), "wb") as out,
            open_writer(out, table.schema) as to,
        ):
            to.write_table(table)
        assert [row.value for row in read(tmp_path / name)] == ROWS
    whole = (tmp_path / "b.arrow").read_bytes()
    with pytest.raises(DataError, match=r"cut\.arrow: row 1: the arrow file cannot be read"):
        read(write(tmp_path / "cut.arrow", whole[:-40]))


def folder(tmp_path, **files):
    for name, content in files.items():
        path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path


def test_a_folder_stands_for_the_files_in_it(tmp_path):
    row = '{"text": "%s"}\n'
    folder(
        tmp_path, b_dot_jsonl=row % "b", a__c_dot_json="[%s]" % (row % "c"), README_dot_md="# hello",
        dataset_info_dot_json="{}", _dot_hidden_dot_json="[1]", notes_dot_py="x",
    )  # fmt: skip
    rows = read(tmp_path)
    assert [(row.value, row.place) for row in rows] == [
        ({"text": "c"}, f"{tmp_path}/a/c.json: row 1"), ({"text": "b"}, f"{tmp_path}/b.jsonl: row 1"),
    ]  # fmt: skip


def test_a_folder_of_splits_gives_the_split_that_is_asked_for(tmp_path):
    row = '{"text": "%s"}\n'
    folder(
        tmp_path, data__train_00000_of_00002_dot_jsonl=row % "a", validation__rows_dot_jsonl=row % "c",
        data__train_00001_of_00002_dot_jsonl=row % "b",
    )  # fmt: skip

    def texts(split):
        rows = read_rows(DatasetConfig(path=str(tmp_path), split=split))
        return [row.value for row in rows]

    assert texts("train") == [{"text": "a"}, {"text": "b"}] and texts("val") == [{"text": "c"}]
    with pytest.raises(DataError, match=r"split `test`; there are `train`, `validation`"):
        texts("test")


def test_a_folder_that_may_mean_two_things_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no data files; it holds none"):
        read(tmp_path)
    folder(tmp_path, rows_dot_jsonl='{"text": "a"}', book_dot_txt="It was a dark night.")
    with pytest.raises(DataError, match=r"rows \(such as rows\.jsonl\).*text \(such as book\.txt\)"):
        read(tmp_path)


def test_lines_stream(tmp_path):
    path = write(tmp_path / "a.jsonl", LINES + '\n{"text": ')
    rows = iter(read_rows(DatasetConfig(path=str(path))))
    assert next(rows).value == ROWS[0]  # what comes later is not read yet
    with pytest.raises(DataError, match="line 4"):
        list(rows)


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
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: expected an object in each line, got a list"),
        ("a.jsonl", '{"a": "\\ud800"}\n{"a": 1}', "line 1, column .*is not JSON"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", r"row 2 \(line 3\): expected 2 cells \(`a`, `b`\), got 3"),
        ("a.csv", 'a,b\n1,"2\n', r"row 1 .*is not CSV"),
        ("a.csv", "a;b\n1;2;3\n", r"expected 2 cells \(`a`, `b`\), got 3"),
        ("a.csv", b"a,b\n1,\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
        ("a.json", '{"data": [{"a": 1}], "rows": [{"a": 1}]}', "rows under `data`, `rows`"),
        ("a.json", '{"prompt": ["a", "b"], "completion": ["c"]}', "`prompt` 2, `completion` 1"),
        ("a.json", '{"data": []}', "holds no rows"),
        ("a.csv", "a,a\n1,2\n", "name of its own"),
        ("a.csv", "a,b\n", "a header and no rows"),
        ("a.txt", "", "is empty"),
        ("a.jsonl", " \n \n", "is empty"),
        ("a.txt", b"caf\xe9\n", "line 1: byte 0xe9 is not UTF-8; save"),
        ("a.txt", "a\nb\0", "line 2: holds a NUL byte"),
        ("a.jsonl.gz", b"\x1f\x8b\x08rest", "gzip file is damaged or cut off"),
        ("a.json", "\ufeffx".encode("utf-16"), "line 1, column 1: is not JSON"),
        ("a.txt", b"\xff\xfea", "no whole UTF-16 text"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfdx", "zstd.*unzstd"),
        ("a.pkl", b"\x80\x04\x95", "a Python pickle.*can run code"),
        ("a.arrow", "text", "not an arrow file"),
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
        "import sys; import evenfall.engine.data.inspector.preview, evenfall.engine.data.formats.normalise;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
