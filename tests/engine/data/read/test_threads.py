"""Conversations out of single messages and trees of replies."""

import json

import pytest

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.ask import ask_about_the_rest
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation, Normal
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.formats.ways import UndecidedFormat
from evenfall.engine.data.read.read import read_rows

ALONG = {"id": "message_id", "parent": "parent_id", "role": "role", "content": "text"}
INTO = {"tree": "prompt", "replies": "replies", "role": "role", "content": "text"}


def said(place: str, before: str | None, role: str, text: str) -> dict:
    return {"message_id": place, "parent_id": before, "role": role, "text": text, "lang": "en"}


FORUM = [
    said("m1", None, "prompter", "Boil an egg?"),
    said("m2", "m1", "assistant", "Eight minutes."),
    said("m3", "m2", "prompter", "And soft?"),
    said("m5", "m2", "prompter", "And hard?"),
    said("m4", "m3", "assistant", "Five."),
    said("m6", "m5", "assistant", "Ten."),
]


def read(tmp_path, values, columns) -> list[Conversation]:
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    rows = list(read_rows(DatasetConfig(path=str(tmp_path / "f.jsonl"), columns=columns)))
    return [conversation_of(normalise(row, detect(rows, columns).format, columns)) for row in rows]


def conversation_of(normal: Normal) -> Conversation:
    assert isinstance(normal, Conversation), normal
    return normal


def learnt(row):
    return [
        m["content"] for place, m in enumerate(row.messages) if m["role"] == "assistant" and place not in row.masked
    ]


def test_messages_become_a_conversation_along_each_way_and_an_answer_is_learnt_once(tmp_path):
    soft, hard = read(tmp_path, FORUM, ALONG)
    assert [m["content"] for m in soft.messages] == ["Boil an egg?", "Eight minutes.", "And soft?", "Five."]
    assert [m["content"] for m in hard.messages] == ["Boil an egg?", "Eight minutes.", "And hard?", "Ten."]
    assert (learnt(soft), learnt(hard)) == (["Eight minutes.", "Five."], ["Ten."])
    assert [row.source.number for row in (soft, hard)] == [5, 6]  # the lines of their last messages


def test_a_message_whose_parent_is_not_there_begins_one(tmp_path):
    (row,) = read(tmp_path, FORUM[2:3] + FORUM[4:5], ALONG)
    assert [m["content"] for m in row.messages] == ["And soft?", "Five."]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([FORUM[0], FORUM[0]], "line 2: `message_id`: text .'m1'. is there already"),
        ([{**FORUM[0], "message_id": None}], "`message_id`: null is no id"),
        ([{"message_id": "m1", "parent_id": None, "role": "user"}], "expected a message with `role` and `text`"),
        ([said("a", "b", "user", "x"), said("b", "a", "assistant", "y")], "in a circle"),
        ([*FORUM, said("a", "b", "user", "x"), said("b", "a", "assistant", "y")], "line 7: .*in a circle"),
        ([said("a", "b", "user", "x"), said("b", "a", "assistant", "y"), said("c", "a", "user", "z")], "in a circle"),
        ([said("a", "a", "user", "x")], "in a circle"),
        ([{**FORUM[0], "parent_id": ["m2"]}], "expected the id of another message, got a list"),
    ],
)
def test_what_is_no_thread_is_named(tmp_path, values, words):
    with pytest.raises(DataError, match=words):
        read(tmp_path, values, ALONG)


def test_a_tree_of_replies_becomes_its_ways(tmp_path):
    tree = {"text": "Q?", "role": "prompter", "replies": [
        {"text": "A.", "role": "assistant", "replies": [{"text": "And?", "role": "prompter", "replies": [
            {"text": "B.", "role": "assistant"}]}]},
        {"text": "C.", "role": "assistant", "replies": []},
    ]}  # fmt: skip
    first, second = read(tmp_path, [{"state": "ready", "prompt": tree}], INTO)
    assert [m["content"] for m in first.messages] == ["Q?", "A.", "And?", "B."]
    assert [m["content"] for m in second.messages] == ["Q?", "C."] and learnt(second) == ["C."]


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        (FORUM, ALONG),
        ([{"state": "ready", "prompt": {"text": f"Q{n}?", "role": "prompter", "replies": [
            {"text": f"A{n}.", "role": "assistant", "replies": []}]}} for n in range(3)], INTO),
    ],
)  # fmt: skip
def test_threads_are_offered_first(tmp_path, values, columns):
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    rows = list(read_rows(DatasetConfig(path=str(tmp_path / "f.jsonl"))))
    with pytest.raises(UndecidedFormat) as caught:
        ask_about_the_rest(detect(rows), rows, {})
    first = caught.value.candidates[0]
    assert (first.format, first.columns) == ("messages", columns)
    assert len(read(tmp_path, values, first.columns)) > 1
