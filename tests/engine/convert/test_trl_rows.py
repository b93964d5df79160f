"""The rows that an exported TRL script trains on: the conversations that a run here would learn."""

import csv
import gzip
import json
import runpy
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.convert.report import ConvertError
from evenfall.engine.convert.to_trl import to_trl
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.read.read import read_rows


def config(data, **sections):
    return parse_config(
        {
            "model": {"name_or_path": "example/m"},
            "data": {"chat_template": None, **data},
            **sections,
        }
    )


def read_by_script(data):
    """The training rows of the exported script, which is run up to where it loads the model."""
    return rows_of_script(to_trl(config(data)))


def rows_of_script(text):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.py"
        file.write_text(text[: text.index("\nDTYPE = ")], encoding="utf-8")
        return runpy.run_path(str(file))["train_data"].to_list()


def without_nulls(messages):
    """Of a Dataset's messages: each has every key of all the others."""
    return [{key: item for key, item in one.items() if item is not None} for one in messages]


def learnt_here(data):
    """(what comes before, the answers and what stands between) of each row, as a run learns it."""
    source = config(data).data.sources[0]
    rows = list(read_rows(source))[: source.max_rows]
    found = detect(rows, source.columns, format=source.format)
    last_only = data.get("assistant_turns") == "last"
    for row in rows:
        normal = normalise(
            row, found.format, {**found.settled, **source.columns},
            drop_system=data.get("drop_system", False),
        )  # fmt: skip
        if not isinstance(normal, Conversation):
            continue
        keys = ("role", "content", "name", "reasoning_content", "thinking")
        messages = [{key: one[key] for key in keys if key in one} for one in normal.messages]
        answers = [
            place for place, one in enumerate(messages) if one["role"] == "assistant" and place not in normal.masked
        ]
        first = answers[-1] if last_only else answers[0]
        yield messages[:first], messages[first : answers[-1] + 1]


def same(data):
    """Both read the same, and that is said to be one row at least."""
    ours = list(learnt_here(data))
    theirs = read_by_script(data)
    if theirs and "messages" in theirs[0]:
        assert [without_nulls(one["messages"]) for one in theirs] == [a + b for a, b in ours]
    else:
        split = [(without_nulls(one["prompt"]), without_nulls(one["completion"])) for one in theirs]
        assert split == ours
    return ours


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


TEXTS = st.text("ab \n\u2028é\"'{}<", max_size=6)
WORDS = TEXTS.map(lambda text: f"w{text}")
MAYBE = st.one_of(st.none(), TEXTS)


def chats(role, content, user, assistant, system):
    """Turns in the two keys; the last one may be a question."""
    pairs = st.lists(st.tuples(WORDS, TEXTS), min_size=1, max_size=3)
    return st.builds(
        lambda head, pairs, tail: [
            *([{role: system, content: head}] if head and system else []),
            *({role: who, content: text} for pair in pairs
              for who, text in zip((user, assistant), pair, strict=True)),
            *([{role: user, content: tail}] if tail else []),
        ],
        MAYBE, pairs, MAYBE,
    )  # fmt: skip


ROWS = {
    "alpaca": st.fixed_dictionaries(
        {"instruction": TEXTS, "output": TEXTS},
        optional={"input": MAYBE, "context": MAYBE, "system": MAYBE, "system_prompt": MAYBE},
    ),
    "alpaca-history": st.fixed_dictionaries(
        {"instruction": WORDS, "response": WORDS},
        optional={"history": st.lists(st.tuples(WORDS, WORDS).map(list), max_size=2)},
    ),
    "pairs": st.fixed_dictionaries(
        {"prompt": TEXTS, "completion": TEXTS}, optional={"system": MAYBE}
    ),
    "question": st.fixed_dictionaries(
        {"question": TEXTS, "answer": TEXTS}, optional={"context": MAYBE}
    ),
    "lists": st.builds(
        lambda before, after, again: {"prompt": before, "completion": [*before, after] if again else [after]},
        chats("role", "content", "user", "Assistant", "system").filter(lambda t: t[-1]["role"] == "user"),
        st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS), st.booleans(),
    ),
    "messages": st.builds(
        lambda turns: {"messages": turns}, chats("role", "content", "user", "assistant", "developer")
    ),
    "sharegpt": st.builds(
        lambda turns, system: {"conversations": turns, "system": system},
        chats("from", "value", "Human", "gpt", None), MAYBE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("turns", ["all", "last"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_same_rows_same_conversations(tmp_path, name, turns, data):
    rows = data.draw(st.lists(ROWS[name], min_size=1, max_size=4))
    path = put(tmp_path / "rows.jsonl", rows)
    drop = data.draw(st.booleans())
    same({"path": path, "assistant_turns": turns, "drop_system": drop})


def test_the_columns_that_detection_found(tmp_path):
    path = put(tmp_path / "a.jsonl", [{"instruction": "do", "context": "this", "response": "done"}])
    ((before, after),) = same({"path": path})  # Dolly's
    assert before[0]["content"] == "do\nthis" and after[0]["content"] == "done"
    path = put(tmp_path / "b.jsonl", [
        {"question": "who?", "answer": "me", "context": "you?"}, {"prompt": "p", "completion": "c"},
        {"query": "q", "response": "r"},
    ])  # fmt: skip
    assert len(same({"path": path})) == 3
    path = put(tmp_path / "c.jsonl", [{"talk": [{"role": "user", "content": "hi"},
                                                {"role": "assistant", "content": "ho"}]}])  # fmt: skip
    assert len(same({"path": path})) == 1
    path = put(tmp_path / "d.jsonl", [{"message_1": "hi", "message_2": "ho", "id": "a1"}])
    assert len(same({"path": path})) == 1


def test_columns_that_are_named(tmp_path):
    turns = [{"who": "user", "said": "hi"}, {"who": "bot", "said": "ho"}]
    path = put(tmp_path / "a.jsonl", [{"messages": "an id", "talk": turns}])
    named = {"messages": "talk", "role": "who", "content": "said"}
    assert len(same({"path": path, "format": "messages", "columns": named})) == 1
    path = put(tmp_path / "b.jsonl", [{"q": "do", "more": "this", "a": "done", "input": "other"}])
    named = {"instruction": "q", "input": "more", "output": "a"}
    ((before, _),) = same({"path": path, "format": "alpaca", "columns": named})
    assert before[0]["content"] == "do\nthis"


@pytest.mark.parametrize("suffix", ["json", "jsonl", "jsonl.gz", "csv", "tsv", "parquet"])
def test_kinds_of_files(tmp_path, suffix):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    rows = [
        {"prompt": "0123", "completion": "42", "id": "NA"},
        {"prompt": "a;,\nb", "completion": "null", "id": "x"},
    ]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "json":
        path.write_text("﻿" + json.dumps(rows, indent=1), encoding="utf-8")
    elif suffix == "jsonl":
        put(path, rows)
    elif suffix == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif suffix == "parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == "tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    assert len(same({"path": str(path)})) == 2
    if suffix == "csv":
        path.write_text('messages\n"' + json.dumps(turns).replace('"', '""') + '"\n')
        assert len(same({"path": str(path)})) == 1


def test_documents(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("one\n\ntwo\n")
    assert read_by_script({"path": str(path)}) == [{"text": "one\n\ntwo\n"}]
    rows = put(tmp_path / "a.jsonl", [{"content": "moon"}, {"content": " "}, {"content": "sun"}])
    assert read_by_script({"path": rows, "max_rows": 2}) == [{"text": "moon"}]


def test_a_file_that_is_not_here_is_read_by_names_and_that_is_said(tmp_path):
    for format, words in (("auto", "auto: its columns"), ("alpaca", "the names that alpaca has")):
        text = to_trl(config({"path": "nowhere/rows.jsonl", "format": format}))
        assert "nowhere/rows.jsonl: is not here to look at" in text and words in text
    absent = to_trl(config({"path": "rows.jsonl", "format": "auto"}))
    for name, rows in {
        "questions": [{"question": "q", "answer": "a"}],
        "alpaca": [{"instruction": "i", "output": "o", "context": "c"}],
        "chat": [{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}],
    }.items():  # fmt: skip
        path = put(tmp_path / f"{name}.jsonl", rows)
        (one,) = rows_of_script(absent.replace("'rows.jsonl'", repr(path)))
        assert [turn["role"] for turn in one["messages"]] == ["user", "assistant"]


def chat(*turns, **beside):
    return {"messages": [{"role": role, **turn} for role, turn in turns], **beside}


QUESTION, ANSWER = ("user", {"content": "hi"}), ("assistant", {"content": "ho"})
CALL = ("assistant", {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]})
TOOLS = [{"name": "f", "parameters": {}}]


@pytest.mark.parametrize(
    "row, words",
    [
        (chat(QUESTION, ("assistant", {"content": "ho", "weight": 0}), QUESTION, ANSWER),
         "flags of messages (weight)"),
        (chat(QUESTION, ("assistant", {"content": "ho", "train": False}), QUESTION, ANSWER),
         "flags of messages (train)"),
        (chat(QUESTION, CALL), "rows with calls of tools"),
        (chat(QUESTION, ANSWER, tools=TOOLS), "definitions of tools are left out"),
        ({"prompt": [{"role": "user", "content": "a"}], "completion": [
            {"role": role, "content": "b"} for role in ("assistant", "user", "assistant")]},
         "TRL learns all messages of a completion"),
    ],
)  # fmt: skip
def test_what_a_script_cannot_read_is_said(tmp_path, row, words):
    plain = chat(QUESTION, ANSWER)
    if "prompt" in row:
        plain = {"prompt": "a", "completion": "b"}
    path = put(tmp_path / "rows.jsonl", [plain, row])
    text = to_trl(config({"path": path}))
    assert words in text and "where rows have them" not in text
    assert words not in to_trl(config({"path": put(tmp_path / "plain.jsonl", [plain])}))


def test_rows_beyond_those_that_were_seen_may_have_more(tmp_path):
    rows = [chat(QUESTION, ("assistant", {"content": "x" * 1000}))] * 3000
    text = to_trl(config({"path": put(tmp_path / "long.jsonl", rows)}))
    assert "flags of messages (weight, train, training, loss)" in text
    assert "where rows have them" in text


def test_answers_in_a_history_make_a_conversation(tmp_path):
    rows = [{"instruction": "a", "output": "b", "history": [["c", "d"]]}]
    path = put(tmp_path / "rows.jsonl", rows)
    (one,) = read_by_script({"path": path})
    assert [turn["content"] for turn in one["messages"]] == ["c", "d", "a", "b"]
    (one,) = read_by_script({"path": path, "assistant_turns": "last"})
    assert len(one["prompt"]) == 3


def test_alpacas_prompt_is_its_template(tmp_path):
    from evenfall.presets.load import chat_template

    rows = [{"instruction": "a", "output": "b", "input": "c", "system": "be"}]
    data = {"path": put(tmp_path / "rows.jsonl", rows), "chat_template": "alpaca"}
    assert f"tokenizer.chat_template = {chat_template('alpaca')!r}" in to_trl(config(data))
    (one,) = read_by_script(data)
    assert one["prompt"][0]["content"] == "be"
    assert (one["prompt"][1]["instruction"], one["prompt"][1]["input"]) == ("a", "c")


def test_rows_that_a_run_could_not_read_are_not_exported(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("[]")
    chosen = put(tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}])
    tied = put(tmp_path / "b.jsonl", [{"instruction": "i", "output": "o", "question": "q", "answer": "a"}])
    for path, words in (
        (empty, "holds no rows"),
        (chosen, "preference cannot be written"),
        (tied, "more than one"),
    ):
        with pytest.raises(ConvertError, match=words) as caught:
            to_trl(config({"path": str(path)}))
        assert str(path) in str(caught.value)
    held_out = put(tmp_path / "c.jsonl", [{"text": "document"}])
    with pytest.raises(ConvertError, match="eval_path"):
        to_trl(config({"path": put(tmp_path / "d.jsonl", [{"prompt": "p", "completion": "c"}]),
                       "eval_path": held_out}))  # fmt: skip


def pair_line(place):
    return json.dumps({"prompt": f"p{place}", "completion": f"c{place}"}).encode()


UNREADABLE = [
    b'{"prompt": "a", "compl', b"oops", b"null", b"[1]", b"7", b'{"prompt": "a"}', b'{"a": "b"}',
    b'{"prompt": "a", "completion": "\xff"}', b'{"prompt": "a", "completion": "\\ud800"}',
    b'{"prompt": 5, "completion": "b"}', b'{"prompt": "a", "completion": 5}',
    b'{"prompt": "a", "completion": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}]}',
    b'{"prompt": [{"role": "user", "content": 5}], "completion": "b"}',
    b'{"prompt": [{"role": "user"}], "completion": "b"}',
    b'{"prompt": [{"role": "nobody", "content": "a"}], "completion": "b"}', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("bad", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("first", [False, True])
def test_a_row_that_cannot_be_read_is_skipped_where_drop_names_bad(tmp_path, capsys, bad, first):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([bad, pair_line(0), pair_line(1)] if first else [pair_line(0), bad, pair_line(1)]))
    data = {"path": str(path), "format": "prompt_completion"}
    for limit, kept in ((None, ["p0", "p1"]), (2, ["p0"])):  # a bad row counts as one here too
        read = read_by_script({**data, "drop": ["bad"], "max_rows": limit})
        assert [row["prompt"][0]["content"] for row in read] == kept
    assert f"{path}: 1 rows cannot be read and are left out" in capsys.readouterr().err
    with pytest.raises(Exception, match=r"."):
        read_by_script(data)


def test_rows_that_only_look_unreadable_are_read(tmp_path):
    chats = [
        {"messages": [{"role": "system", "content": "be"}, *turns], "system": "be", "score": score}
        for turns, score in (
            ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], float("nan")),
            ([{"from": "gpt", "value": None}, {"from": "human", "value": "a"},
              {"from": "gpt", "value": "b"}], 1.0),
        )
    ]  # fmt: skip
    chats[1]["messages"][0] = {"from": "system", "value": "be"}
    for drop in ([], ["bad"]):
        for rows in chats:
            path = put(tmp_path / "rows.jsonl", [rows])
            (one,) = read_by_script({"path": path, "drop": drop})
            told = [turn["content"] for turn in one["messages"] if turn["content"]]
            assert told == ["be", "a", "b"]


def test_rows_of_a_table_that_have_other_cells_are_skipped(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion,\na,b\nmore,than,,two,cells\nless\nc,d,\n")
    data = {"path": str(path), "format": "prompt_completion"}
    read = read_by_script({**data, "drop": ["bad"]})
    assert [row["prompt"][0]["content"] for row in read] == ["a", "c"]
    path.write_text("prompt,completion\na,b\nmore,than,two\nless\nc,d\n")
    read = read_by_script({**data, "drop": ["bad"]})
    assert [row["prompt"][0]["content"] for row in read] == ["a", "c"]


def test_a_file_of_which_no_row_can_be_read_is_not_skipped_silently(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(pair_line(0))
    text = to_trl(config({"path": str(path), "drop": ["bad"]}))
    path.write_bytes(b"oops\noops\n")
    with pytest.raises(ValueError, match="none of its 2 rows can be read"):
        rows_of_script(text)
    path.write_text('{"data": [\n {"prompt": "a", "completion": "b"},\n {"prompt": "c", "completion": "d"}\n]}')
    with pytest.raises(ValueError, match="none of its 1 rows can be read"):
        rows_of_script(text)
