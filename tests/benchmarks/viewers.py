"""What three viewers cost a run, and what a run of 20,000 steps costs a viewer.

    python tests/benchmarks/viewers.py speed [--pairs 10] [--seconds 15] [run.yaml] [key=value ...]
    python tests/benchmarks/viewers.py flood [--pairs 10] [--seconds 15] [run.yaml] [key=value ...]
    python tests/benchmarks/viewers.py cost [--keys 200]

`speed` trains one run without screens (the demo, or a run.yaml), and lets three viewers in terminals of 120x36 come
and go: windows with and without them alternate. Speed is tokens over seconds of the steps in a window; a viewer's
start is not in one. `flood` does the same with a stranger in their place: a process that opens a thousand connections
each second, says nothing, nonsense, half a message or 100 KB on them, and reads nothing. `cost` shows a live run of
20,000 steps that makes four more each second: the viewer's processor time and output, the time from a key to the first
output that answers it, and the first paint beside a live run.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.control import Control
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.run.log import EventLog
from evenfall.engine.run.owner import read_owner
from evenfall.engine.session.socket import RunSocket

EVENFALL = [sys.executable, "-m", "evenfall.tui.commands.main"]
VIEWERS = 3
KEYS = (b"w", b"y", b"i", b"\x1b", b"l", b"\x1b", b"?", b"\x1b", b"2", b"3", b"6", b"3")


class Viewer:
    """`evenfall` in a terminal that is read, and no more."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        self.started = time.perf_counter()
        self.first_at: float | None = None
        self.last_at, self.bytes = 0.0, 0
        self._process = subprocess.Popen(
            [*EVENFALL, *words], cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env=os.environ | {"TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(slave)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                self.last_at = time.perf_counter()
                self.bytes += len(data)
                if self.first_at is None:
                    seen += data
                    if b"Model" in seen:  # the strip of screens, which is painted with the first one
                        self.first_at = self.last_at

    def press(self, key: bytes) -> None:
        os.write(self.master, key)

    def seconds_used(self) -> float:
        """Processor time of the app so far."""
        process = psutil.Process(self._process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))

    def leave(self) -> None:
        self.press(b"q")
        self._process.wait(30)
        os.close(self.master)


FLOOD = """
import contextlib, socket, sys, time

lines = (b"", b"\\xff\\x00\\n", b'{"protocol": 1, "gree', b"x" * 100_000 + b"\\n", b"[1, 2]\\n" * 200)
held, count, begun = [], 0, time.monotonic()
while True:
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    with contextlib.suppress(OSError):
        client.connect(sys.argv[1])
        client.send(lines[count % len(lines)])
    held.append(client)
    if len(held) > 200:
        held.pop(0).close()
    count += 1
    time.sleep(max(0.0, begun + count / 1000 - time.monotonic()))
"""


class Stranger:
    """A process that troubles a run's socket."""

    def __init__(self, run: RunDirectory) -> None:
        owner = read_owner(run.path)
        assert owner is not None
        self._process = subprocess.Popen([sys.executable, "-c", FLOOD, owner.socket])

    def seconds_used(self) -> float:
        return sum(psutil.Process(self._process.pid).cpu_times()[:2])

    def leave(self) -> None:
        assert self._process.poll() is None, "the flood ended by itself"
        self._process.kill()
        self._process.wait()


def steps_between(run: RunDirectory, begin: float, end: float) -> float:
    """Tokens a second of the steps that ended between two times."""
    steps = [step for step in run.progress().steps if begin < step.t <= end]
    return sum(step.tokens for step in steps) / sum(step.seconds for step in steps)


def viewers_of(folder: Path, run: RunDirectory) -> list[Viewer]:
    return [Viewer(folder, "watch", run.name) for _ in range(VIEWERS)]


def speed(options: argparse.Namespace, company: Callable[[Path, RunDirectory], Sequence[Viewer | Stranger]]) -> int:
    """Alternate windows of a run with and without company."""
    folder = Path(tempfile.mkdtemp(prefix="viewers-"))
    words = [options.config, *options.overrides] if options.config else options.overrides
    command = ["train", *words] if options.config and "=" not in options.config else ["demo", *filter(None, words)]
    training = subprocess.Popen(
        [*EVENFALL, *command, "--plain", "--runs", str(folder / "runs"), "train.max_steps=100000", "--beside"],
        stdout=(folder / "out.txt").open("w"), stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not (found := [*(folder / "runs").glob("*/events.jsonl")]):
            time.sleep(0.2)
        run = RunDirectory(found[0].parent)
        while run.progress().step < 10:
            assert training.poll() is None, (folder / "out.txt").read_text()
            time.sleep(0.5)
        ratios = []
        for number in range(options.pairs):
            rates, told = {}, ""
            for watched in (True, False) if number % 2 else (False, True):
                viewers = company(folder, run) if watched else []
                time.sleep(options.settle if watched else 1.0)
                begin = time.time()
                used = [viewer.seconds_used() for viewer in viewers]
                time.sleep(options.seconds)
                rates[watched] = steps_between(run, begin, time.time())
                shares = [
                    (viewer.seconds_used() - before) / options.seconds
                    for viewer, before in zip(viewers, used, strict=True)
                ]
                for viewer in viewers:
                    viewer.leave()
                if watched:
                    told = ", ".join(f"{100 * share:.1f} %" for share in shares)
            ratios.append(rates[True] / rates[False])
            print(
                f"pair {number + 1:>2}: watched {rates[True]:>10,.0f}  alone {rates[False]:>10,.0f} tokens/s  "
                f"ratio {ratios[-1]:.4f}  (beside it: {told} of a core)",
                flush=True,
            )
        print(f"median ratio {statistics.median(ratios):.4f}, from {min(ratios):.4f} to {max(ratios):.4f}")
        return 0
    finally:
        training.terminate()
        training.wait()


def long_run(root: Path, steps: int) -> RunDirectory:
    """A run whose record has so many steps."""
    run = create_run(parse_config({"output_dir": str(root), "name": "long", "train": {"max_steps": 2 * steps}}))
    log = EventLog(run.events_file)
    log.append(ev.StateChanged("loading"))
    log.append(ev.RunStarted(run="long", pid=os.getpid(), device="NVIDIA H200", versions={}))
    log.append(ev.StateChanged("training"))
    for step in range(1, steps + 1):
        log.append(a_step(step))
    log.close()
    return run


def a_step(step: int) -> ev.Step:
    return ev.Step(
        step=step, epoch=step / 10_000, loss=1 + 1000 / (500 + step) + (step * 7919 % 100) / 400, learning_rate=1e-4,
        grad_norm=0.5, tokens=16_384, trained_tokens=9000, seconds=0.25, seconds_so_far=step / 4,
        memory_gb=60 + step % 10 / 10, memory_peak_gb=66, memory_total_gb=143,
    )  # fmt: skip


def cost(options: argparse.Namespace) -> int:
    folder = Path(tempfile.mkdtemp(prefix="viewers-"))
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    run = long_run(folder / "runs", 20_000)
    over = threading.Event()
    with run.lock() as hold:
        log = EventLog(run.events_file)
        socket = RunSocket(run.path, control=Control(log, attended=False), hold=hold, log_error=lambda: None)
        socket.start()

        def go_on() -> None:
            step = 20_000
            while not over.wait(0.25):
                step += 1
                log.append(a_step(step))

        threading.Thread(target=go_on).start()
        time.sleep(0.5)
        paints = []
        for _ in range(7):
            viewer = Viewer(folder)
            while viewer.first_at is None:
                time.sleep(0.01)
            paints.append(viewer.first_at - viewer.started)
            time.sleep(3)
            viewer.leave()
        print(f"first paint beside a live run: median {statistics.median(paints):.3f} s, worst {max(paints):.3f} s")
        viewer = Viewer(folder)
        time.sleep(10)
        used, sent, begin = viewer.seconds_used(), viewer.bytes, time.perf_counter()
        time.sleep(options.seconds)
        seconds = time.perf_counter() - begin
        share = (viewer.seconds_used() - used) / seconds
        print(f"20,000 steps and four more a second: the viewer's process {100 * share:.1f} % of a core, ", end="")
        print(f"{(viewer.bytes - sent) / seconds / 1000:.1f} KB/s to the terminal")
        times: dict[bytes, list[float]] = {}
        for number in range(-len(KEYS), options.keys):  # the first round makes the screens
            before = viewer.last_at
            while viewer.last_at == before or time.perf_counter() - viewer.last_at < 0.06:
                time.sleep(0.001)  # just behind the output of a poll: the next one is far off
                if time.perf_counter() - viewer.last_at > 1.5:
                    break
            key, pressed = KEYS[number % len(KEYS)], time.perf_counter()
            viewer.press(key)
            while viewer.last_at < pressed and time.perf_counter() - pressed < 5:
                time.sleep(0.0005)
            if number >= 0:
                times.setdefault(key, []).append(viewer.last_at - pressed)
        all_times = [each for one in times.values() for each in one]
        print(f"{len(all_times)} keys to screen: median {1000 * statistics.median(all_times):.0f} ms, ", end="")
        print(f"worst {1000 * max(all_times):.0f} ms; median and worst by key:", end=" ")
        by_key = {key: (statistics.median(each), max(each)) for key, each in times.items()}
        print(json.dumps({repr(key)[2:-1]: [round(1000 * value) for value in two] for key, two in by_key.items()}))
        viewer.leave()
        over.set()
        socket.close()
        log.close()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("speed", "flood", "cost"))
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--settle", type=float, default=6.0, help="seconds that viewers are given to open")
    options = parser.parse_args()
    if options.what == "cost":
        return cost(options)
    return speed(options, viewers_of if options.what == "speed" else lambda folder, run: [Stranger(run)])


if __name__ == "__main__":
    sys.exit(main())
