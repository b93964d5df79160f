"""The real app in a real terminal: keys in bursts, pastes, sequences cut in two, escape alone."""

import importlib.util
import random
import time
from pathlib import Path

import pytest

pytest.importorskip("pty")

from pty_app import PtyApp

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "key_bursts.py"
BURSTS = 8


@pytest.fixture(scope="module")
def bursts():
    spec = importlib.util.spec_from_file_location("key_bursts", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app(tmp_path):
    app = PtyApp(tmp_path, (80, 24))
    try:
        assert app.shows("smollm2"), app.text()
        yield app
    finally:
        app.close()


def test_bursts_come_to_the_screen_that_the_same_keys_come_to_slowly(bursts):
    keys, played, wrong = bursts.measure(BURSTS, 7, (80, 24), pace=0.1)
    assert played == BURSTS and keys > BURSTS
    assert not wrong, "\n".join(wrong)


def test_text_and_half_sequences_land_where_they_were_meant_to(app):
    app.send(b"/qwen 3x")  # typed, or pasted where the terminal marks no paste
    assert app.shows(" qwen 3x\n"), app.text()
    app.send(b"\x1b[200~ pasted\x1b[20")
    time.sleep(0.04)
    app.send(b"1~!")
    assert app.shows(" qwen 3x pasted!\n"), app.text()
    for piece in (b"\x1b", b"[", b"D", b"\x1b[", b"D", b"\x1b[D#"):
        app.send(piece)
        time.sleep(0.04)
    assert app.shows(" qwen 3x past#ed!\n"), app.text()
    app.send(b"\x1b\x1b[?62;1;2cq")
    app.settle(3.0, most=8.0)
    assert app.over, "escape, then q: an answer of the terminal between them is no key"


def test_escape_alone_is_quick(app):
    times = []
    for _ in range(5):
        app.send(b"/")
        app.settle(0.2)
        app.send(b"z")
        assert app.shows(" z\n")
        app.settle(0.2)
        start = time.monotonic()
        app.send(b"\x1b")
        assert app.shows("/ to search the list")
        times.append(time.monotonic() - start)
    assert min(times) < 0.25, times


def test_a_window_too_small_lets_no_key_through(app):
    app.send(b"/ab")
    assert app.shows(" ab\n")
    app.resize(70, 20)
    assert app.shows("this window has 70x20")
    app.send(b"cd\x1b[200~ef\x1b[201~\x03\r")
    app.settle(0.3)
    assert "No other key does anything here" in app.text()
    app.resize(80, 24)
    assert app.shows(" ab\n"), app.text()
    app.send(b"g")
    assert app.shows(" abg\n"), app.text()
    chance = random.Random(3)
    app.resize(40, 10)
    assert app.shows("40x10")
    app.send(bytes(chance.choice(b"123456xwsr/?\r\t") for _ in range(50)))
    app.settle(0.3)
    app.resize(80, 24)
    assert app.shows(" abg\n"), app.text()
