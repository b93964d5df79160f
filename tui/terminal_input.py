"""What a terminal sends, cut into whole sequences before anything is read out of them.

A link may cut an escape sequence anywhere and deliver its end later. Textual's parser gives up on a sequence after a
moment, or when it does not know it, and then reports its bytes as keys that were pressed: half an arrow key, a reply
of the terminal or an escape inside pasted text would act. Here nothing but a whole sequence reaches that parser, one
that it does not know is dropped, and so is one whose end never comes.

Escape itself is the start of a sequence too. It is the key once `ESCAPE_SECONDS` pass or a byte follows that starts no
sequence: then that byte is a key of its own, and escape with `q` right behind it means the same however fast the two
arrive (tmux, too, sends them together when they are typed within half a second). Alt with a character is therefore
two keys, unless the terminal has a protocol that tells it (kitty's); the app binds none.
"""

import codecs
import contextlib
import os
import selectors
import time
from collections.abc import Iterator
from typing import Any

from textual import events
from textual._ansi_sequences import ANSI_SEQUENCES_KEYS
from textual._xterm_parser import BRACKETED_PASTE_END, BRACKETED_PASTE_START, XTermParser
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message

ESCAPE_SECONDS = 0.07
"""How long the byte after an escape may be on its way. Who presses escape waits so long, and sees the effect later."""
SEQUENCE_SECONDS = 0.5
"""How long the rest of a sequence may be on its way."""
PASTE_SECONDS = 5.0
"""How long a paste may pause before its end is given up."""
LONGEST = 4096
ESC = "\x1b"
STRINGS = "]PX^_"
"""What begins a string that a terminal answers with (OSC, DCS, SOS, PM, APC)."""


def length_of(text: str) -> int:
    """Characters of the sequence that `text` begins with (it starts with escape); 0 where its end is not there yet."""
    if len(text) == 1:
        return 0
    kind = text[1]
    if kind == "[":
        return _length_of_csi(text)
    if kind == "O":
        end = 2
        while end < len(text) and text[end] in "0123456789;":
            end += 1
        if end == len(text):
            return 0
        return end + 1 if text[end].isprintable() else end
    if kind in STRINGS:
        for end in range(2, len(text)):
            if text[end] == "\x07":
                return end + 1
            if text[end] == ESC:
                return 0 if end + 1 == len(text) else end + 2 if text[end + 1] == "\\" else end
        return len(text) if len(text) > LONGEST else 0
    return 1


def _length_of_csi(text: str) -> int:
    if text.startswith(ESC + "[M"):  # the oldest report of a mouse: three bytes follow
        return 6 if len(text) >= 6 else 0
    if text.startswith(ESC + "[["):  # function keys of the Linux console
        return 4 if len(text) >= 4 else 0
    for end in range(2, len(text)):
        if "@" <= text[end] <= "~" or (text[end] == "$" and text[: end + 1] in ANSI_SEQUENCES_KEYS):
            return end + 1
        if not " " <= text[end] <= "?":
            return end
    return len(text) if len(text) > LONGEST else 0


class _Decoder(XTermParser):
    """Textual's parser, for one whole sequence or plain text at a time."""

    def decode(self, text: str) -> Iterator[Message]:
        """The messages of `text`; nothing of it stays behind."""
        yield from self.feed(text)
        if self._awaiting.timeout is not None:  # it waits for more of what it does not know
            self._tokens.clear()
            self._gen = self.parse(self._tokens.append)
            self._awaiting = next(self._gen)
            self._timeout_time = None


class TerminalInput:
    """Turns what arrives into Textual's messages."""

    def __init__(self) -> None:
        self._decoder = _Decoder()
        self._held = ""
        self._pasted: list[str] | None = None
        """What has come of a paste; None: there is none."""
        self.due: float | None = None
        """When `tick` has something to do, on the clock of `time.monotonic`."""

    def feed(self, text: str) -> Iterator[Message]:
        """The messages that are whole once `text` has come."""
        self._held += text
        yield from self._take()
        self.due = None
        if self._pasted is not None:
            self.due = time.monotonic() + PASTE_SECONDS
        elif self._held:
            self.due = time.monotonic() + (ESCAPE_SECONDS if self._held == ESC else SEQUENCE_SECONDS)

    def tick(self) -> Iterator[Message]:
        """What follows from nothing having come for too long."""
        if self.due is None or time.monotonic() < self.due:
            return
        held, self._held, self.due = self._held, "", None
        if self._pasted is not None:
            text, self._pasted = "".join(self._pasted) + held, None
            yield events.Paste(text)
        elif held == ESC:
            yield events.Key("escape", ESC)
        elif len(held) == 2 and held[1] in STRINGS:  # somebody typed the two
            yield events.Key("escape", ESC)
            yield from self._decoder.decode(held[1])

    def _take(self) -> Iterator[Message]:
        while self._held:
            if self._pasted is not None:
                if not self._take_pasted():
                    return
                yield events.Paste("".join(self._pasted).replace("\x00", ""))
                self._pasted = None
                continue
            plain, escape, rest = self._held.partition(ESC)
            if plain:
                self._held = escape + rest
                yield from self._decoder.decode(plain)
                continue
            length = length_of(self._held)
            if not length:
                return
            sequence, self._held = self._held[:length], self._held[length:]
            if sequence == ESC:
                yield events.Key("escape", ESC)
            elif sequence == BRACKETED_PASTE_START:
                self._pasted = []
            elif sequence != BRACKETED_PASTE_END and sequence[1] not in STRINGS:
                yield from self._decoder.decode(sequence)

    def _take_pasted(self) -> bool:
        """Move what is known to be pasted; whether its end has come."""
        assert self._pasted is not None
        text, end, rest = self._held.partition(BRACKETED_PASTE_END)
        if not end:  # the last bytes may be the first of the end
            keep = next(
                n for n in range(len(BRACKETED_PASTE_END) - 1, -1, -1) if text.endswith(BRACKETED_PASTE_END[:n])
            )
            text, rest = text[: len(text) - keep], text[len(text) - keep :]
        self._pasted.append(text)
        self._held = rest
        return bool(end)


class TerminalDriver(LinuxDriver):
    """Textual's driver with `TerminalInput` in place of its parser."""

    def run_input_thread(self) -> None:
        """Read what the terminal sends until the app leaves."""
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        terminal = TerminalInput()

        def pass_on(messages: Iterator[Any]) -> None:
            for message in messages:
                self.process_message(message)

        with contextlib.closing(selectors.SelectSelector()) as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                wait = 0.1 if terminal.due is None else min(0.1, max(0.0, terminal.due - time.monotonic()))
                # Another look where none came: the rest of a sequence may have, while this thread could not run.
                if selector.select(wait) or selector.select(0):
                    data = os.read(self.fileno, 4096)
                    if not data:  # the other end is gone
                        self.exit_event.wait(0.1)
                    pass_on(terminal.feed(decode(data)))
                else:
                    pass_on(terminal.tick())
