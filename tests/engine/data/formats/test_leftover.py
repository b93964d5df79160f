"""What is not read is named, and what is likely part of the row is asked about; nothing else is."""

import json
from typing import Any

import pytest

from evenfall.engine.config.run_config import DatasetConfig, RunConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.ask import ask_about_the_rest
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.formats.ways import UndecidedFormat
from evenfall.engine.data.read.read import read_rows
from evenfall.engine.data.row import SourceRow

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def rows(*values):
    return [SourceRow(file="f.jsonl", number=number, value=value) for number, value in enumerate(values, 1)]


def asked(*values) -> UndecidedFormat:
    with pytest.raises(UndecidedFormat) as caught:
        ask_about_the_rest(detect(rows(*values)), rows(*values), {})
    return caught.value


def not_asked(*values):
    found = detect(rows(*values))
    ask_about_the_rest(found, rows(*values), {})
    return found


def told(tmp_path, text: str, *overrides: str, name="f.jsonl") -> list[Any]:
    """What a file holds under settings: detected, asked, read."""
    (tmp_path / name).write_text(text)
    data = RunConfig().with_overrides([f"data.path={tmp_path / name}", *overrides]).data
    (source,) = data.sources
    there = list(read_rows(source))
    found = detect(there, source.columns, format=source.format)
    if source.format == "auto":
        ask_about_the_rest(found, there, source.columns)
    normal = [normalise(row, found.format, {**found.settled, **source.columns}) for row in there]
    return [
        [(m["role"], m["content"]) for m in one.messages] if isinstance(one, Conversation) else one for one in normal
    ]


@pytest.mark.parametrize(
    ("value", "unread"),
    [
        ({"prompt": "p", "completion": "c", "id": 7, "url": "x"}, ("id", "url")),
        ({"messages": CHAT, "tags": ["a"], "empty": "", "none": None}, ("tags",)),
        ({"messages": CHAT, "functions": [{"name": "f"}]}, ()),
        ({"instruction": "i", "output": "o", "text": "i o"}, ("text",)),
        ({"text": "t", "meta": {"a": 1}}, ("meta",)),
        ({"Question": "q", "Answer": "a", "Level": 3}, ("Level",)),
        ({"messages": [{**CHAT[0], "images": ["a"], "empty": None}, CHAT[1]]}, ("messages[].images",)),
        ({"prompt": [{**CHAT[0], "mood": "mild"}], "completion": "c", "id": 1}, ("id", "prompt[].mood")),
    ],
)
def test_every_column_that_is_not_read_is_named(value, unread):
    found = not_asked(value)
    assert found.unread == unread


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ({"instruction": "i", "output": "o", "reasoning": "first"}, "reasoning"),
        ({"question": "q", "answer": "a", "choices": ["a", "b"]}, "choices"),
        ({"question": "q", "answer": "a", "instruction": "Be brief."}, "instruction"),
        ({"messages": CHAT, "history": [["x", "y"]]}, "history"),
        ({"text": "t", "role": "prompter"}, "role"),
    ],
)
def test_what_is_likely_part_of_the_row_is_asked_about(value, column):
    question = asked(value)
    assert f"`{column}` would not be read" in str(question)
    settings = [f"data.ignore=[{column}]" in way.overrides for way in question.candidates]
    assert settings[-1]


def test_a_column_that_only_later_rows_have_is_read(tmp_path):
    found = not_asked({"query": "q", "response": "a"}, {"query": "q2", "response": "a2", "history": [["q", "a"]]})
    assert found.columns["history"] == "history" and found.unread == ()


def test_what_the_row_says_already_is_not_asked_about():
    chat = not_asked({"messages": CHAT, "instruction": "q"}, {"messages": CHAT, "instruction": None})
    pair = not_asked({"question": "What is it?", "answer": "a", "prompt": "What is it?"})
    assert (chat.unread, chat.parts, pair.unread, pair.parts) == (("instruction",), (), ("prompt",), ())


def test_a_label_beside_a_text_may_be_its_answer():
    one, two = {"text": "Too high.", "label": "Billing"}, {"text": "No log-in.", "label": "Access"}
    first, *_, last = asked(one, two).candidates
    assert first.overrides == ["data.format=prompt_completion", "data.columns={prompt: text, completion: label}"]
    assert last.overrides == ["data.format=text", "data.ignore=[label]"]


def test_a_column_of_one_value_is_no_document():
    value = {"state": "ready_for_export", "number": 1}
    assert "`state`, the only text, says the same in all 3 rows" in str(asked(value, value, value))
    not_asked({"state": "one"}, {"state": "two"})


def test_what_is_ignored_is_not_there(tmp_path):
    line = '{"instruction": "i", "context": {"tone": "mild"}, "output": "o", "reasoning": "r"}\n'
    ways = ["data.ignore=[context, reasoning]"]
    assert told(tmp_path, line, *ways) == [[("user", "i"), ("assistant", "o")]]


def test_a_settled_way_is_taken_without_a_question(tmp_path):
    text = '{"text": "Too high.", "label": "Billing"}\n{"text": "No log-in.", "label": "Access"}\n'
    (tmp_path / "f.jsonl").write_text(text)
    there = list(read_rows(DatasetConfig(path=str(tmp_path / "f.jsonl"))))
    for way in asked(*[row.value for row in there]).candidates:
        assert len(told(tmp_path, text, *way.overrides)) == 2


THREE = {"domanda": "Quando apre?", "risposta": "Alle nove, tutti i giorni.", "categoria": "orari"}


def test_every_pair_of_texts_is_offered_once_and_the_likely_one_first():
    with pytest.raises(UndecidedFormat) as caught:
        detect(
            rows(
                THREE,
                {**THREE, "domanda": "Dove si parcheggia?", "risposta": "Dietro la casa.", "categoria": "servizi"},
            )
        )
    pairs = [way.columns for way in caught.value.candidates if way.format == "prompt_completion"]
    assert pairs[0] == {"prompt": "domanda", "completion": "risposta"}
    assert len({tuple(pair.items()) for pair in pairs}) == len(pairs) == 6


def test_a_constant_and_a_number_are_the_last_answers():
    many = [{"alpha": f"some words {n}", "state": "done", "amount": str(n), "beta": f"more {n}"} for n in range(5)]
    with pytest.raises(UndecidedFormat) as caught:
        detect(rows(*many))
    answers = [way.columns["completion"] for way in caught.value.candidates if way.format == "prompt_completion"]
    assert set(answers[:2]) == {"alpha", "beta"} and set(answers[-6:]) == {"state", "amount"}


# Speakers, headers, threads


def test_two_speakers_of_names_that_say_nothing_are_asked_about(tmp_path):
    turns: list[dict[str, Any]] = [
        {"speaker": "Customer", "line": "Hi"}, {"speaker": "Chatbot", "line": "Hello"},
        {"speaker": "Customer", "line": "Bye"}, {"speaker": "Chatbot", "line": "See you"},
    ]  # fmt: skip
    with pytest.raises(UndecidedFormat) as caught:
        detect(rows({"talk": turns}))
    first = caught.value.candidates[0]
    assert first.overrides[-1] == "data.roles={Customer: user, Chatbot: assistant}"
    (row,) = told(tmp_path, json.dumps({"talk": turns}), *first.overrides)
    assert row == [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "See you")]


def test_a_role_that_is_not_known_says_how_to_name_it(tmp_path):
    line = '{"messages": [{"role": "Client", "content": "Hi"}, {"role": "Chatbot", "content": "Hello"}]}\n'
    with pytest.raises(UndecidedFormat, match="turns of `Client`, `Chatbot`, and none is a role") as caught:
        told(tmp_path, line)
    way = caught.value.candidates[0].overrides
    assert told(tmp_path, line, *way) == [[("user", "Hi"), ("assistant", "Hello")]]
    line = line.replace("Client", "user")
    with pytest.raises(DataError, match=r"data\.roles={Chatbot: user} says which it is"):
        told(tmp_path, line)
    assert told(tmp_path, line, "data.roles={Chatbot: assistant}") == [[("user", "Hi"), ("assistant", "Hello")]]


def test_a_role_is_no_word_of_a_calls_arguments(tmp_path):
    call = {"function": {"name": "send", "arguments": {"from": "Bot", "role": "Bot"}}}
    turns = [{"role": "Me", "content": "q"}, {"role": "Bot", "content": "", "tool_calls": [call]}]
    for value in ({"messages": turns}, {"from": "Bot", "messages": turns}):
        (tmp_path / "f.jsonl").write_text(json.dumps(value) + "\n")
        path = str(tmp_path / "f.jsonl")
        (row,) = read_rows(DatasetConfig(path=path, roles={"Me": "user", "Bot": "assistant"}))
        assert isinstance(row.value, dict)
        assert [turn["role"] for turn in row.value["messages"]] == ["user", "assistant"]
        assert row.value["messages"][1]["tool_calls"] == [call]


TABLE = """When are you open?,From nine to five.
Where can I park?,Behind the house.
"Do you ship abroad?","Yes, to most."
"""


def test_a_header_that_looks_like_data_is_asked_about(tmp_path):
    with pytest.raises(UndecidedFormat, match="the first line looks like data"):
        told(tmp_path, TABLE, name="f.csv")
    three = told(
        tmp_path, TABLE, "data.header=false", "data.format=prompt_completion",
        "data.columns={prompt: column_1, completion: column_2}", name="f.csv",
    )  # fmt: skip
    asks = ("When are you open?", "Where can I park?", "Do you ship abroad?")
    answers = ("From nine to five.", "Behind the house.", "Yes, to most.")
    assert three == [[("user", ask), ("assistant", answer)] for ask, answer in zip(asks, answers, strict=True)]
    two = told(
        tmp_path, TABLE, "data.header=true", "data.format=prompt_completion",
        "data.columns={prompt: 'When are you open?', completion: From nine to five.}", name="f.csv",
    )  # fmt: skip
    assert len(two) == 2


@pytest.mark.parametrize("head", ["question,answer", "Domanda,Risposta", "id,text", "frage 1,antwort 1", "prompt,2"])
def test_a_header_is_not_asked_about(tmp_path, head):
    (tmp_path / "f.csv").write_text(f"{head}\nWhere?,There.\n")
    assert len(list(read_rows(DatasetConfig(path=str(tmp_path / "f.csv"))))) == 1


ASK = {"role": "user", "content": "Name a nut."}
ANSWER = {"role": "assistant", "content": "Hazel."}


@pytest.mark.parametrize(
    ("value", "chat", "answer"),
    [
        ({"messages": [*CHAT, ASK], "response": "Hazel."}, "messages", "response"),
        ({"input": [ASK], "output": "Hazel."}, "input", "output"),
        ({"input": [ASK], "ideal": ["Hazel."], "note": "Short it is."}, "input", "ideal"),
        ({"conversations": [{"from": "human", "value": "q"}], "Target": "Hazel."}, "conversations", "Target"),
        ({"messages": [ASK], "reply": ANSWER}, "messages", "reply"),
        ({"input": [ASK], "output": [ANSWER]}, "input", "output"),
        ({"messages": [ASK], "response": {"choices": [{"message": ANSWER}]}}, "messages", "response"),
    ],
)
def test_a_chat_that_waits_for_its_answer_is_asked_about(tmp_path, value, chat, answer):
    with pytest.raises(UndecidedFormat) as caught:
        ask_about_the_rest(detect(rows(value)), rows(value), {})
    way = caught.value.candidates[0]
    assert way.columns == {"prompt": chat, "completion": answer}
    (said,) = told(tmp_path, json.dumps(value) + "\n", *way.overrides)
    assert said[-1] == ("assistant", "Hazel.") and said[-2][0] == "user"


def test_what_a_service_was_asked_and_answered_is_offered(tmp_path):
    answer = {"choices": [{"index": 0, "message": ANSWER}]}
    value = {"request": {"model": "m", "messages": [ASK]}, "response": answer}
    way = unknown(value).candidates[0]
    (said,) = told(tmp_path, json.dumps(value) + "\n", *way.overrides)
    assert said == [("user", "Name a nut."), ("assistant", "Hazel.")]


def test_the_answers_that_a_waiting_chat_has_are_the_other_way(tmp_path):
    value = {"messages": [*CHAT, ASK], "response": "Hazel."}
    last = asked(value).candidates[-1]
    assert last.overrides == ["data.format=messages", "data.ignore=[response]"]
    told(tmp_path, json.dumps(value) + "\n", *last.overrides)


def test_a_chat_without_answers_names_what_is_beside_it():
    value = {"messages": [ASK], "reference": {"final": 7}, "criteria": "It is short and right."}
    with pytest.raises(DataError, match=r"ends without an answer.*not read: `reference`"):
        ask_about_the_rest(detect(rows(value)), rows(value), {})


def test_a_chat_that_ends_in_an_answer_is_not_asked_about():
    not_asked({"messages": CHAT, "response": "a"})
    not_asked({"messages": [*CHAT, ASK], "source": "web"})


@pytest.mark.parametrize(
    "value",
    [
        {"title": "Tea", "turns": [{"q": "How long?", "a": "Four minutes."}]},
        {"status": "done", "fields": {"question": "How long does it take?"}},
        {"text": "hello", "annotations": [{"text": "bonjour"}]},
        {"question": "Who?", "answer": "Ida.", "passages": ["Ida made it."]},
        {"question": "Who?", "answer": "Ida.", "supporting_evidence": "Ida made it."},
        {"id": 2, "parent_id": 1, "instruction": "i", "output": "o"},
        {"messages": CHAT, "chat_template_kwargs": {"custom_instructions": "Be brief."}},
    ],
)
def test_what_holds_more_than_is_read_is_asked_about(value):
    other = {key: f"{item} too" if isinstance(item, str) else item for key, item in value.items()}
    assert "would not be read" in str(asked(value, other))


def test_a_text_that_is_json_is_no_document_beside_others():
    value = {"queue": '["a long text that is JSON"]', "state": {"memory": "one"}}
    assert "`state` would not be read" in str(asked(value))


def test_metadata_is_not_asked_about():
    not_asked({"title": "A long text of its own, and more of it", "meta": {"url": "x"}})
    not_asked({"text": "t", "meta": {"words": "more than the text has"}})
    not_asked({"question": "Who?", "answer": "Ida.", "document_id": "d7", "context_length": 7})


def test_another_answer_is_offered_first():
    value = {"instruction": "i", "output": "wrong", "reflection": "It is wrong.", "corrected": "right"}
    first, *_, last = asked(value).candidates
    assert first.overrides == [
        "data.format=alpaca", "data.columns={output: corrected}", "data.ignore=[reflection, output]"
    ]  # fmt: skip
    assert last.ignore == ("reflection", "corrected")
    limo = asked({"question": "q", "solution": "First this.", "answer": "7"}).candidates[0]
    assert limo.columns == {"prompt": "question", "completion": "solution"}


def test_what_a_chat_is_given_is_read_from_its_column(tmp_path):
    tool = {"name": "clock", "parameters": {"type": "object"}}
    value = {"messages": CHAT, "developer": "Be brief.", "available_tools": [tool]}
    first = asked(value).candidates[0]
    assert first.columns == {"system": "developer", "tools": "available_tools"}
    (said,) = told(tmp_path, json.dumps(value) + "\n", *first.overrides)
    assert said[0] == ("system", "Be brief.")


def unknown(*values) -> UndecidedFormat:
    with pytest.raises(UndecidedFormat) as caught:
        detect(rows(*values))
    return caught.value


def test_a_way_names_what_it_leaves_out(tmp_path):
    turns = [{"author": "user", "content": "A?"}, {"author": "assistant", "content": "b"}]
    value = {"context": "You are a clerk.", "messages": turns}
    first, second, *_ = unknown(value).candidates
    assert first.columns["system"] == "context" and first.ignore == ()
    assert second.ignore == ("context",)
    (said,) = told(tmp_path, json.dumps(value) + "\n", *first.overrides)
    assert said == [("system", "You are a clerk."), ("user", "A?"), ("assistant", "b")]
    choices = {"question": "Which?", "choices": {"text": ["x", "y"]}, "answerKey": "B"}
    assert unknown(choices).candidates[0].ignore == ("choices",)
    names = {"task": "Do it.", "answer": "Done.", "tools": ["hammer"]}
    assert unknown(names).candidates[0].ignore == ("tools",)


def test_turns_of_more_keys_are_offered():
    turns = [
        {"uuid": "1", "sender": "human", "text": "How long?", "files": []},
        {"uuid": "2", "sender": "assistant", "text": "Four minutes.", "files": []},
    ]
    first = asked({"name": "Tea", "chat_messages": turns}).candidates[0]
    assert first.columns == {"messages": "chat_messages", "role": "sender", "content": "text"}


def test_speakers_whose_words_stand_elsewhere(tmp_path):
    turns = [{"from": "Anna", "date": "2026-01-01T10:00:00", "text": "A?"}, {"from": "Ben", "text": "b"}]
    value = {"messages": turns}
    first = asked(value).candidates[0]
    (said,) = told(tmp_path, json.dumps(value) + "\n", *first.overrides)
    assert said == [("user", "A?"), ("assistant", "b")]


def test_ways_that_teach_nothing_are_not_offered():
    only_asked = {
        "question": "q",
        "chat_history": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}],
    }
    assert not any(way.format in ("messages", "prompt_completion") for way in unknown(only_asked).candidates)
    dates = {"created_at": "2026-01-01T10:00:00Z", "updated_at": "2026-01-02", "data": {"text": "t"}}
    assert not unknown(dates).candidates
    constants = {"prompt": [ASK], "ability": "math", "kind": "sum"}
    assert not unknown(constants, constants).candidates
    empty = asked({"note": "", "label": "15", "text": "Poor."}, {"note": "", "label": "17", "text": "Good."})
    assert empty.candidates[0].columns == {"prompt": "text", "completion": "label"}
    talk = {"system": "s", "chat": "USER: Hi\n\n\nASSISTANT: Hello"}
    assert [way.format for way in unknown(talk).candidates] == ["text"]


def test_the_likely_answer_is_the_first_on_offer():
    code = {"prompt": "def f():", "entry_point": "f", "canonical_solution": "return 1", "test": "assert f() == 1, 'no'"}
    first = unknown(code, {key: f"{item} # 2" for key, item in code.items()}).candidates[0]
    assert first.columns == {"prompt": "prompt", "completion": "canonical_solution"}
    listed = unknown({"inputs": "Q? A) x", "targets": "A) x", "question": "Q?", "answer": 0}).candidates
    assert {"prompt": "inputs", "completion": "targets"} in [way.columns for way in listed]
    waits = unknown({"prompt": [ASK], "answer": "Hazel."}).candidates[0]
    assert waits.columns == {"prompt": "prompt", "completion": "answer"}


@pytest.mark.parametrize("answer", [["b"], ["b", "b"], {"text": ["b"], "answer_start": [3]}])
def test_an_answer_may_stand_in_a_list(tmp_path, answer):
    key = "answers" if isinstance(answer, dict) else "answer"
    assert told(tmp_path, json.dumps({"question": "A?", key: answer}) + "\n")[0][1] == ("assistant", "b")


def test_of_several_answers_the_first_is_learnt_where_that_is_said(tmp_path):
    line = json.dumps({"question": "A?", "answer": ["b", "c"]}) + "\n"
    with pytest.raises(DataError, match=r"holds 2 texts.*data\.columns=\{completion: answer\}"):
        told(tmp_path, line)
    (said,) = told(tmp_path, line, "data.columns={prompt: question, completion: answer}")
    assert said[1] == ("assistant", "b")
