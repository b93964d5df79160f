"""Formats are detected from many rows; what does not fit is an error that names the row."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import (
    EMPTY_ANSWER,
    EMPTY_NOT_LEARNT,
    EMPTY_TEXT,
    NO_ANSWER,
    Conversation,
    Document,
    Dropped,
    Flag,
    Tokens,
)
from evenfall.engine.data.formats.normalise import NUMBERS_READ, normalise
from evenfall.engine.data.read.read import read_rows
from evenfall.engine.data.row import SourceRow

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def rows(*values):
    return [SourceRow(file="f.json", number=number, value=value) for number, value in enumerate(values, 1)]


def read(value, format: Any = "auto"):
    (row,) = rows(value)
    return normalise(row, detect([row]).format if format == "auto" else format)


def turns(value, format="auto"):
    row = read(value, format)
    assert isinstance(row, Conversation)
    return [(message["role"], message["content"]) for message in row.messages]


@pytest.mark.parametrize(
    ("value", "format"),
    [
        ({"instruction": "i", "output": "o", "text": "rendered"}, "alpaca"),
        ({"instruction": "i", "input": None, "response": "o"}, "alpaca"),
        ({"messages": CHAT, "prompt": "q"}, "messages"),
        ({"conversations": CHAT}, "messages"),
        ({"messages": SHARE}, "sharegpt"),
        ({"conversations": SHARE}, "sharegpt"),
        ({"prompt": "p", "completion": "c"}, "prompt_completion"),
        ({"question": "q", "answer": "a"}, "prompt_completion"),
        ({"query": "q", "response": "a"}, "prompt_completion"),
        ({"text": "t", "messages": None}, "text"),
        ("running text", "text"),
    ],
)
def test_detects(value, format):
    detection = detect(rows(value, value))
    assert detection.format == format
    assert detection.reason


def test_detection_looks_at_rows_over_the_whole_file():
    same = [{"instruction": "i", "output": "o"}] * 5000
    assert detect(rows(*same)).format == "alpaca"
    with pytest.raises(DataError, match=r"f\.json: row 5001: is text .* but row 1 is alpaca"):
        detect(rows(*same, {"text": "t"}))


def test_aliases_and_empty_conversations_may_be_mixed():
    qa, query = {"question": "q", "answer": "a"}, {"query": "q", "response": "a"}
    detection = detect(rows(qa, query))
    assert detection.format == "prompt_completion"
    assert "`question` and `answer` or `query` and `response`" in detection.reason
    empty = {"conversations": []}
    assert detect(rows(empty, {"conversations": SHARE}, empty)).format == "sharegpt"
    assert detect(rows({"conversations": CHAT}, empty)).format == "messages"


def test_alpaca():
    value = {
        "system": "s",
        "history": [["q1", "a1"]],
        "instruction": "i",
        "input": "more",
        "output": "o",
    }
    assert turns(value) == [
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "i\nmore"),
        ("assistant", "o"),
    ]
    assert turns({"instruction": "i", "input": "", "response": "o"})[0] == ("user", "i")


def test_alpaca_prompt_for_models_without_a_template_is_stanfords():
    row = read({"instruction": "Add.", "input": "1 2", "output": "3"})
    assert isinstance(row, Conversation)
    assert row.plain == (
        (
            "Below is an instruction that describes a task, paired with an input that provides "
            "further context. Write a response that appropriately completes the request.\n\n"
            "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
        ),
        "3",
    )


def test_sharegpt_with_tools():
    row = read(
        {
            "system": "be brief",
            "tools": '[{"name": "look", "parameters": {}}]',
            "conversations": [
                {"from": "Human", "value": "q"},
                {"from": "function_call", "value": '{"name": "look", "arguments": {"at": 1}}'},
                {"from": "observation", "value": "seen"},
                {"from": "gpt", "value": "a"},
            ],
        }
    )
    assert isinstance(row, Conversation)
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": 1}}}
    assert row.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "seen"},
        {"role": "assistant", "content": "a"},
    )
    assert row.tools == ({"type": "function", "function": {"name": "look", "parameters": {}}},)


def test_openai_messages_with_parts_calls_and_weights():
    call = {"id": "x1", "type": "function", "function": {"name": "f", "arguments": '{"k": [1]}'}}
    row = read(
        {
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
                {"role": "tool", "content": "r", "tool_call_id": "x1", "tool_calls": None},
                {"role": "assistant", "content": "done", "weight": 1},
            ],
        }
    )  # fmt: skip
    assert isinstance(row, Conversation)
    parsed = {"id": "x1", "type": "function", "function": {"name": "f", "arguments": {"k": [1]}}}
    assert row.messages == (
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "", "tool_calls": [parsed], "flag": Flag("messages[1].weight", False)},
        {"role": "tool", "content": "r", "tool_call_id": "x1"},
        {"role": "assistant", "content": "done"},
    )  # fmt: skip
    assert row.masked == {1}


def made_by_a_table(tmp_path, *values):
    """Rows as parquet gives them back: each with the keys of all."""
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(list(values)), path)
    return [normalise(row, detect([row]).format) for row in read_rows(DatasetConfig(path=str(path)))]


def asked(name, arguments, **more):
    calls = [{"function": {"name": name, "arguments": arguments}}]
    return {
        "messages": [CHAT[0], {"role": "assistant", "content": "", "tool_calls": calls}],
        **more,
    }


def test_nulls_that_a_table_puts_into_calls_and_tools_are_not_there(tmp_path):
    def tool(name, **properties):
        parameters = {"type": "object", "properties": properties}
        return [{"type": "function", "function": {"name": name, "parameters": parameters}}]

    city = {"type": "string", "enum": ["Oslo", None], "default": "Oslo"}
    places = {"city": "Oslo", "at": {"x": 1}, "near": [{"a": 1}, {"b": 2}]}
    values = (
        asked("weather", places, tools=tool("weather", city=city)),
        asked("time", {"zone": "CET"}, tools=tool("time", zone={"description": "which"})),
    )
    found = made_by_a_table(tmp_path, *values)
    for row, value in zip(found, values, strict=True):
        assert isinstance(row, Conversation)
        calls = value["messages"][1]["tool_calls"]
        assert row.messages[1]["tool_calls"] == [{"type": "function", **calls[0]}]
        assert row.tools == tuple(value["tools"])


def test_nulls_of_json_text_are_its_authors_own():
    arguments = {"zone": None}
    tools = [{"type": "function", "function": {"name": "time", "description": None}}]
    turns = [SHARE[0], {"from": "function_call", "value": json.dumps({"name": "time", "arguments": arguments})}]
    for value in (
        asked("time", json.dumps(arguments), tools=json.dumps(tools)),
        {"conversations": turns, "tools": json.dumps(tools)},
    ):
        row = read(value)
        assert isinstance(row, Conversation)
        assert row.messages[1]["tool_calls"][0]["function"]["arguments"] == arguments
        assert row.tools == tuple(tools)


def test_openais_old_functions(tmp_path):
    functions = [{"name": "look", "parameters": {"type": "object"}}]
    old = {"name": "look", "arguments": '{"at": "x"}'}
    turns = [
        CHAT[0],
        {"role": "assistant", "content": None, "function_call": old},
        {"role": "function", "name": "look", "content": "seen"},
        CHAT[1],
    ]
    value = {"messages": turns, "functions": functions}
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
    for row in (read(value), *made_by_a_table(tmp_path, value)):
        assert isinstance(row, Conversation)
        assert row.messages[1:3] == (
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "seen", "name": "look"},
        )
        assert row.tools == ({"type": "function", "function": functions[0]},)
    same = read({**value, "tools": [{"type": "function", "function": functions[0]}]})
    assert isinstance(same, Conversation) and len(same.tools) == 1
    with pytest.raises(DataError, match=r"row 1: has other tools in `tools` than in `functions`"):
        read({**value, "tools": [{"name": "other"}]})
    turns[1] = {**turns[1], "tool_calls": [call]}
    with pytest.raises(DataError, match=r"`messages\[1\]`: has `function_call` and `tool_calls`"):
        read(value)


def test_flags_of_messages_that_are_no_answers_are_kept():
    row = read({"messages": [{**CHAT[0], "train": False}, {**CHAT[1], "train": True}]})
    assert isinstance(row, Conversation)
    assert row.messages[0]["flag"] == Flag("messages[0].train", False)
    assert "flag" not in row.messages[1] and not row.masked


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "input": "b", "output": "a"},
        {"prompt": "q", "completion": "a", "label": True},
    ],
)
def test_system_text_that_is_dropped_is_in_no_prompt_either(value):
    (bare,) = rows(value)
    (row,) = rows({"system": "SYSTEM RULES", **value})
    format = detect([row]).format
    dropped, without = (normalise(one, format, drop_system=True) for one in (row, bare))
    assert isinstance(dropped, Conversation) and isinstance(without, Conversation)
    assert (dropped.messages, dropped.plain) == (without.messages, without.plain)


def test_a_system_column_that_repeats_the_rows_own_system_message_is_taken_as_one():
    own = {"role": "system", "content": "be brief\n"}
    value = {"system": "be brief", "messages": [own, *CHAT]}
    assert turns(value)[:2] == [("system", "be brief\n"), ("user", "q")]
    assert turns({**value, "system": " "}) == turns(value)
    assert turns({"system": "be brief", "prompt": [own, CHAT[0]], "completion": "a"}) == turns(value)
    with pytest.raises(DataError, match="has a `system` column and a system message"):
        read({**value, "system": "be long"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"question": "2+2", "answer": 4}, ("2+2", "4")),
        ({"prompt": 17, "completion": True}, ("17", "true")),
        ({"instruction": "half of 1", "input": 1, "output": 0.5}, ("half of 1\n1", "0.5")),
        ({"instruction": "i", "output": 10**400}, ("i", str(10**400))),
        ({"prompt": "p", "completion": 4, "label": True}, ("p", "4")),
        ({"prompt": [CHAT[0]], "completion": 4}, ("q", "4")),
    ],
)
def test_numbers_are_read_as_their_json_text_and_that_is_noted(value, said):
    row = read(value)
    assert isinstance(row, Conversation)
    assert tuple(message["content"] for message in row.messages) == said
    assert row.notes == (NUMBERS_READ,)
    assert row.plain is None or row.plain[1] == said[1]


def test_an_empty_answer_among_others_is_context():
    for empty in (None, " "):
        row = read({"messages": [*CHAT, CHAT[0], {"role": "assistant", "content": empty}, *CHAT]})
        assert isinstance(row, Conversation)
        assert row.masked == {3} and row.notes == (EMPTY_NOT_LEARNT,) and len(row.messages) == 6


def test_reasoning_alone_is_for_the_template_to_judge():
    thinks = {"role": "assistant", "content": None, "reasoning_content": "so"}
    row = read({"messages": [CHAT[0], thinks]})
    assert isinstance(row, Conversation) and not row.masked and not row.notes


def test_a_prompt_of_messages_is_not_learnt():
    prompt = [*CHAT, {"role": "user", "content": "q2"}]
    row = read({"prompt": prompt, "completion": [{"role": "assistant", "content": "a2"}]})
    assert isinstance(row, Conversation)
    assert len(row.messages) == 4
    assert row.masked == {1}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"instruction": "i", "output": " \n"}, EMPTY_ANSWER),
        ({"prompt": "p", "completion": ""}, EMPTY_ANSWER),
        ({"messages": [CHAT[0], {"role": "assistant", "content": None}]}, EMPTY_ANSWER),
        ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}, {"role": "assistant", "content": ""}]}, EMPTY_ANSWER),
        ({"conversations": [SHARE[0], {"from": "gpt", "value": None}]}, EMPTY_ANSWER),
        ({"conversations": [{"human": "q", "assistant": None}]}, EMPTY_ANSWER),
        ({"conversations": [{**turn, "human": None, "assistant": None} for turn in SHARE[:1]]}, NO_ANSWER),
        ({"messages": CHAT[:1]}, NO_ANSWER),
        ({"conversations": []}, NO_ANSWER),
        ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}, NO_ANSWER),
        ({"text": " "}, EMPTY_TEXT),
    ],
)  # fmt: skip
def test_rows_with_nothing_to_learn_are_dropped_under_a_reason(value, reason):
    row = read(value)
    assert isinstance(row, Dropped)
    assert row.reason == reason


@pytest.mark.parametrize(
    ("value", "format", "message"),
    [
        ({"instruction": {}, "output": "o"}, "alpaca", r"`instruction`: expected text, got an obj"),
        (
            {"prompt": "p", "completion": float("nan")},
            "prompt_completion",
            "expected text, got a num",
        ),
        ({"messages": [{"role": "user", "content": 4}]}, "messages", "expected text, got a number"),
        ({"instruction": "i", "output": [["o"]]}, "alpaca", r"`output`: expected text, got a list"),
        ({"instruction": "i", "output": ["o", "p"]}, "alpaca", r"`output`: holds 2 texts, .*{output: output} learns"),
        ({"instruction": "i", "output": None}, "alpaca", r"is not alpaca.*`output`: null"),
        ({"instruction": "i", "output": "o", "history": "h"}, "alpaca", "`history`: expected"),
        ({"text": "t"}, "alpaca", "is not alpaca: expected `instruction` and `output`, got `text`"),
        ({"messages": "hi"}, "messages", "`messages`: expected a list"),
        ({"messages": [{"role": "user"}]}, "messages", r"`messages\[0\]\.content`.*got null"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages", r"role`: .*'king'"),
        ({"messages": ["x"]}, "messages", r"`messages\[0\]`: expected"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages",
            "only text, reasoning, calls and their results can be learnt",
        ),
        ({"messages": [{**CHAT[1], "weight": 0.5}]}, "messages", "weight`: expected 0 or 1"),
        ({"conversations": [{"from": "human", "value": None}]}, "sharegpt", r"value`: .*got null"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "sharegpt", "is not JSON"),
        ({"conversations": SHARE, "tools": "{oops"}, "sharegpt", "`tools`: is not JSON"),
        (
            {"prompt": "p", "completion": CHAT},
            "prompt_completion",
            "expected the answer to `prompt`, got a user",
        ),
        ({"text": "\ud800"}, "text", "surrogate"),
        ("running text", "messages", "is running text"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error_that_names_it(value, format, message):
    with pytest.raises(DataError, match=rf"^f\.json: row 1: .*{message}"):
        read(value, format)


def test_documents():
    assert read({"text": " a "}) == Document(rows({"text": " a "})[0], " a ")


def test_masks_may_be_true_or_false():
    one = read({"input_ids": [5, 6, 7, 0], "attention_mask": [True, True, True, False], "labels": [-100, 6, 7, -100]})
    assert isinstance(one, Tokens) and one.ids == (5, 6, 7) and one.trained.tolist() == [False, True, True]
    with pytest.raises(DataError, match="expected a whole number"):
        read({"input_ids": [5, True]})
