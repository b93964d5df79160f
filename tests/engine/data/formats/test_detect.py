"""What is certain is told, what is likely is shown as such, and a tie asks with settings that work."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.ask import ask_what_to_learn
from evenfall.engine.data.formats.detect import detect, ways_to_read
from evenfall.engine.data.formats.normal import LABELLED_BAD, Conversation, Document, Dropped
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.formats.ways import UndecidedFormat
from evenfall.engine.data.row import SourceRow

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
BAD = [CHAT[0], {"role": "assistant", "content": "b"}]
Row = dict[str, Any]


def rows(*values):
    return [SourceRow(file="f.json", number=number, value=value) for number, value in enumerate(values, 1)]


def read(value, overrides=()):
    """The row as training reads it, with settings of the command line."""
    data = RunConfig().with_overrides(list(overrides)).data
    found = detect(rows(value), data.columns, format=data.format)
    if data.format == "auto":
        ask_what_to_learn(found, rows(value)[0], data.columns)
    return normalise(rows(value)[0], found.format, {**found.settled, **data.columns})


def learnt(normal):
    """What of a row is learnt, without its masks' form."""
    if isinstance(normal, Document):
        return normal.text
    assert isinstance(normal, Conversation), normal
    return [
        message["content"] if message["role"] == "assistant" and place not in normal.masked else None
        for place, message in enumerate(normal.messages)
    ]


def turns(normal):
    assert isinstance(normal, Conversation), normal
    return [(message["role"], message["content"]) for message in normal.messages]


RELATIVES = [
    ({"instruction": "q", "input": "", "output": "a"}, "alpaca", "certain"),
    ({"instruction": "q", "output": "a", "text": "rendered"}, "alpaca", "certain"),
    ({"instruction": "q", "input": "", "response": "a"}, "alpaca", "likely"),
    ({"INSTRUCTION": "q", "RESPONSE": "a", "SOURCE": "s"}, "alpaca", "likely"),
    ({"prompt": "q", "completion": "a"}, "prompt_completion", "certain"),
    ({"question": "q", "answer": "a"}, "prompt_completion", "certain"),
    ({"query": "q", "response": "a"}, "prompt_completion", "certain"),
    ({"prompt": "q", "generation": "a"}, "prompt_completion", "likely"),
    ({"prompt": "q", "response": "a"}, "prompt_completion", "likely"),
    ({"problem": "q", "solution": "a"}, "prompt_completion", "likely"),
    ({"article": "q", "summary": "a"}, "prompt_completion", "likely"),
    ({"message_1": "q", "message_2": "a"}, "prompt_completion", "likely"),
    ({"input": "q", "output": "a"}, "prompt_completion", "likely"),
    ({"messages": CHAT, "prompt": "q"}, "messages", "certain"),
    ({"conversations": CHAT}, "messages", "certain"),
    ({"conversation": SHARE}, "sharegpt", "certain"),
    ({"messages": SHARE}, "sharegpt", "certain"),
    ({"dialogue": CHAT}, "messages", "certain"),
    ({"texts": SHARE}, "sharegpt", "certain"),
    ({"chat_log": CHAT, "id": "1"}, "messages", "likely"),
    ({"chat_log": SHARE, "documents": [{"title": "t"}]}, "sharegpt", "likely"),
    ({"conversation": [{"human": "q", "assistant": "a"}]}, "sharegpt", "certain"),
]


@pytest.mark.parametrize(("value", "format", "confidence"), RELATIVES)
def test_a_question_and_its_answer_are_read_the_same_from_every_relative(value, format, confidence):
    found = detect(rows(value, value))
    assert (found.format, found.confidence) == (format, confidence)
    assert set(found.columns.values()) <= set(value)
    assert turns(read(value)) == [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"system_prompt": "s", "question": "q", "response": "a"},
         [("system", "s"), ("user", "q"), ("assistant", "a")]),
        ({"context": "c", "question": "q", "answer": "a"}, [("user", "c\n\nq"), ("assistant", "a")]),
        ({"instruction": "q", "context": "c", "response": "a"}, [("user", "q\nc"), ("assistant", "a")]),
    ],
)  # fmt: skip
def test_columns_beside_a_pair_are_read_and_shown(value, expected):
    found = detect(rows(value))
    assert found.confidence == "likely"
    assert set(found.columns.values()) == set(value)
    assert turns(read(value)) == expected


@pytest.mark.parametrize(
    ("value", "confidence"),
    [({"text": "t", "content": "c"}, "certain"), ({"content": "t"}, "likely"),
     ({"document": "t", "id": "x"}, "likely"), ({"body": "t", "url": "u", "n": 3}, "likely")],
)  # fmt: skip
def test_documents_under_other_names(value, confidence):
    found = detect(rows(value, value))
    assert (found.format, found.confidence) == ("text", confidence)
    assert read(value) == Document(rows(value)[0], "t")


TIES = [
    {"prompt": "q", "completion": "a", "question": "q2", "answer": "a2"},
    {"instruction": "q", "output": "a", "response": "a2"},
    {"question": "q", "answer": "short", "response": "long"},
    {"messages": CHAT, "conversations": BAD},
    {"messages": CHAT, "conversations": SHARE},
    {"one": CHAT, "other": BAD},
    {"content": "c", "document": "d"},
    {"title": "t", "body": "the longer one"},
    {"dialog": [{"speaker": "user", "says": "q"}, {"speaker": "bot", "says": "a"}] * 3},
    {"messages": [{"speaker": "user", "says": "q"}, {"speaker": "bot", "says": "a"}] * 3},
]
PARTLY = [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"question": "q", "chosen_response": "a", "rejected_response": "b", "system": "s"},
    {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"},
    {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": BAD[1:]},
    {"prompt": "q", "chosen": CHAT, "rejected": BAD},
    {"chosen": CHAT, "rejected": BAD},
    {"conversations": SHARE[:1], "chosen": SHARE[1], "rejected": {"from": "gpt", "value": "b"}},
    {"messages": CHAT[:1], "chosen": CHAT[1], "rejected": BAD[1]},
    {"messages": CHAT, "rejected_response": "b"},
    {"messages": CHAT, "rejected_messages": BAD},
]
LABELLED = [
    {"prompt": "q", "completion": "a", "label": True},
    {"messages": CHAT, "label": True},
    {"conversations": SHARE, "kto_tag": True},
    {"instruction": "q", "output": "a", "kto_tag": "true"},
    {"prompt": "q", "response": "a", "label": 1},
]


@pytest.mark.parametrize("value", TIES)
def test_a_tie_asks_and_each_setting_that_it_proposes_works(value):
    with pytest.raises(UndecidedFormat, match=r"^f\.json: row 1: ") as raised:
        read(value)
    asked = raised.value
    assert asked.candidates
    assert asked.columns == tuple(value)
    for candidate in asked.candidates:
        assert f"\n  {candidate.override}\n" in str(asked)
        assert detect(rows(value), candidate.columns, format=candidate.format).columns
        assert learnt(read(value, candidate.overrides))
    read_as = [str(learnt(read(value, one.overrides))) + one.reason for one in asked.candidates]
    assert len(set(read_as)) == len(read_as)


def test_of_a_tie_each_setting_reads_its_own_columns():
    with pytest.raises(UndecidedFormat) as raised:
        read(TIES[0])
    one, other = raised.value.candidates
    assert one.overrides == [
        "data.format=prompt_completion",
        "data.columns={prompt: prompt, completion: completion}",
        "data.ignore=[question]",
    ]
    assert learnt(read(TIES[0], one.overrides)) == [None, "a"]
    assert learnt(read(TIES[0], other.overrides)) == [None, "a2"]


@pytest.mark.parametrize("value", PARTLY)
def test_of_preference_data_the_chosen_answer_is_learnt_when_that_is_asked_for(value):
    assert detect(rows(value)).format == "preference"
    with pytest.raises(UndecidedFormat, match=r"row 1: is preference data \(.*learns one ans") as raised:
        read(value)
    first, *_ = raised.value.candidates
    assert first.format == "preference"
    for candidate in raised.value.candidates:
        assert candidate.override in str(raised.value)
        normal = read(value, candidate.overrides)
        assert learnt(normal)[-2:] == [None, "a"]
        if value.get("input"):
            assert turns(normal)[0] == ("user", "q\ni")
    found = dict(turns(read(value, first.overrides)))
    assert found.get("system") == value.get("system")


@pytest.mark.parametrize("wording", ["as texts", "as lists of messages", "as one message each", "implicit prompt"])
def test_what_kind_of_preference_data_it_is_is_said(wording):
    kinds = {"as texts": PARTLY[0], "as lists of messages": PARTLY[3], "implicit prompt": PARTLY[5],
             "as one message each": PARTLY[6]}  # fmt: skip
    assert wording in detect(rows(kinds[wording])).reason


def test_the_documented_settings_for_chosen_answers_work():
    pair = ["data.format=prompt_completion", "data.columns={completion: chosen}"]
    for value in (PARTLY[0], PARTLY[3], {"prompt": "q", "chosen": CHAT[1], "rejected": BAD[1]}):
        assert learnt(read(value, pair)) == [None, "a"]
    whole = ["data.format=messages", "data.columns={messages: chosen}"]
    assert learnt(read(PARTLY[5], whole)) == [None, "a"]


def test_answers_that_both_conversations_share_are_the_prompt():
    before = [*CHAT, {"role": "user", "content": "q2"}]
    value = {key: [*before, {"role": "assistant", "content": key}] for key in ("chosen", "rejected")}
    assert learnt(read(value, ["data.format=preference"])) == [None, None, None, "chosen"]


def test_preference_texts_without_a_prompt_are_not_learnt_as_an_answer():
    value = {"chosen": "Human: q Assistant: a", "rejected": "Human: q Assistant: b"}
    with pytest.raises(DataError, match=r"`chosen`: no column holds the prompt .*data\.format=text"):
        read(value, ["data.format=preference"])
    with pytest.raises(UndecidedFormat) as raised:
        read(value)
    assert learnt(read(value, raised.value.candidates[1].overrides)) == value["chosen"]


@pytest.mark.parametrize("value", LABELLED)
def test_of_labelled_answers_the_good_ones_are_learnt_when_that_is_asked_for(value):
    assert detect(rows(value)).format == "kto"
    with pytest.raises(UndecidedFormat, match="would learn the bad ones too") as raised:
        read(value)
    (only,) = raised.value.candidates
    assert learnt(read(value, only.overrides)) == [None, "a"]
    label = "kto_tag" if "kto_tag" in value else "label"
    for bad in (False, 0, "False"):
        dropped = read({**value, label: bad}, only.overrides)
        assert isinstance(dropped, Dropped)
        assert dropped.reason == LABELLED_BAD
    for neither in ("maybe", 2):
        with pytest.raises(DataError, match=f"`{label}`: expected true or false"):
            read({**value, label: neither}, ["data.format=kto"])


def test_rows_that_differ_are_no_silent_mix():
    with pytest.raises(DataError, match=r"row 2: is kto .* but row 1 is prompt_completion"):
        detect(rows({"prompt": "q", "completion": "a"}, LABELLED[0]))
    with pytest.raises(UndecidedFormat, match="row 2: rows differ in which column fits"):
        detect(rows({"one": CHAT}, {"other": CHAT}))
    with pytest.raises(UndecidedFormat, match="row 2: no known format: it has `b1`, `b2`"):
        detect(rows({"text": "t"}, {"b1": 1, "b2": 2}))


def test_a_row_of_no_known_shape_says_how_to_name_its_columns():
    with pytest.raises(UndecidedFormat) as raised:
        detect(rows({"ids": [1], "n": 2}))
    assert raised.value.candidates == ()
    assert "data.format=prompt_completion data.columns={prompt: COLUMN" in str(raised.value)


def test_columns_that_are_named_are_read_or_asked_about():
    both = {"text": "t", "messages": CHAT, "body": "b"}
    assert learnt(read(both, ["data.columns={text: body}"])) == "b"
    assert learnt(read(both, ["data.columns={messages: messages}"])) == [None, "a"]
    with pytest.raises(UndecidedFormat, match=r"of which data\.columns names `body`"):
        read(both, ["data.columns={nonsense: body}"])


def test_a_prompt_alone_is_no_document():
    with pytest.raises(UndecidedFormat):
        detect(rows({"prompt": "write a poem"}))


def test_rows_later_in_the_file_are_read_from_the_columns_that_were_told():
    found = detect(rows({"question": "q", "answer": "a"}))
    both = {"question": "q", "answer": "a", "prompt": "p", "completion": "c"}
    with pytest.raises(DataError, match=r"row 1: can be read as prompt_completion in 2 ways"):
        normalise(rows(both)[0], found.format, found.settled)
    given = detect(rows(both), format="prompt_completion")
    assert learnt(normalise(rows(both)[0], given.format, given.settled)) == [None, "c"]
    with pytest.raises(DataError, match="`answer`: expected text, got a number"):
        normalise(rows({"question": "q", "answer": float("nan")})[0], found.format, found.settled)
    found = detect(rows({"log": CHAT}))
    two = {"log": CHAT, "other": BAD}
    assert learnt(normalise(rows(two)[0], found.format, found.settled)) == [None, "a"]


TEXTS = st.text("abc xyz\n", min_size=1, max_size=12)


@st.composite
def row_of(draw, names):
    """A row with these texts (or turns), in any order, among columns that say nothing."""
    value: Row = {}
    for name, kind in names.items():
        answer = {"role": "assistant", "content": draw(TEXTS)}
        value[name] = {
            "text": lambda: draw(TEXTS),
            "chat": lambda answer=answer: [{"role": "user", "content": draw(TEXTS)}, answer],
            "share": lambda answer=answer: [
                {"from": "human", "value": draw(TEXTS)}, {"from": "gpt", "value": answer["content"]}
            ],
            "bool": lambda: draw(st.booleans()),
            "ids": lambda: draw(st.lists(st.integers(0, 99), max_size=5)),
            "parts": lambda: [{"text": draw(TEXTS), "label": draw(st.booleans())}],
        }[kind]()  # fmt: skip
    beside = st.sampled_from(["id", "source", "score", "url", "meta", "split"])
    other = st.one_of(st.none(), st.integers(), TEXTS, st.just({"a": 1}))
    value |= draw(st.dictionaries(beside, other, max_size=3))
    if not any(kind == "text" for kind in names.values()) or len(names) > 1:
        value |= draw(st.dictionaries(st.just("title"), TEXTS, max_size=1))
    keys = draw(st.permutations(list(value)))
    return {key: value[key] for key in keys}


KINDS: dict[str, list[dict[str, str]]] = {
    "alpaca": [
        {"instruction": "text", "input": "text", "output": "text"},
        {"instruction": "text", "response": "text"},
        {"INSTRUCTION": "text", "RESPONSE": "text"},
        {"instruction": "text", "output": "text", "text": "text"},
    ],
    "prompt_completion": [
        {"prompt": "text", "completion": "text"}, {"question": "text", "answer": "text"},
        {"query": "text", "response": "text"}, {"problem": "text", "solution": "text"},
        {"article": "text", "summary": "text"}, {"input": "text", "output": "text"},
        {"context": "text", "question": "text", "answer": "text"},
        {"system_prompt": "text", "question": "text", "response": "text"},
    ],
    "messages": [{"messages": "chat", "prompt": "text"}, {"dialogue": "chat"}, {"log": "chat"}],
    "sharegpt": [{"conversations": "share"}, {"texts": "share", "system": "text"}],
    "text": [{"text": "text"}, {"content": "text"}, {"body": "text"}],
    "preference": [
        {"prompt": "text", "chosen": "text", "rejected": "text"},
        {"chosen": "chat", "rejected": "chat"}, {"messages": "chat", "rejected_response": "text"},
    ],
    "kto": [{"prompt": "text", "completion": "text", "label": "bool"}, {"messages": "chat", "kto_tag": "bool"}],
    "tokens": [{"input_ids": "ids", "text": "text"}],
    "segments": [{"segments": "parts", "prompt": "text", "completion": "text"}],
}  # fmt: skip


@pytest.mark.parametrize("format", KINDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_order_and_company_columns_have_the_format_is_told_and_no_row_is_lost(format, data):
    names = data.draw(st.sampled_from(KINDS[format]))
    found_rows = rows(*data.draw(st.lists(row_of(names), min_size=1, max_size=4)))
    found = detect(found_rows)
    assert found.format == format
    assert set(found.columns.values()) <= set(names)
    for row in found_rows:
        normal = normalise(row, found.format, found.settled)
        assert normal.source is row


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_two_complete_pairs_always_ask(data):
    pairs = [names for names in KINDS["prompt_completion"] if len(names) == 2]
    pairs += [names for names in KINDS["alpaca"] if "text" not in names and "input" not in names]
    one, other = data.draw(st.permutations(pairs))[:2]
    if {"instruction", "input", "output"} <= {*one, *other}:
        return  # that is alpaca, whole
    value = data.draw(row_of({**one, **other}))
    with pytest.raises(UndecidedFormat) as raised:
        detect(rows(value))
    for candidate in raised.value.candidates:
        normal = read(value, candidate.overrides)
        assert isinstance(normal, Conversation | Dropped)
        again = detect(rows(value), candidate.columns, format=candidate.format)
        assert candidate.columns.items() <= again.columns.items()


def test_a_file_is_looked_at_all_over():
    order = random.Random(0)
    many = [{"prompt": "p", "completion": "c"}] * 1000
    many[order.choice([0, 999])] = {"text": "t"}
    with pytest.raises(DataError, match="a file holds rows of one format"):
        detect(rows(*many))


# Rows that say nothing, and names that nearly say it


@pytest.mark.parametrize(
    ("good", "blank", "format"),
    [
        ({"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": None}, "prompt_completion"),
        ({"instruction": "q", "output": "a"}, {"instruction": "q", "output": None}, "alpaca"),
        ({"text": "t"}, {"text": None}, "text"),
        ({"messages": CHAT}, {"messages": None}, "messages"),
        ({"messages": CHAT}, {}, "messages"),
    ],
)  # fmt: skip
def test_a_row_of_nulls_hides_no_format(good, blank, format):
    for place in (0, 7, 20):
        values = [good] * 20
        values.insert(place, blank)
        assert detect(rows(*values)).format == format


def test_rows_of_nulls_alone_are_of_no_format():
    with pytest.raises(UndecidedFormat, match="no known format"):
        detect(rows(*[{"prompt": "q", "completion": None}] * 3))


@pytest.mark.parametrize("labels", [("1", "0"), ("yes", "no"), ("good", "bad"), ("True", "False")])
def test_labels_of_tables_are_labels(labels):
    values = [{"prompt": "q", "completion": "a", "label": label} for label in labels]
    found = detect(rows(*values))
    assert found.format == "kto"
    with pytest.raises(UndecidedFormat, match="labelled good or bad"):
        ask_what_to_learn(found, rows(*values)[0], {})


def test_what_is_no_label_is_none():
    value = {"question": "q", "answer": "a", "label": "maths"}
    assert detect(rows(value)).format == "prompt_completion"


def test_names_in_capital_letters_are_read_whole():
    value = {"Instruction": "q", "Input": "more", "Output": "a"}
    found = detect(rows(value))
    assert (found.format, found.confidence) == ("alpaca", "likely")
    assert found.columns == {"instruction": "Instruction", "input": "Input", "output": "Output"}
    assert turns(read(value)) == turns(read({"instruction": "q", "input": "more", "output": "a"}))


def test_the_answer_is_told_by_its_name_before_its_length():
    with pytest.raises(UndecidedFormat) as asked:
        detect(rows({"Frage": "a long question, longer than what follows", "answer": "no"}))
    assert asked.value.candidates[0].columns == {"prompt": "Frage", "completion": "answer"}


def test_columns_that_say_nothing_are_asked_in_the_order_of_the_file():
    """A question may well be longer than its answer: both ways are offered."""
    value = {"id": "1", "Frage": "a long question, longer than what follows", "Antwort": "no"}
    with pytest.raises(UndecidedFormat) as asked:
        detect(rows(value))
    pairs = [one.columns for one in asked.value.candidates if one.format == "prompt_completion"]
    assert pairs == [
        {"prompt": "Frage", "completion": "Antwort"}, {"prompt": "Antwort", "completion": "Frage"},
    ]  # fmt: skip


def test_what_was_told_can_be_read_otherwise():
    value = {"question": "q", "answer": "a", "category": "c"}
    ways = ways_to_read(rows(value)[0])
    assert ways is not None and ways.columns == ("question", "answer", "category")
    assert ways.candidates[0].columns == {"prompt": "question", "completion": "answer"}
    assert len({(one.format, *one.columns.values()) for one in ways.candidates}) == len(ways.candidates)
    assert ways_to_read(SourceRow(file="f.txt", number=1, value="text")) is None


def test_an_alpaca_row_with_tools_is_no_tie():
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    value = {"instruction": "q", "input": "", "output": "a", "tools": [tool]}
    found = detect(rows(value))
    assert (found.format, found.columns["tools"]) == ("alpaca", "tools")
    normal = read(value)
    assert isinstance(normal, Conversation) and normal.tools == (tool,)
