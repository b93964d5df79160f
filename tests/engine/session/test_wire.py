"""What goes over a run's socket."""

import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenfall.engine.run import commands as cmd
from evenfall.engine.session.wire import (
    LONGEST,
    Request,
    WireError,
    check_greeting,
    decode,
    decode_request,
    encode,
    encode_request,
)

COMMANDS = st.one_of(
    st.sampled_from([cmd.Pause(), cmd.Resume(), cmd.SaveNow(), cmd.EvaluateNow()]),
    st.builds(cmd.SetLearningRate, st.floats(0, 10), st.sampled_from(["scale", "hold"])),
    st.builds(cmd.Stop, st.booleans()),
    st.builds(cmd.ApplyRecovery, st.text(st.characters(exclude_categories=["Cs"]), max_size=40)),
)


@given(COMMANDS, st.integers(0, 2**53 - 1))
def test_every_command_arrives_as_it_was_sent(command: cmd.Command, id: int) -> None:
    line = encode_request(Request(id, command))
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and len(line) <= LONGEST
    assert decode_request(decode(line)) == Request(id, command)


def test_commands_are_all_tried() -> None:
    tried = {cmd.Pause, cmd.Resume, cmd.SaveNow, cmd.EvaluateNow, cmd.SetLearningRate, cmd.Stop, cmd.ApplyRecovery}
    assert tried == set(typing.get_args(cmd.Command))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([kind.__name__ for kind in typing.get_args(cmd.Command)])


@given(st.dictionaries(st.sampled_from(["id", "command", "value", "mode", "save", "rung", "x"]), JSON | NAMES))
def test_whatever_else_comes_is_no_command(tree: dict) -> None:
    try:
        request = decode_request(decode(json.dumps(tree).encode()))
    except WireError:
        return
    assert isinstance(request.command, typing.get_args(cmd.Command)) and request.id == tree["id"]


@given(st.binary(max_size=60))
def test_bytes_that_are_no_object_are_refused_in_words(line: bytes) -> None:
    try:
        assert isinstance(decode(line), dict)
    except WireError as error:
        assert "JSON object" in str(error)


@pytest.mark.parametrize(
    "tree, says",
    [
        ({"id": 1, "command": "Explode"}, "no such command; there are Pause"),
        ({"id": 1, "command": "SetLearningRate"}, "needs value"),
        ({"id": 1, "command": "SetLearningRate", "value": "5e-5"}, "SetLearningRate.value: takes a float"),
        ({"id": 1, "command": "SetLearningRate", "value": 1, "mode": "up"}, "takes scale | hold"),
        ({"id": 1, "command": "Stop", "save": 1}, "Stop.save: takes a bool"),
        ({"id": 1, "command": "Pause", "for": 3}, "has no 'for'"),
        ({"id": True, "command": "Pause"}, "a whole number as its id"),
        ({"command": "Pause"}, "a whole number as its id"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(tree: dict, says: str) -> None:
    with pytest.raises(WireError) as error:
        decode_request(tree)
    assert says in str(error.value)


def test_another_version_is_told_apart() -> None:
    with pytest.raises(WireError, match="different versions"):
        check_greeting({"evenfall": 2})
    with pytest.raises(WireError, match="a greeting first"):
        check_greeting({"evenfall": True})


def test_a_line_is_never_too_long() -> None:
    line = encode({"id": 1, "refused": "\U0001f600" * 5000})
    assert len(line) <= LONGEST and json.loads(line)["id"] == 1
