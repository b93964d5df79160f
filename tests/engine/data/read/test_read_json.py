"""JSON files: which objects are rows, which hold rows, and what is wrong where."""

import json
import tracemalloc

import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read.read import read_rows


def read(tmp_path, content, name="a.json", keep_broken=False, **config):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return list(read_rows(DatasetConfig(path=str(path), **config), keep_broken))


def values(*given, **config):
    return [row.value for row in read(*given, **config)]


TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
OTHER = [{"prompt": "i", "completion": "j"}]


@pytest.mark.parametrize("row", [
    {"messages": TURNS, "items": OTHER},
    {"messages": TURNS, "examples": []},
    {"messages": TURNS, "tags": ["x", "y"]},
    {"conversations": [{"from": "human", "value": "a"}], "data": OTHER},
    {"prompt": "a", "completion": "b", "samples": OTHER},
    {"prompt": TURNS[:1], "completion": TURNS[1:], "rows": OTHER},
    {"instruction": "a", "examples": OTHER},
    {"text": "a", "records": OTHER},
    {"question": "a", "answer": "b", "train": OTHER},
    {"chosen": TURNS, "rejected": TURNS, "data": OTHER},
    {"input_ids": [1, 2], "data": OTHER},
    {"tags": ["x", "y"]},
    {"messages": [], "data": OTHER},
])  # fmt: skip
@pytest.mark.parametrize("indent", [None, 2])
def test_what_looks_like_a_row_is_one(tmp_path, row, indent):
    assert values(tmp_path, json.dumps(row, indent=indent), "a.jsonl") == [row]


@pytest.mark.parametrize("beside", [
    {"version": "1.0", "description": "a", "label": "b"}, {"prompt": "a"}, {"messages": None}, {"rows": []},
])  # fmt: skip
def test_rows_under_a_key(tmp_path, beside):
    assert values(tmp_path, {**beside, "data": OTHER}) == OTHER


def test_rows_under_the_name_of_a_split(tmp_path):
    both = {"train": [{"text": "a"}], "validation": [{"text": "b"}]}
    assert values(tmp_path, both) == [{"text": "a"}]
    assert values(tmp_path, both, split="val") == [{"text": "b"}]
    with pytest.raises(DataError, match=r"rows of `train`, `validation`, none of the split `test`; set data\.split"):
        read(tmp_path, both, split="test")  # fmt: skip
    with pytest.raises(DataError, match="rows under `data`, `train`; write those"):
        read(tmp_path, {"data": OTHER, "train": OTHER})


@pytest.mark.parametrize("columns", [
    {"instruction": ["a", "b"], "output": ["c", "d"], "id": [1, 2]},
    {"instruction": ["a", "b"], "input": [None, "x"], "output": ["c", "d"]},
    {"messages": [TURNS, TURNS]},
    {"messages": {"0": TURNS, "7": TURNS}},
    {"prompt": ["a", "b"], "completion": ["c", "d"], "meta": [{"n": 1}, {"n": 2}], "label": [True, False]},
    {"prompt": {"0": "a", "1": "b"}, "completion": ["c", "d"]},
    {"text": ["a", "b"]},
    {"input_ids": [[1, 2], [3]], "labels": [[1, 2], [3]]},
    {"chosen": [TURNS, TURNS], "rejected": [TURNS, TURNS]},
])  # fmt: skip
def test_columns_of_whatever_they_hold(tmp_path, columns):
    lists = {key: list(v.values()) if isinstance(v, dict) else v for key, v in columns.items()}
    assert values(tmp_path, columns) == [{key: column[place] for key, column in lists.items()} for place in (0, 1)]


def test_what_is_no_number_is_null(tmp_path):
    rows = [{"text": f'NaN "Infinity\\{n}', "score": n} for n in range(9)]
    rows[3]["score"], rows[5]["score"], rows[6]["score"] = float("nan"), float("inf"), -float("inf")
    wanted = [row if row["score"] in range(9) else {**row, "score": None} for row in rows]
    lines = "\n".join(map(json.dumps, rows))
    for content in (
        json.dumps(rows),
        json.dumps(rows, indent=1),
        lines,
        json.dumps({"data": rows}),
    ):
        assert "NaN," in content or "NaN}" in content or "NaN\n" in content
        assert values(tmp_path, content) == wanted
    assert values(tmp_path, json.dumps(rows[3])) == [wanted[3]]


@pytest.mark.parametrize(("content", "place"), [
    ('[{"a": NaN}, {"a": -Infinity, "b": 1},\n {"a": NaN, "b": nope}]', r"row 3 \(line 2, column 18\): is not JSON"),
    ('[{"a": 1}, {"a": "\\ud800"}, {"a": 2}, {"a": 3}]', r"row 2 \(line 1, column 19\): is not JSON"),
    ('{"a": 1}\n{"a": NaN, "b": Infinity, "c": nope}\n', r"line 2, column 32: is not JSON"),
    ('{"a": 1}\n{"a": 1NaN}\n', "line 2, column 8: is not JSON"),
    ('{"a": 1}\n{NaN: 1}\n', "line 2, column 2: is not JSON"),
])  # fmt: skip
def test_a_fault_is_named_where_it_is(tmp_path, content, place):
    with pytest.raises(DataError, match=place):
        read(tmp_path, content)


@pytest.mark.parametrize("first", ['{"text": "a', "}", '{"text": "a"} more', "[1", "nonsense"])
def test_lines_of_which_the_first_is_broken_are_read_one_by_one(tmp_path, first):
    path = tmp_path / "a.jsonl"
    line = json.dumps({"text": "x" * 1000}) + "\n"
    path.write_text(first + "\n" + line * 20_000)
    tracemalloc.start()
    rows = read_rows(DatasetConfig(path=str(path)), keep_broken=True)
    count = sum(not row.broken for row in rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000 and peak < 5_000_000


@pytest.mark.parametrize("content", [
    '{"data": [\n{"text": "a"}\n,\n{"text": "b"}\n]}', '[\n{"text": "a"}\n,{"text": "b"}\n]',
    '[{"text": "a"},\n{"text": "b"}]', '{"data": [{"text": "a"}, {"text":\n"b"}]}',
])  # fmt: skip
def test_lines_of_a_document_are_no_rows(tmp_path, content):
    assert values(tmp_path, content) == [{"text": "a"}, {"text": "b"}]


def test_lines_of_lists_are_to_be_objects(tmp_path):
    with pytest.raises(
        DataError,
        match=r"a\.jsonl: line 1: expected an object in each line, got a list \(\[1, 2\]\)$",
    ):
        read(tmp_path, "[1, 2]\n[3, 4]\n", "a.jsonl")  # fmt: skip
    lines = "\n".join([json.dumps(TURNS)] * 2)
    with pytest.raises(DataError, match=r'line 1: expected an object.*write each as \{"messages": \[\.\.\.\]\}'):
        read(tmp_path, lines, "a.txt")  # fmt: skip
    rows = read(tmp_path, '[1]\n{"text": "a"}\n', "a.jsonl", keep_broken=True)
    assert [(bool(row.broken), row.value) for row in rows] == [
        (True, "[1]"),
        (False, {"text": "a"}),
    ]


@pytest.mark.parametrize(
    "value",
    [
        {"input": ["Hi", "How are you?"], "output": ["Hello", "Fine."]},
        {"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "one"}]},
        {"input_ids": [1, 2, 3], "labels": [-100, 2, 3]},
        {"question": ["a"], "answer": ["b"]},
    ],
)
def test_the_only_line_of_json_lines_is_a_row(tmp_path, value):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(value) + "\n")
    assert [row.value for row in read_rows(DatasetConfig(path=str(file)))] == [value]


@pytest.mark.parametrize("number", [2**63, 2**64, 123456789012345678901234, -(2**70), 10**30])
@pytest.mark.parametrize("form", ['{{"id": {}}}\n{{"id": 1}}\n', '[{{"id": {}}}]', '{{"data": [{{"id": {}}}]}}'])
def test_whole_numbers_of_any_size_stay_as_written(tmp_path, number, form):
    file = tmp_path / "a.json"
    file.write_text(form.format(number))
    first = next(iter(read_rows(DatasetConfig(path=str(file)))))
    assert first.value == {"id": number} and "." not in repr(first.value)


@pytest.mark.parametrize(
    "whole",
    [
        {"columns": ["question", "answer"], "index": [0, 1], "data": [["a", "b"], ["c", "d"]]},
        {"0": {"question": "a", "answer": "b"}, "1": {"question": "c", "answer": "d"}},
        {
            "features": [],
            "rows": [
                {"row_idx": 0, "row": {"question": "a", "answer": "b"}, "truncated_cells": []},
                {"row_idx": 1, "row": {"question": "c", "answer": "d"}, "truncated_cells": []},
            ],
        },
    ],
)
def test_tables_of_pandas_and_of_the_hub_s_viewer_are_ones(tmp_path, whole):
    (tmp_path / "a.json").write_text(json.dumps(whole))
    there = [row.value for row in read_rows(DatasetConfig(path=str(tmp_path / "a.json")))]
    assert there == [{"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}]


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("a.json", ["One text.", "Two."], r'\{"text": \.\.\.\}'),
        ("a.jsonl", "One text.", r'\{"text": \.\.\.\}'),
        ("a.json", [[{"role": "user", "content": "Hi"}]], r'\{"messages": \[\.\.\.\]\}'),
    ],
)
def test_what_is_no_object_is_told_how_to_become_one(tmp_path, name, content, fix):
    (tmp_path / name).write_text(json.dumps(content) + "\n")
    with pytest.raises(DataError, match=f"expected an object.*write each as {fix}"):
        list(read_rows(DatasetConfig(path=str(tmp_path / name))))
