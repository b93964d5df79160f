"""What a file is: text that begins like JSON or like a table is neither, unless it goes on so."""

import json

import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.read.read import read_rows
from evenfall.engine.data.read.sniff import sniff

TURNS = {"messages": [{"role": "user", "content": "ü" * 40_000}]}


def kind(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    return sniff(path, name)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a"])
@pytest.mark.parametrize("content", [
    "[ ] buy milk\n[x] sleep\n",
    "[]\nbuy milk\n",
    '{"just": ...} text\n',
    '{"a": 1} is an object\n',
    "{} is empty\n",
    "Prompt, Response, and other words\nare what this book is about.\n",
    "Question, answer. Question, answer.\n",
    "| prompt | response |\n|---|---|\n| a | b |\n",
    "input,output\r",
])  # fmt: skip
def test_text_is_text(tmp_path, name, content):
    assert kind(tmp_path, name, content) == "text"
    (row,) = read_rows(DatasetConfig(path=str(tmp_path / name)))
    assert row.value == content


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a", "a.csv"])
@pytest.mark.parametrize("content", [
    "[]", "{}", ' [\n{"a": 1}]', "[{}, {}]", '{"a": 1}', '{"a": NaN}\n{"a": 2}\n', '{\n"a": 1}\n\n',
    '{"a": nope}\n{"a": 1}\n', '{"a": [1, 2', '{"a": "b', '[{"a": nope}', json.dumps(TURNS) + "\n",
    json.dumps(TURNS, ensure_ascii=False), "[" * 9 + '{"a": 1}' + "]" * 9, '{"a":' * 9_000,
    *('{"a": "' + "x" * n + "\\u00fc" * 20_000 for n in range(6)),
    *('{"a": 1' + " " * n + ", \"b\": -Infinity" * 9_000 for n in range(17)),
])  # fmt: skip
def test_json_is_json_behind_any_name(tmp_path, name, content):
    nested = content.startswith("[[")
    assert (kind(tmp_path, name, content) == "json") != nested


@pytest.mark.parametrize("content", [
    "prompt,completion\na,b\n",
    "Prompt; Response\na;b\nc;d;e\nf;g\n",
    'question\tanswer\n"a\n\tb"\tc\n',
    ",instruction,output\n0,a,b\n",
    "prompt|response|\na|b|\n",
    "prompt,response\n" + "a,b\n" * 30_000,
    'prompt,response\n"' + "a\n" * 40_000 + '",b\n',
])  # fmt: skip
def test_a_table_behind_any_name(tmp_path, content):
    assert kind(tmp_path, "a.txt", content) == "table"


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.yaml", "- prompt: A?\n  completion: b\n", "YAML"),
        ("rows.tmx", "<tmx></tmx>", "XML"),
        ("page", "<!DOCTYPE html>\n<p>a</p>", "HTML"),
        ("page.data", '<?xml version="1.0"?><a/>', "XML"),
    ],
)
def test_markup_that_holds_rows_is_no_running_text(tmp_path, name, content, what):
    with pytest.raises(DataError, match=f"is {what}, of which no rows are read; write them as JSON Lines"):
        kind(tmp_path, name, content)
    assert kind(tmp_path, "a.txt", content) == "text"
