"""Which tool calls and orders of turns are wrong, and which only look so."""

from typing import Any

import pytest

from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.problems.calls import has_wrong_call
from evenfall.engine.data.problems.codes import ROW_PROBLEMS, TURN_ORDER
from evenfall.engine.data.problems.rows import BIT, RowProblems
from evenfall.engine.data.row import SourceRow

PROPERTIES: dict[str, Any] = {
    "city": {"type": "string"},
    "days": {"type": "integer"},
    "unit": {"enum": ["C", "F", 1]},
    "near": {"type": "array", "items": {"type": "number"}},
    "at": {
        "type": "object",
        "properties": {"hour": {"type": ["integer", "string"]}},
        "required": ["hour"],
    },
    "either": {"anyOf": [{"type": "string"}, {"type": "boolean"}]},
    "maybe": {"type": "string", "nullable": True},
    "python": {"type": "dict"},
    "elsewhere": {"$ref": "#/$defs/x"},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["city"]}


def conversation(messages, tools=()) -> Conversation:
    row = normalise(
        SourceRow(file="f", number=1, value={"messages": messages, "tools": list(tools)}),
        "messages",
    )
    assert isinstance(row, Conversation)
    return row


def called(arguments, schema: Any = SCHEMA, name="weather") -> Conversation:
    calls = [{"function": {"name": name, "arguments": arguments}}]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]
    return conversation(turns, [{"name": "weather", "parameters": schema}])


@pytest.mark.parametrize(
    "more",
    [
        {"city": 5}, {"city": True}, {"city": ["Oslo"]}, {"days": "three"}, {"days": 2.5}, {"days": True},
        {"unit": "K"}, {"unit": True}, {"near": 1}, {"near": [1, "2"]}, {"at": {"hour": 1.5}}, {"at": {}},
        {"either": 3}, {"town": "Oslo"},
    ],
)  # fmt: skip
def test_arguments_that_a_tool_does_not_take(more):
    assert has_wrong_call(called({"city": "Oslo", **more}))


@pytest.mark.parametrize(
    "more",
    [
        {}, {"days": 3}, {"days": 3.0}, {"unit": 1}, {"near": []}, {"near": [1, 2.5]}, {"at": {"hour": "12"}},
        {"at": {"hour": 12, "minute": 3}}, {"either": False}, {"python": [1]}, {"elsewhere": 3},
    ],
)  # fmt: skip
def test_arguments_that_a_tool_takes(more):
    assert not has_wrong_call(called({"city": "Oslo", **more}))


def test_null_is_an_argument_left_out_unless_it_is_required():
    assert not has_wrong_call(called('{"city": "Oslo", "days": null, "maybe": null}'))
    assert has_wrong_call(called('{"city": null}'))
    assert has_wrong_call(called({"days": 3}))


def test_more_arguments_than_a_schema_names():
    open_ = {**SCHEMA, "additionalProperties": {"type": "integer"}}
    assert not has_wrong_call(called({"city": "Oslo", "more": 3}, open_))
    assert has_wrong_call(called({"city": "Oslo", "more": "3"}, open_))
    assert not has_wrong_call(called({"any": 1}, {"type": "object", "properties": {}}))
    assert not has_wrong_call(called({"any": 1}, None))
    closed = {"type": "object", "properties": {"at": {"additionalProperties": False}}}
    assert not has_wrong_call(called({"at": {}}, closed))
    assert has_wrong_call(called({}, name="storm"))


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
C = {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}
T, S = {"role": "tool", "content": "r"}, {"role": "system", "content": "s"}
TEXT = {"role": "assistant", "content": '<tool_call>{"name": "f", "arguments": {}}</tool_call>'}
REACT = {"role": "assistant", "content": "Thought: hm\nAction: f\nAction Input: {}"}


@pytest.mark.parametrize(
    ("turns", "wrong"),
    [
        ([U, C, T, A], False),
        ([S, U, C, T, T, C, T, A, U, A], False),
        ([U, C], False),
        ([U, C, A], False),  # a call, and text to it
        ([U, TEXT, T, A], False),
        ([U, TEXT, U, A], False),  # whose results the user brings
        ([U, REACT, T, A], False),
        ([U, A, T, A], True),
        ([U, A, U, T, A], True),
        ([U, C, U, A], True),
        ([U, C, T, U, A], False),
    ],
)
def test_calls_and_their_results_in_order(chatml, turns, wrong):
    found = RowProblems(chatml).of(conversation(turns), ())
    assert bool(found & BIT[TURN_ORDER]) is wrong


def test_a_block_has_a_bit_for_each_problem():
    assert len(ROW_PROBLEMS) <= 16
