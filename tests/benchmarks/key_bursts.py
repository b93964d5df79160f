"""Keys in bursts against the same keys one by one: do they come to the same screen?

    python tests/benchmarks/key_bursts.py [bursts] [seed] [columns rows]

Two real apps run in pseudo-terminals over the same runs. Each burst (keys of the registry for the screen that is
shown, text behind the key that opens a field, bracketed pastes, mouse and focus reports) goes to one app key by key,
and to the other at once, cut into pieces at any byte with 0 to 50 ms between them. Then what the two terminals show is
compared; where it differs for good, that is printed and both apps are started anew. A key that was lost or went
elsewhere shows in the screen: in a field's text, in a notice, or in which screen or dialog is open.
"""

import contextlib
import random
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tui"))

from pty_app import PtyApp

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.log import EventLog
from evenfall.tui.keys import SCREENS, verbs_of

CODES = {
    "escape": b"\x1b", "enter": b"\r", "space": b" ", "slash": b"/", "question_mark": b"?", "up": b"\x1b[A",
    "down": b"\x1b[B", "f1": b"\x1bOP", "f2": b"\x1bOQ", "f3": b"\x1bOR", "f4": b"\x1bOS", "f5": b"\x1b[15~",
    "f6": b"\x1b[17~", "f7": b"\x1b[18~",
}  # fmt: skip
MOVES = (b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[5~", b"\x1b[6~", b"\x1b[H", b"\x1b[F", b"\t", b"\x1b[Z")
OPENERS = {"model": "/", "data": "/", "chat": "i"}
WORDS = ("qwen", "q", "quit", "run 3", "x1D", "llama-3", "a?b", "wq", "lrsex", "666")
VOLATILE = (
    (re.compile(r"\d+(\.\d+)? [GMT]B"), "# GB"),
    (re.compile(r"/tmp/\S+"), "PATH"),
    (re.compile(r"(?m)^ [·!✗] .*$"), "NOTICE"),  # notices are over at times of their own
)
LEFT_OUT = ("quit", "detach")
"""Verbs that end the app; `q` is the last key of some bursts."""
SCRIPT = """
from evenfall.tui.commands.main import main
from evenfall.tui.state.desk import Desk
Desk.start_run = lambda desk: desk._host.tell("it would train")
raise SystemExit(main())
"""
PROGRAM = ("-c", SCRIPT)
"""The app; only that `r` says that it would train, as two runs are never alike."""
PATIENCE = 15.0


@dataclass(frozen=True)
class Burst:
    """Keys, each as the bytes that a terminal sends for it."""

    keys: tuple[bytes, ...]
    pieces: tuple[tuple[bytes, float], ...]
    """The same bytes in pieces, each with the seconds that pass before the next."""


def code_of(key: str) -> bytes:
    """What a terminal sends for a key of the registry."""
    if key.startswith("ctrl+"):
        return bytes([ord(key[5:].upper()) - 64])
    return CODES.get(key) or key.encode()


def in_pieces(data: bytes, chance: random.Random) -> tuple[tuple[bytes, float], ...]:
    """Cut at any byte, with 0 to 50 ms behind each piece."""
    cuts = sorted(chance.sample(range(1, len(data)), min(chance.randint(0, 4), len(data) - 1))) if len(data) > 1 else []
    ends = [*cuts, len(data)]
    gaps = [chance.choice((0.0, chance.uniform(0, 0.05))) for _ in ends]
    return tuple((data[start:end], gap) for start, end, gap in zip([0, *cuts], ends, gaps, strict=True))


def make_burst(screen: str, chance: random.Random) -> Burst:
    """Some keys that mean something on a screen, or on the one that the keys before have brought."""
    keys: list[bytes] = []
    for _ in range(chance.randint(2, 5)):
        verbs = [verb for verb in verbs_of(screen) if verb.id not in LEFT_OUT]
        kind = chance.random()
        if kind < 0.5:
            verb = chance.choice(verbs)
            keys.append(code_of(chance.choice(verb.key.split(","))))
            screen = verb.id[5:] if verb.id.startswith("show_") else screen
        elif kind < 0.7 and screen in OPENERS:
            keys.append(OPENERS[screen].encode())
            word = chance.choice(WORDS).encode()
            keys += (
                [b"\x1b[200~" + word + b"\x1b[201~"]
                if chance.random() < 0.4
                else [word[n : n + 1] for n in range(len(word))]
            )
            if chance.random() < 0.7:
                keys.append(b"\x1b")
        elif kind < 0.9:
            keys += [chance.choice(MOVES)] * chance.randint(1, 3)
        elif kind < 0.95:
            keys += [b"\x1b[O", b"\x1b[I"]
        else:
            column = chance.randint(1, 50)
            keys += [b"\x1b[<0;%d;1M" % column, b"\x1b[<0;%d;1m" % column]
    if chance.random() < 0.04:
        keys.append(b"q")
    return Burst(tuple(keys), in_pieces(b"".join(keys), chance))


def make_runs(root: Path) -> None:
    """Three runs that have ended: finished, failed, stopped."""
    for number, state in enumerate(("finished", "failed", "stopped"), 1):
        run = RunDirectory(root / f"run-{number}")
        run.path.mkdir(parents=True)
        run.write_config(parse_config({"model": {"name_or_path": "org/tiny"}, "data": {"path": "missing.jsonl"}}))
        log = EventLog(run.events_file)
        log.append(ev.StateChanged("loading"))
        log.append(ev.RunStarted(run=run.name, pid=4242, device="CPU", versions={}))
        for step in range(1, 40):
            log.append(
                ev.Step(
                    step=step, epoch=step / 40, loss=3.0 - step / 20, learning_rate=1e-4, grad_norm=0.5, tokens=100,
                    trained_tokens=50, seconds=0.1, memory_gb=1.0, memory_peak_gb=1.5, memory_total_gb=8.0,
                    skipped=False,
                )
            )  # fmt: skip
        if state == "failed":
            log.append(ev.Failed("it broke", "", 39))
        log.append(ev.StateChanged(state))  # type: ignore[arg-type] - one of the three
        log.close()


def comparable(app: PtyApp) -> str:
    """What is shown, without what differs between any two apps; the lines of notices are taken out."""
    if app.over:
        return "over"
    text = app.text()
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return "\n".join(line for line in text.split("\n") if line != "NOTICE" and line.strip())


def screen_of(app: PtyApp) -> str:
    """Which screen an app shows, from what only that one shows."""
    signs = {"runs": "runs/", "train": "space ", "chat": "Base/tuned", "data": "max length", "export": "x Export"}
    text = app.text()
    return next((name for name, sign in signs.items() if sign in text), "model")


class Pair:
    """The app that gets keys one by one, and the one that gets them at once."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._stack = contextlib.ExitStack()
        self.slow, self.fast = (self._start(size) for _ in range(2))
        for app in (self.slow, self.fast):
            assert app.shows("smollm2"), app.text()
            app.settle(1.0)

    def _start(self, size: tuple[int, int]) -> PtyApp:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        make_runs(folder / "runs")
        app = PtyApp(folder, size, PROGRAM)
        self._stack.callback(app.close)
        return app

    def play(self, burst: Burst, pace: float) -> str:
        """Send a burst both ways; what differs in the end, or nothing."""
        for piece, gap in burst.pieces:
            self.fast.send(piece)
            time.sleep(gap)
        for key in burst.keys:
            self.slow.send(key)
            self.slow.settle(max(pace, 0.17) if key == b"\x1b" else pace)
        end = time.monotonic() + PATIENCE
        while (shown := comparable(self.slow)) != comparable(self.fast):
            if time.monotonic() > end:
                return f"--- one by one\n{shown}\n--- at once\n{comparable(self.fast)}"
            time.sleep(0.05)
        return ""

    def close(self) -> None:
        self._stack.close()


def measure(bursts: int, seed: int, size: tuple[int, int], pace: float = 0.15) -> tuple[int, int, list[str]]:
    """Keys and bursts that were played, and a report of each that came to another screen."""
    chance = random.Random(seed)
    pair, wrong, keys = Pair(size), [], 0
    before: tuple[tuple[bytes, float], ...] = ()
    try:
        for _ in range(bursts):
            burst = make_burst(chance.choice(SCREENS) if chance.random() < 0.2 else screen_of(pair.slow), chance)
            keys += len(burst.keys)
            differs = pair.play(burst, pace)
            if differs:
                wrong.append(f"after {before}\n{burst.pieces}\n{differs}")
            before = burst.pieces
            if differs or pair.slow.over or pair.fast.over:
                pair.close()
                pair = Pair(size)
    finally:
        pair.close()
    return keys, bursts, wrong


def main() -> int:
    bursts, seed, width, height = [*map(int, sys.argv[1:]), *(500, 1, 100, 30)[len(sys.argv) - 1 :]]
    start = time.monotonic()
    keys, played, wrong = measure(bursts, seed, (width, height))
    for report in wrong:
        print(report, end="\n\n")
    print(f"seed {seed}, {width}x{height}: {played} bursts, {keys} keys, {len(wrong)} came to another screen")
    print(f"{time.monotonic() - start:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
