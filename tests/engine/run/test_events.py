"""Events on disk: every kind comes back as it was, whatever its texts and numbers hold."""

import dataclasses
import json
import math
import time
import types
import typing
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenfall.engine.run import events as ev
from evenfall.engine.run.event_lines import decode_event, encode_event
from evenfall.engine.run.events import EVENT_TYPES

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["nan", "inf", "\x00", "\n", "\r\n", "\x85", "\u2028", "\x1b]52;c;aGk=\x07", '"}\n{', "[/INST]"]
)
whole = st.integers(-(2**53), 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)


def values(hint: Any, finite: bool = False) -> st.SearchStrategy[Any]:
    """Any value that a field of this type may hold."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is types.UnionType:
        return st.one_of(*(values(part, finite) for part in arguments))
    if origin is list:
        return st.lists(values(arguments[0], finite), max_size=4)
    if origin is tuple:
        return st.lists(values(arguments[0], finite), max_size=4).map(tuple)
    if origin is dict:
        return st.dictionaries(texts, values(arguments[1], finite), max_size=4)
    if dataclasses.is_dataclass(hint):
        return instances(typing.cast(type, hint), finite=True)
    known = {str: texts, int: whole, bool: st.booleans(), type(None): st.none(), Any: json_values}
    return st.floats(allow_nan=not finite, allow_infinity=not finite) if hint is float else known[hint]


def instances(kind: type, finite: bool = False) -> st.SearchStrategy[Any]:
    """Of a dataclass; only an event's own numbers may be NaN, not those of what it holds."""
    hints = typing.get_type_hints(kind)
    fields = {item.name: values(hints[item.name], finite) for item in dataclasses.fields(kind)}
    return st.builds(kind, **fields)


def same(first: Any, second: Any) -> bool:
    """Equal, with NaN equal to NaN and types alike."""
    if isinstance(first, float) and isinstance(second, float):
        return first == second or (math.isnan(first) and math.isnan(second))
    if dataclasses.is_dataclass(first):
        return type(first) is type(second) and all(
            same(getattr(first, item.name), getattr(second, item.name)) for item in dataclasses.fields(first)
        )
    return type(first) is type(second) and first == second


@pytest.mark.parametrize("name", sorted(EVENT_TYPES))
def test_every_kind_of_event_comes_back_as_it_was(name: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(instances(EVENT_TYPES[name]))
    def check(event: ev.Event) -> None:
        line = encode_event(event)
        assert line.endswith(b"\n") and line.count(b"\n") == 1 and b"\r" not in line
        assert same(decode_event(line), event)
        json.loads(line, parse_constant=pytest.fail)  # JSON for other readers as well

    check()


STEP = ev.Step(
    step=5,
    epoch=0.5,
    loss=1.25,
    learning_rate=1e-4,
    grad_norm=0.5,
    tokens=4096,
    trained_tokens=2000,
    seconds=0.25,
    memory_gb=20.0,
    memory_peak_gb=30.0,
    memory_total_gb=80.0,
    n=17,
    t=1.5,
)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_come_back(number: float) -> None:
    back = decode_event(encode_event(dataclasses.replace(STEP, loss=number)))
    assert isinstance(back, ev.Step) and same(back.loss, number)


def test_a_whole_number_where_a_fraction_belongs_is_taken() -> None:
    line = encode_event(STEP).replace(b"1.25", b"1")
    back = decode_event(line)
    assert isinstance(back, ev.Step) and back.loss == 1.0 and type(back.loss) is float


def test_a_file_name_that_is_no_utf8_does_not_end_a_run() -> None:
    event = ev.OutOfMemory(
        step=1,
        phase="step",
        message="caf\udce9",
        requested_gb=None,
        before_gb=1.0,
        at_gb=2.0,
        after_gb=1.0,
        limit_gb=3.0,
        rungs=[
            ev.Rung(
                id="a",
                title="\ud800",
                effect="",
                changes={"data.path": "x\udcff"},
                peak_gb=None,
                speed=None,
                keeps_result=True,
            )
        ],
    )
    back = decode_event(encode_event(event))
    assert isinstance(back, ev.OutOfMemory)
    assert back.message == "caf?" and back.rungs[0].changes == {"data.path": "x?"}


def test_kinds_and_fields_of_later_versions_are_skipped() -> None:
    assert decode_event(b'{"type": "Rewound", "n": 1}') is None
    assert decode_event(b'{"n": 1}') is None
    line = encode_event(STEP).replace(b'{"type"', b'{"novel": [1], "type"')
    assert decode_event(line) == STEP


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"\xff\xfe",
        b"3",
        b"null",
        b"[1]",
        b'"Step"',
        b"{",
        b'{"type": "Step"',
        b'{"type": "Step"}',
        b'{"type": "Alert", "message": 5}',
        b'{"type": "Alert", "message": null}',
        b'{"type": "Step", "step": "x"}',
        encode_event(STEP).replace(b"1.25", b"[]"),
        encode_event(STEP).replace(b"1.25", b'"much"'),
        encode_event(STEP).replace(b"1.25", b"null"),
        encode_event(STEP).replace(b'"step":5', b'"step":"5"'),
        encode_event(STEP).replace(b'"step":5', b'"step":5.5'),
        encode_event(STEP)[:-20],
        b'{"type":"OutOfMemory","step":1,"rungs":null}',
        b'{"type":"OutOfMemory","step":1,"rungs":[3]}',
        b'{"type":"OutOfMemory","step":1,"rungs":[{}]}',
        encode_event(STEP) + encode_event(STEP),
    ],
)
def test_a_damaged_line_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_event(line)


def test_a_type_that_is_no_word_is_no_event() -> None:
    assert decode_event(b'{"type": ["Step"]}') is None
    assert decode_event(b'{"type": {}}') is None


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 400), st.binary(max_size=6), st.integers(0, 6),
    st.sampled_from([encode_event(STEP), encode_event(ev.Failed("m", "h", 3, n=2, t=1.0))]),
)  # fmt: skip
def test_damage_anywhere_is_a_value_error_or_still_an_event(at: int, put: bytes, cut: int, line: bytes) -> None:
    at %= len(line)
    try:
        back = decode_event(line[:at] + put + line[at + cut :])
    except ValueError:
        return
    assert back is None or isinstance(back, ev.Event)
    if back is not None:
        assert decode_event(encode_event(back)) is not None


def test_writing_and_reading_a_step_cost_next_to_nothing() -> None:
    def best(work: Any) -> float:
        laps = []
        for _ in range(20):
            start = time.thread_time()
            for _ in range(100):
                work()
            laps.append((time.thread_time() - start) / 100)
        return min(laps)

    line = encode_event(STEP)
    assert best(lambda: encode_event(STEP)) < 50e-6
    assert best(lambda: decode_event(line)) < 50e-6
