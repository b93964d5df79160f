"""A night on a machine that is reached over a bad line: real processes, real terminals, nothing simulated.

Each night starts a run in a terminal, kills that terminal at a random moment, attaches from two others, pauses from one
and changes the learning rate, kills that one too, lets the run go on from a third, stops it, takes it up again, lets
it finish and exports it. The run must be there all along, no process may be left at the end, and its losses must be
those of a run that nobody disturbed (with the same change of rate at the same step), bit for bit.

    python tests/benchmarks/night.py --nights 20 --seed 1

Needs tmux. Prints a row for each night; the exit code is 1 where one went wrong.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.event_lines import encode_event

EVENFALL = [sys.executable, "-m", "evenfall.tui.commands.main"]
ENDS = ("hang-up", "tmux server killed", "terminal stalled, then gone", "resizes, then hang-up", "SIGHUP alone")
PATIENCE = 180.0
RATE = 1e-3


class NightError(Exception):
    """What should have happened did not."""


def until(what: str, condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NightError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.05)


class Tmux:
    """A command in a tmux server of its own."""

    def __init__(self, folder: Path, words: list[str], size: tuple[int, int] = (120, 36)) -> None:
        self._socket = str(folder / f"tmux-{random.randrange(10**9)}")
        self._run("new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), shlex.join(words), cwd=folder)
        self.server = int(self._run("display-message", "-p", "#{pid}"))
        self.process = int(self._run("display-message", "-p", "#{pane_pid}"))

    def _run(self, *words: str, cwd: Path | None = None) -> str:
        command = ["tmux", "-S", self._socket, *words]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=True).stdout.strip()

    def text(self) -> str:
        with contextlib.suppress(subprocess.CalledProcessError):
            return self._run("capture-pane", "-p")
        return ""

    def press(self, *keys: str) -> None:
        for key in keys:
            self._run("send-keys", *(("-l", key) if len(key) == 1 else (key,)))

    def end(self, how: str, chance: random.Random) -> None:
        if how == "resizes, then hang-up":
            for _ in range(40):
                width, height = chance.randrange(20, 200), chance.randrange(5, 60)
                self._run("resize-window", "-x", str(width), "-y", str(height))
        if how == "tmux server killed":
            os.kill(self.server, signal.SIGKILL)
        elif how == "SIGHUP alone":
            os.kill(self.process, signal.SIGHUP)
        else:
            self._run("kill-session")

    def clear(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("kill-server")


class Pty:
    """A command in a terminal that can stop reading."""

    def __init__(self, folder: Path, words: list[str], size: tuple[int, int] = (120, 36)) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        environment = os.environ | {"TERM": "xterm-256color", "TTY": os.ttyname(slave)}
        self.started = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$TTY" >"$TTY" 2>&1', "sh", *words],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.process = self.started.pid
        time.sleep(0.5)  # until the shell has it open
        os.close(slave)
        self._output, self._reading = b"", True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        os.set_blocking(self.master, False)
        while self._reading:
            with contextlib.suppress(OSError):
                self._output = (self._output + os.read(self.master, 65536))[-200_000:]
            time.sleep(0.005)

    def text(self) -> str:
        return self._output.decode(errors="replace")

    def press(self, *keys: str) -> None:
        names = {"Space": " ", "Enter": "\r", "C-u": "\x15"}
        for key in keys:
            os.write(self.master, names.get(key, key).encode())

    def end(self, how: str, chance: random.Random) -> None:
        self._reading = False
        self._reader.join()
        if how == "terminal stalled, then gone":
            time.sleep(chance.uniform(1, 6))
        os.close(self.master)

    def clear(self) -> None:
        self._reading = False
        with contextlib.suppress(OSError):
            os.close(self.master)


def evenfall(folder: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [*EVENFALL, *words], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    if done.returncode != code:
        raise NightError(f"evenfall {' '.join(words)}: exit code {done.returncode}: {done.stdout}{done.stderr}"[:600])
    return done.stdout


def losses(run: RunDirectory) -> list[float]:
    return [step.loss for step in run.progress().steps]


def at_step(run: RunDirectory, step: int) -> bool:
    return run.config_file.is_file() and run.progress().step >= step


class Night:
    """A night in `folder`. Its parts raise NightError where the run was lost, stranded or changed."""

    def __init__(self, folder: Path, number: int, steps: int, chance: random.Random) -> None:
        self._folder, self._number, self._steps, self._chance = folder, number, steps, chance
        self._name = f"night-{number + 1}"
        self._run = RunDirectory(folder / "runs" / self._name)
        self._terminals: list[Tmux | Pty] = []
        self._how = ENDS[number % len(ENDS)]
        self.row: dict[str, object] = {"night": number + 1, "terminal ended by": self._how}

    def _open(self, kind: type[Tmux] | type[Pty], *words: str, size: tuple[int, int] = (120, 36)) -> Tmux | Pty:
        self._terminals.append(kind(self._folder, [*EVENFALL, *words], size))
        return self._terminals[-1]

    def clear(self) -> None:
        for terminal in self._terminals:
            terminal.clear()

    def begin(self) -> None:
        """A terminal that goes at a random moment; the run stays."""
        kind = Pty if self._how == "terminal stalled, then gone" else Tmux
        size = self._chance.choice([(120, 36), (80, 24)])
        first = self._open(kind, "train", "run.yaml", f"name={self._name}", size=size)
        until("the run begins", self._run.is_live)
        if self._number % 4 == 3:
            time.sleep(self._chance.uniform(0, 4))  # while it loads
        else:
            step = self._chance.randrange(1, self._steps // 3)
            until("steps", lambda: at_step(self._run, step))
            time.sleep(self._chance.uniform(0, 0.5))
        self.row["at step"] = self._run.progress().step
        first.end(self._how, self._chance)
        time.sleep(1.0)
        if not self._run.is_live():
            raise NightError("the run ended with its terminal")

    def steer(self) -> None:
        """Two viewers, then a third: pause, change the rate, lose a viewer, go on, stop."""
        run = self._run
        one = self._open(Tmux, "watch", self._name, size=(80, 24))
        two = self._open(Pty, "watch", self._name)
        until("steps", lambda: at_step(run, 1))
        for terminal in (one, two):
            until("a viewer shows it", lambda terminal=terminal: "TRAINING" in terminal.text())
        one.press("Space")
        until("paused", lambda: run.progress().state == "paused")
        until("the other viewer sees the pause", lambda: "PAUSED" in two.text())
        one.press("l")
        until("the question of the rate", lambda: "Learning rate" in one.text())
        one.press("C-u", *f"{RATE:g}", "Enter")
        until("the rate is changed", lambda: run.progress().rate_changes)
        self.row["rate changed at"] = run.progress().rate_changes[0].step
        one.end("tmux server killed", self._chance)
        time.sleep(0.5)
        third = self._open(Tmux, "watch", self._name)
        until("the third viewer shows it", lambda: "PAUSED" in third.text())
        third.press("Space")
        until("it goes on", lambda: run.progress().state == "training")
        step = run.progress().step
        until("steps after the pause", lambda: at_step(run, step + 3))
        if self._number % 2:
            third.press("x")
            until("the question of the stop", lambda: "Stop the run" in third.text())
            third.press("s")
            evenfall(self._folder, "wait", self._name)
        else:
            evenfall(self._folder, "stop", self._name)
        self.row["stopped at"] = run.progress().step
        third.press("q")
        two.end("", self._chance)

    def finish(self) -> None:
        """Taken up again in a terminal that goes as well; the run's end, an export, and nobody left behind."""
        again = self._open(Tmux, "train", "--resume", self._name)
        until("it is taken up", self._run.is_live)
        time.sleep(self._chance.uniform(0, 5))
        again.end(self._chance.choice(["hang-up", "tmux server killed", "SIGHUP alone"]), self._chance)
        evenfall(self._folder, "wait", self._name)
        evenfall(self._folder, "export", self._name, "adapter", "merged")
        try:
            until("no process is left", lambda: not left_behind(self._folder), 20)
        except NightError as error:
            raise NightError(f"{error}: {list(left_behind(self._folder).values())}") from None
        if any(found["live"] for found in json.loads(evenfall(self._folder, "runs", "--json"))):
            raise NightError("a run is live still")
        self.row["steps"] = self._run.progress().step
        self.row["losses"] = compare(self._folder, self._run)


def left_behind(folder: Path) -> dict[int, str]:
    """Processes of this night that are still there, viewers included."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if process.cwd() == str(folder) and process.status() != psutil.STATUS_ZOMBIE and "tmux" not in words[:6]:
                found[process.pid] = words
    return found


def compare(folder: Path, run: RunDirectory) -> str:
    """Train an undisturbed twin, told of the same change of rate beforehand, and compare each loss."""
    twin = RunDirectory(folder / "twins" / run.name)
    twin.path.mkdir(parents=True)
    shutil.copy(run.config_file, twin.config_file)
    (change,) = (change for change in run.progress().rate_changes if not change.replayed)
    told = ev.LearningRateChanged(
        n=1, t=time.time(), step=change.step, old=change.old, new=change.new, mode=change.mode
    )
    twin.events_file.write_bytes(encode_event(told))
    evenfall(folder, "train", "--resume", str(twin.path), "--plain")
    one, other = losses(run), losses(twin)
    equal = sum(a == b for a, b in zip(one, other, strict=False))
    if not (equal == len(one) == len(other)):
        first = next((n for n, (a, b) in enumerate(zip(one, other, strict=False), 1) if a != b), None)
        raise NightError(f"losses differ: {equal} equal of {len(one)} and {len(other)}, first at step {first}")
    return f"{equal} of {len(other)} equal"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="number of the first night")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    failed = 0
    for number in range(options.first - 1, options.first - 1 + options.nights):
        with tempfile.TemporaryDirectory(prefix="night-", ignore_cleanup_errors=True) as made:
            folder = Path(made)
            os.environ["XDG_STATE_HOME"] = str(folder / "state")
            (folder / "run.yaml").write_text(
                "model: {name_or_path: demo}\n"
                "data: {path: demo, max_length: 256}\n"
                f"train: {{max_steps: {options.steps}, device: cpu, save_steps: 20, learning_rate: 2e-3}}\n"
            )
            night, begun = Night(folder, number, options.steps, random.Random(options.seed + number)), time.monotonic()
            try:
                for part in (night.begin, night.steer, night.finish):
                    part()
                print(json.dumps({**night.row, "seconds": round(time.monotonic() - begun)}), flush=True)
            except (NightError, subprocess.SubprocessError) as error:
                failed += 1
                print(json.dumps({**night.row, "failed": str(error)}), flush=True)
            finally:
                night.clear()
                for pid in left_behind(folder):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
    print(f"{options.nights - failed} of {options.nights} nights as they should be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
