"""Rows as services and tools write them: content in parts, tools and calls in their spellings, what was asked."""

import json
from typing import Any

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.row import SourceRow

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def read(value: dict[str, Any], overrides=()) -> Conversation:
    row = SourceRow(file="f.jsonl", number=1, value=value)
    data = RunConfig().with_overrides(list(overrides)).data
    found = detect([row], data.columns, format=data.format)
    normal = normalise(row, found.format, {**found.settled, **data.columns})
    assert isinstance(normal, Conversation), normal
    return normal


def turns(value, overrides=()):
    return [(m["role"], m["content"]) for m in read(value, overrides).messages]


def chat(answer: Any, ask: Any = "Hi", **beside) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}], **beside}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "Hello"},
        {"type": "text", "value": "Hello"},
        {"type": "output_text", "text": "Hello", "annotations": []},
        {"text": "Hello"},
        {"type": "text", "text": "Hello", "image_url": None},  # as a table has it
        "Hello",
    ],
)
def test_text_stands_in_parts_of_every_vendor(part):
    assert turns(chat([part])) == [("user", "Hi"), ("assistant", "Hello")]
    assert turns(chat([part, {"text": " you"}])) == [("user", "Hi"), ("assistant", "Hello you")]
    assert turns(chat("Hello", [part])) == [("user", "Hello"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "reasoning", "value": "I look."},
        {"type": "thinking", "thinking": "I look.", "signature": "x"},
        {"type": "reasoning", "summary": [], "content": [{"type": "summary_text", "text": "I look."}]},
        {"text": "I look.", "thought": True},
        {"reasoningContent": {"reasoningText": {"text": "I look.", "signature": "x"}}},
    ],
)
def test_reasoning_stands_in_parts_of_every_vendor(part):
    answer = read(chat([part, {"text": "Four."}])).messages[1]
    assert (answer["reasoning_content"], answer["content"]) == ("I look.", "Four.")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "tool_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
        {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}},
        {"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"city": "Oslo"}}},
    ],
)
def test_calls_stand_in_parts_of_every_vendor(part):
    answer = read(chat([{"text": "I ask."}, part])).messages[1]
    assert answer["content"] == "I ask."
    assert [{k: v for k, v in call.items() if k != "id"} for call in answer["tool_calls"]] == [CALL]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "tool_result", "tool_use_id": "t1", "content": '{"celsius": 4}'},
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": '{"celsius": 4}'}]},
        {"functionResponse": {"id": "t1", "name": "weather", "response": {"celsius": 4}}},
        {"toolResult": {"toolUseId": "t1", "content": [{"json": {"celsius": 4}}], "status": "success"}},
    ],
)
def test_results_of_calls_are_messages_of_their_own(part):
    row = read({"messages": [
        {"role": "user", "content": "How warm?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "t1", **CALL}]},
        {"role": "user", "content": [part, {"type": "text", "text": "Well?"}]},
        {"role": "assistant", "content": "Four degrees."},
    ]})  # fmt: skip
    assert [message["role"] for message in row.messages] == ["user", "assistant", "tool", "user", "assistant"]
    assert row.messages[2]["content"] == '{"celsius": 4}' and row.messages[2]["tool_call_id"] == "t1"
    assert row.messages[3]["content"] == "Well?"


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
        {"name": "weather", "arguments": {"city": "Oslo"}},
        {"name": "weather", "parameters": {"city": "Oslo"}},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"name": "weather", "arguments": {"city": "Oslo", "unit": None}},  # a table's null
        {"function": {"name": "weather", "arguments": None, "parameters": {"city": "Oslo"}}},
    ],
)
def test_a_call_is_read_in_every_spelling(call):
    value = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    (made,) = read(value).messages[1]["tool_calls"]
    assert {key: part for key, part in made.items() if key != "id"} == CALL
    assert made.get("id") == call.get("id", call.get("call_id"))


@pytest.mark.parametrize("arguments", ['{"id": 123456789012345678901234}', {"id": 123456789012345678901234}])
def test_a_long_number_in_a_call_stays_whole(arguments):
    call = {"function": {"name": "find", "arguments": arguments}}
    value = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    made = read(value).messages[1]["tool_calls"][0]["function"]["arguments"]
    assert made == {"id": 123456789012345678901234} and isinstance(made["id"], int)


def test_a_null_that_json_text_holds_is_meant():
    call = {"function": {"name": "weather", "arguments": '{"city": null}'}}
    value = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [call]}]}
    assert read(value).messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": None}


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL],
        json.dumps([TOOL]),
        [json.dumps(TOOL)],
        [TOOL["function"]],
        [{"type": "function", **TOOL["function"]}],
        [{"name": "weather", "input_schema": {"type": "object"}}],
        [{"functionDeclarations": [TOOL["function"]]}],
        {"tools": [{"toolSpec": {"name": "weather", "inputSchema": {"json": {"type": "object"}}}}]},
    ],
)
def test_tools_are_read_in_every_spelling(tools):
    assert read(chat("Hello", tools=tools)).tools == (TOOL,)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], r"`messages\[1\].content\[0\]`.*only text"),
        ([{"inlineData": {"mimeType": "image/png"}}], "only text"),
        ([{"type": "text"}], "expected text, got null"),
        ([{"functionCall": {"name": "a"}}, {"text": "then"}], "after a call"),
        ([{"type": "tool_result", "content": "x"}], "no answer"),
        ([7], "only text"),
    ],
)
def test_a_part_that_cannot_be_learnt_is_named(answer, words):
    with pytest.raises(DataError, match=words):
        read(chat(answer))


def test_a_user_makes_no_calls_and_does_not_reason():
    for part in ({"functionCall": {"name": "a"}}, {"type": "thinking", "thinking": "x"}):
        with pytest.raises(DataError, match="which is the assistant's; its role is user"):
            read(chat("Hello", [part]))


GEMINI = {
    "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Capital of Peru?"}]},
        {"role": "model", "parts": [{"text": "Lima."}]},
    ],
}
BEDROCK = {
    "schemaVersion": "bedrock-conversation-2024",
    "system": [{"text": "Be brief."}],
    "messages": [
        {"role": "user", "content": [{"text": "Capital of Peru?"}]},
        {"role": "assistant", "content": [{"text": "Lima."}]},
    ],
}


@pytest.mark.parametrize(
    "value", [GEMINI, BEDROCK, {**GEMINI, "systemInstruction": {"parts": [{"text": "Be brief."}]}}]
)
def test_what_a_service_is_tuned_with_is_read(value):
    assert turns(value) == [("system", "Be brief."), ("user", "Capital of Peru?"), ("assistant", "Lima.")]


def test_a_weight_of_the_loss_says_what_is_learnt():
    row = read({"messages": [
        {"role": "user", "content": "Colour of the sky?", "loss_weight": 0.0},
        {"role": "assistant", "content": "Green.", "loss_weight": 0.0},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "No: it is blue.", "loss_weight": 1.0},
    ]})  # fmt: skip
    assert row.masked == {1}
    with pytest.raises(DataError, match=r"loss_weight`: expected 0 or 1, got a number \(0.5\)"):
        read(
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss_weight": 0.5}]}
        )


CHOSEN = [{"role": "user", "content": "Capital of Peru?"}, {"role": "assistant", "content": "Lima."}]
REJECTED = [CHOSEN[0], {"role": "assistant", "content": "Quito."}]


@pytest.mark.parametrize(
    "value",
    [
        {"chosen_messages": CHOSEN, "rejected_messages": REJECTED},
        {"input": {"messages": CHOSEN[:1], "tools": [TOOL], "parallel_tool_calls": True},
         "preferred_output": CHOSEN[1:], "non_preferred_output": REJECTED[1:]},
        {"question": "Capital of Peru?", "response_j": "Lima.", "response_k": "Quito."},
        {"chosen": "\n\nHuman: Capital of Peru?\n\nAssistant: Lima.",
         "rejected": "\n\nHuman: Capital of Peru?\n\nAssistant: Quito."},
    ],
)  # fmt: skip
def test_the_chosen_answer_of_every_vendor_is_learnt(value):
    row = read(value, ["data.format=preference"])
    assert [(m["role"], m["content"]) for m in row.messages] == [("user", "Capital of Peru?"), ("assistant", "Lima.")]
    assert not row.masked and row.tools == ((TOOL,) if "input" in value else ())
    assert detect([SourceRow(file="f", number=1, value=value)]).format == "preference"


def test_a_dialogue_in_one_text_learns_what_the_two_differ_in():
    begin = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant: "
    row = read({"chosen": begin + "Well.", "rejected": begin + "No."}, ["data.format=preference"])
    assert [m["content"] for m in row.messages] == ["Hi", "Hello", "And?", "Well."] and row.masked == {1}


@pytest.mark.parametrize(
    ("prompt", "answer"), [("query", "response"), ("prompt", "completion"), ("question", "answer")]
)
def test_the_turns_before_a_pair_are_its_history(prompt, answer):
    value = {prompt: "And how long?", answer: "1,090 km.", "history": [["Name a river.", "The Elbe."]]}
    assert turns(value) == [
        ("user", "Name a river."), ("assistant", "The Elbe."), ("user", "And how long?"), ("assistant", "1,090 km."),
    ]  # fmt: skip
    assert turns({prompt: "q", answer: "a", "history": []}) == [("user", "q"), ("assistant", "a")]


def test_two_lists_of_texts_are_turns():
    value = {"input": ["Hi", "How are you?"], "output": ["Hello", "Fine."]}
    assert turns(value) == [("user", "Hi"), ("assistant", "Hello"), ("user", "How are you?"), ("assistant", "Fine.")]
    with pytest.raises(DataError, match="`input` has 1 texts and `output` 2"):
        read({"input": ["Hi"], "output": ["Hello", "Fine."]})


def test_capital_letters_change_no_format():
    value = {"Instruct": "Translate to German.", "Input": "good morning", "Output": "guten Morgen"}
    assert turns(value) == [("user", "Translate to German.\ngood morning"), ("assistant", "guten Morgen")]
    assert turns({"Question": "q", "Answer": "a"}) == [("user", "q"), ("assistant", "a")]
    assert turns({"Messages": CHOSEN}) == [("user", "Capital of Peru?"), ("assistant", "Lima.")]


def test_an_object_where_a_text_belongs_has_a_way_out():
    value = {"instruction": "Summarise.", "context": {"tone": "friendly"}, "response": "A text."}
    with pytest.raises(DataError, match=r"`context`: expected text.*data.ignore=\[context\]"):
        read(value)


def test_pairs_of_one_turn_each():
    turns_ = [
        {"system": "Be brief.", "input": "Which tree?", "output": "An ash."},
        {"input": "And now?", "output": "It is felled.", "output_with_loss": False},
    ]
    row = read({"conversation": turns_})
    said = [(m["role"], m["content"]) for m in row.messages]
    assert said == [
        ("system", "Be brief."), ("user", "Which tree?"), ("assistant", "An ash."),
        ("user", "And now?"), ("assistant", "It is felled."),
    ]  # fmt: skip
    assert row.masked == {4}


def test_calls_and_results_in_roles_of_their_own():
    calls = [
        {"role": "tool_call", "content": f'{{"name": "weather", "arguments": {{"city": "{city}"}}}}'} for city in "AB"
    ]
    results = [{"role": "tool_response", "content": "1"}, {"role": "tool", "content": "2"}]
    row = read(
        {"messages": [{"role": "user", "content": "Hi"}, *calls, *results, {"role": "assistant", "content": "3"}]}
    )
    assert [m["role"] for m in row.messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert [call["function"]["arguments"] for call in row.messages[1]["tool_calls"]] == [{"city": "A"}, {"city": "B"}]


def test_a_call_with_its_result_in_one_turn():
    turn = {"role": "tool", "name": "weather", "parameters": {"city": "Oslo"}, "observation": "9"}
    row = read({"conversations": [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "I look."}, turn,
        {"role": "assistant", "content": "9 degrees"},
    ]})  # fmt: skip
    assert [(m["role"], m["content"]) for m in row.messages] == [
        ("user", "Hi"), ("assistant", "I look."), ("tool", "9"), ("assistant", "9 degrees")
    ]  # fmt: skip
    assert row.messages[1]["tool_calls"] == [CALL] and row.messages[2]["name"] == "weather"


def test_items_of_responses_are_turns():
    row = read({"messages": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "c", "output": "9"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "9 degrees"}]},
    ]})  # fmt: skip
    assert [(m["role"], m["content"]) for m in row.messages] == [
        ("user", "Hi"), ("assistant", ""), ("tool", "9"), ("assistant", "9 degrees")
    ]  # fmt: skip
    assert row.messages[1]["reasoning_content"] == "I look."
    assert row.messages[1]["tool_calls"] == [{"id": "c", **CALL}]
    assert row.messages[2]["tool_call_id"] == "c"


def test_one_call_under_the_name_of_one():
    row = read({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_call": CALL}]})
    assert row.messages[1]["tool_calls"] == [CALL]


def test_flags_of_turns_are_honoured_or_refused():
    def flagged(**flag):
        return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No", **flag},
                             {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]}  # fmt: skip

    assert read(flagged(loss_mask=0)).masked == {1}
    assert read(flagged(loss_mask=1)).masked == set()
    for unclear in ({"mask": True}, {"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]}):
        with pytest.raises(DataError, match="say with `train`"):
            read(flagged(**unclear))


def test_an_unknown_role_is_sent_to_its_side():
    with pytest.raises(DataError, match=r"data\.roles=\{tool_reply: tool\}"):
        read({"messages": [{"role": "tool_reply", "content": "x"}]}, ["data.format=messages"])


def test_kinds_of_text_are_text():
    link = {"type": "text_link", "text": "the list", "href": "https://example.org"}
    turns_ = [{"from": "human", "value": ["I see ", link]}, {"from": "gpt", "value": "Good."}]
    assert turns({"conversations": turns_}) == [("user", "I see the list"), ("assistant", "Good.")]
    assert turns(chat([{"type": "bold", "text": "Hello"}]))[1] == ("assistant", "Hello")
