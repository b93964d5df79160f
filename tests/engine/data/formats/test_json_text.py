"""Turns as JSON text are turns, in files of every kind; text that is merely JSON is text."""

import csv
import json

import pyarrow
import pyarrow.parquet
import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.read.read import read_rows

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def as_csv(path, row):
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([row.keys(), row.values()])


def as_lines(path, row):
    path.write_text(f"{json.dumps(row)}\n" * 2)


def as_array(path, row):
    path.write_text(json.dumps([row]))


def as_parquet(path, row):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)


WRITERS = [as_csv, as_lines, as_array, as_parquet]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "turns",
    [
        CHAT,
        CHAT[1],
        [{"id": 1, "role": "user", "content": "a"}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}],
        [
            {"role": "Assistant", "content": None, "tool_calls": []},
            {"role": "tool", "content": [{"type": "text", "text": "a"}]},
        ],
        [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{"name": "f"}]}],
    ],
)
def test_turns_as_text_are_turns(tmp_path, write, turns):
    for text in (json.dumps(turns), json.dumps(turns, indent=1)):
        write(tmp_path / "a", {"chosen": text, "rejected": "[no] text"})
        row = next(read_rows(DatasetConfig(path=str(tmp_path / "a"))))
        assert row.value == {"chosen": turns, "rejected": "[no] text"}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("text", [
    '[{"value": 5, "unit": "kg"}]',
    '[{"from": "Rome", "to": "Paris"}]',
    '[{"from": "Rome", "value": 5}]',
    '{"role": "Prime minister", "content": "a"}',
    '[{"role": "user", "content": "a"}, {"role": "narrator", "content": "b"}]',
    '[{"role": "user", "content": "a"}, "b"]',
    '[{"role": "user", "content": 5}]',
    '[{"role": "user", "text": "a"}]',
    '[{"role": ["user"], "content": "a"}]',
    '[{"role": "user", "content": "a"}',
    "[]", "{}", "[1, 2]", '{"from"', "[{'role': 'user', 'content': 'a'}]",
])  # fmt: skip
def test_other_json_is_text(tmp_path, write, text):
    write(tmp_path / "a", {"prompt": "q", "completion": text})
    row = next(read_rows(DatasetConfig(path=str(tmp_path / "a"))))
    assert row.value == {"prompt": "q", "completion": text}


def test_token_ids_in_a_cell_are_numbers(tmp_path):
    as_csv(tmp_path / "a.csv", {"input_ids": "[1, 2]", "labels": "[-100, 2]", "text": "[1, 2]"})
    (row,) = read_rows(DatasetConfig(path=str(tmp_path / "a.csv")))
    assert row.value == {"input_ids": [1, 2], "labels": [-100, 2], "text": "[1, 2]"}


@pytest.mark.parametrize("write", WRITERS)
def test_a_run_learns_turns_that_are_text(tmp_path, run, write):
    write(tmp_path / "a", {"messages": json.dumps(CHAT)})
    assert run(tmp_path / "a", drop=["duplicate"]).report.rows
