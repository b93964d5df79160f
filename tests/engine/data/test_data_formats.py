"""Formats are detected from many rows; what does not fit is an error that names the row."""

from typing import Any

import pytest

from evenfall.engine.data.detect import detect
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats import normalise
from evenfall.engine.data.normal import (
    EMPTY_ANSWER,
    EMPTY_TEXT,
    NO_ANSWER,
    Conversation,
    Document,
    Dropped,
)
from evenfall.engine.data.row import SourceRow

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def rows(*values):
    return [SourceRow("f.json", number, value) for number, value in enumerate(values, 1)]


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
        {"role": "assistant", "content": "", "tool_calls": [parsed]},
        {"role": "tool", "content": "r", "tool_call_id": "x1"},
        {"role": "assistant", "content": "done"},
    )
    assert row.masked == {1}


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
        ({"messages": [*CHAT, {"role": "assistant", "content": None}]}, EMPTY_ANSWER),
        ({"messages": CHAT[:1]}, NO_ANSWER),
        ({"conversations": []}, NO_ANSWER),
        ({"messages": [CHAT[0], {**CHAT[1], "weight": 0}]}, NO_ANSWER),
        ({"text": " "}, EMPTY_TEXT),
    ],
)
def test_rows_with_nothing_to_learn_are_dropped_under_a_reason(value, reason):
    row = read(value)
    assert isinstance(row, Dropped)
    assert row.reason == reason


@pytest.mark.parametrize(
    ("value", "format", "message"),
    [
        ({"instruction": 3, "output": "o"}, "alpaca", r"`instruction`: expected text, got a num"),
        ({"instruction": "i", "output": ["o"]}, "alpaca", r"`output`: expected text, got a list"),
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
            "only text can be learnt",
        ),
        ({"messages": [{**CHAT[1], "weight": 0.5}]}, "messages", "weight`: expected 0 or 1"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "sharegpt", r"value`: .*got null"),
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
