"""What a terminal sends, cut in two anywhere, and what cannot be told."""

import pytest
from textual import events

from evenfall.tui import terminal_input
from evenfall.tui.terminal_input import TerminalInput

WHOLE = {
    "\x1b[A": "up", "\x1bOB": "down", "\x1b[1;5C": "ctrl+right", "\x1b[5~": "pageup", "\x1b[6~": "pagedown",
    "\x1b[H": "home", "\x1b[F": "end", "\x1bOP": "f1", "\x1bOQ": "f2", "\x1b[15~": "f5", "\x1b[18~": "f7",
    "\x1b[[A": "f1", "\x1b[3$": "shift+delete", "\x1b[Z": "shift+tab", "\x1b[97;;97u": "a",
    "\x1b[<0;10;5M": "MouseDown", "\x1b[<0;10;5m": "MouseUp", "\x1b[I": "AppFocus", "\x1b[O": "AppBlur",
    "\x1b[200~quit now\x1b[201~": "paste quit now", "\x1b[200~\x1b[201~": "paste ",
    "\x1b[200~a\x1b[31mq\x1b[201~": "paste a\x1b[31mq", "\x1b[200~é模\x1b[201~": "paste é模",
}  # fmt: skip
"""What a terminal sends for one thing -> what it is."""
UNKNOWN = {
    "\x1b[?1;2c": "an answer to what the terminal is", "\x1b]11;rgb:12/34/56\x07": "a colour",
    "\x1bP>|xterm(388)\x1b\\": "a name", "\x1b[12;99;7;8z": "something new", "\x1b[201~": "the end of no paste",
}  # fmt: skip


class Clock:
    """The clock of the input, which a test moves."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(terminal_input, "time", clock)
    return clock


def said(messages):
    return [
        message.key if isinstance(message, events.Key)
        else f"paste {message.text}" if isinstance(message, events.Paste)
        else type(message).__name__
        for message in messages
    ]  # fmt: skip


def arrive(clock, *pieces, gap=0.05):
    """What pieces mean that come `gap` seconds apart, and in the ten seconds after them."""
    terminal, messages = TerminalInput(), []
    for piece in pieces:
        messages += terminal.feed(piece)
        clock.now += gap
        messages += terminal.tick()
    clock.now += 10
    return said([*messages, *terminal.tick()])


@pytest.mark.parametrize("sequence", WHOLE, ids=repr)
def test_a_sequence_means_the_same_wherever_it_is_cut(clock, sequence):
    for at in range(1, len(sequence)):
        assert arrive(clock, sequence[:at], sequence[at:]) == [WHOLE[sequence]], at
    assert arrive(clock, *sequence) == [WHOLE[sequence]]
    assert arrive(clock, f"a{sequence}q") == ["a", WHOLE[sequence], "q"]


@pytest.mark.parametrize("sequence", UNKNOWN, ids=UNKNOWN.get)
def test_what_is_not_known_is_no_key(clock, sequence):
    assert arrive(clock, f"a{sequence}q") == ["a", "q"]
    for at in range(1, len(sequence)):
        assert arrive(clock, sequence[:at], sequence[at:] + "q") == ["q"], at


@pytest.mark.parametrize("half", ["\x1b[", "\x1bO", "\x1b[1;", "\x1b[<0;10", "\x1b]11;rgb", "\x1b[20"])
def test_half_a_sequence_whose_end_never_comes_is_no_key(clock, half):
    assert arrive(clock, half) == []
    assert arrive(clock, half, "\x1b[A") == ["up"], "what follows it is whole"


@pytest.mark.parametrize("key", ["q", "b", "1", "\r", "X", "D"])
def test_escape_and_the_key_behind_it_are_two_keys_at_any_pace(clock, key):
    name = {"\r": "enter"}.get(key, key)
    for gap in (0.0, 0.01, 0.05, 0.2):
        assert arrive(clock, "\x1b", key, gap=gap) == ["escape", name]
    assert arrive(clock, "\x1b" + key) == ["escape", name]
    assert arrive(clock, "\x1b\x1b[A") == ["escape", "up"]


def test_escape_alone_is_known_before_a_tenth_of_a_second_is_over(clock):
    terminal = TerminalInput()
    assert said(terminal.feed("\x1b")) == []
    assert clock.now + 0.05 < terminal.due < clock.now + 0.1  # half of a sequence may be 50 ms late
    clock.now += 0.1
    assert said(terminal.tick()) == ["escape"]
    assert terminal.due is None


def test_a_paste_without_an_end_does_not_swallow_keys_for_ever(clock):
    terminal = TerminalInput()
    assert said(terminal.feed("\x1b[200~half")) == []
    clock.now += 6
    assert said(terminal.tick()) == ["paste half"]
    assert said(terminal.feed("q")) == ["q"]
