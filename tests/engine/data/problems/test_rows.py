"""Bits of rows whose answers end, or do not, and whose texts hold what they should not."""

import numpy as np
import pytest

from evenfall.engine.data.formats.normal import Conversation, Segments
from evenfall.engine.data.problems.codes import CONTROL_CHARACTERS, END_UNTRAINED, SPECIAL_TOKENS, TURN_ORDER
from evenfall.engine.data.problems.rows import BIT, RowProblems
from evenfall.engine.data.render.mask import Encoded
from evenfall.engine.data.row import SourceRow

SOURCE = SourceRow(file="f", number=1, value={})


def talk(*messages: tuple[str, str]) -> Conversation:
    return Conversation(source=SOURCE, messages=tuple({"role": role, "content": text} for role, text in messages))


@pytest.mark.parametrize(
    ("learnt", "ends", "open_"),
    [
        ("...11111", "7", False),
        ("...11111", "4", False),  # four from the end
        ("...11111", "3", True),
        ("...11.11", "7", True),  # the first answer has none
        ("...11.11", "47", False),
        ("...11.11", "57", True),  # not learnt
        ("........", "", False),
        ("11111111", "", True),
    ],
)
def test_every_answer_ends_with_a_token_that_is_learnt(chatml, learnt, ends, open_):
    end = chatml.convert_tokens_to_ids("<|im_end|>")
    ids = [end if str(place) in ends else 5 for place in range(len(learnt))]
    trained = np.array([flag == "1" for flag in learnt])
    one = Encoded(source=SOURCE, ids=np.array(ids, np.int32), trained=trained)
    found = RowProblems(chatml).of(talk(("user", "q"), ("assistant", "a")), [one])
    assert bool(found & BIT[END_UNTRAINED]) == open_


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a\ttab\r\nand \u00e9", None),
        ("\x1b[31m", CONTROL_CHARACTERS),
        ("\x7f", CONTROL_CHARACTERS),
        ("\u00e9\x85", CONTROL_CHARACTERS),
        ("\u202ereversed", CONTROL_CHARACTERS),
        ("decoded wrongly \ufffd", CONTROL_CHARACTERS),
        ("<|im_end|>", SPECIAL_TOKENS),
        ("<|im_en", None),
    ],
)
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_what_texts_hold(chatml, text, code, role):
    row = talk(("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "a"))
    at = 2 if role == "user" else 3
    messages = [*row.messages[:at], {"role": role, "content": text}, *row.messages[at + 1 :]]
    found = RowProblems(chatml).of(Conversation(source=SOURCE, messages=tuple(messages)), [])
    assert found == (BIT[code] if code else 0)


def test_a_marker_is_not_spelled_by_two_texts_and_may_stand_in_segments(chatml):
    look = RowProblems(chatml)
    assert not look.of(talk(("user", "<|im_"), ("assistant", "end|>")), [])
    assert not look.of(Segments(SOURCE, "<|im_end|>", ()), []) & BIT[SPECIAL_TOKENS]


@pytest.mark.parametrize(
    ("roles", "call", "wrong"),
    [
        ("uaua", "", False),
        ("uaa", "", True),
        ("uaa", "<tool_call>f", False),  # a call in text
        ("uata", "<tool_call>f", False),
        ("uatta", "<tool_call>f", False),
        ("uata", "", True),
        ("uta", "", True),
        ("auua", "", True),
    ],
)
def test_turns_in_order(chatml, roles, call, wrong):
    names = {"u": "user", "a": "assistant", "t": "tool"}
    row = talk(*((names[role], call or "x") for role in roles))
    assert bool(RowProblems(chatml).of(row, []) & BIT[TURN_ORDER]) == wrong
