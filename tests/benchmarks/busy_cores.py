"""The demo on idle cores and on busy ones: how much longer does it take beside other programs?

    python tests/benchmarks/busy_cores.py [--loops 4] [--apart] [--limit 300] [--times 1]

Trains `evenfall demo` (120 steps) alone, and then beside endless loops, each a process. Prints, with the load
average before each, the seconds of the whole command, those of its steps and its tokens per second; a demo that takes
longer than the limit is stopped, and the steps that it came to are told. Variables go to the demo as they are: for
torch's own ways `OMP_NUM_THREADS=2 GOMP_SPINCOUNT=300000`.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from evenfall.engine.run import events as ev
from evenfall.engine.run.log import EventTail


@contextlib.contextmanager
def busy_loops(count: int, apart: bool) -> Iterator[None]:
    """Endless loops, of this session or of one of their own, which Linux gives as much time as this one."""
    code = f"import os\nany(os.fork() == 0 for _ in range({count - 1}))\nwhile True: pass"
    loops = subprocess.Popen([sys.executable, "-c", code], start_new_session=apart, process_group=None if apart else 0)
    try:
        yield
    finally:
        os.killpg(loops.pid, signal.SIGKILL)
        loops.wait()


def demo(limit: float) -> tuple[float, list[ev.Step]]:
    """Seconds of the command, and its steps."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "evenfall.tui.commands.main", "demo", "--plain", f"--runs={folder}"]
        start = time.monotonic()
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        seconds = time.monotonic() - start
        if code > 0:
            raise SystemExit(f"the demo ended with code {code}")
        (log,) = Path(folder).glob("*/events.jsonl")
        steps = [event for event in EventTail(log).read_new() if isinstance(event, ev.Step)]
        return seconds, steps


def measure(what: str, limit: float) -> float:
    load = os.getloadavg()[0]
    seconds, steps = demo(limit)
    trained = sum(step.seconds for step in steps)
    speed = sum(step.tokens for step in steps) / trained
    print(
        f"{what:>10}  load before {load:5.2f}  {seconds:6.1f} s in all  {trained:6.1f} s for "
        f"{len(steps)} steps  {speed:6,.0f} tokens/s",
        flush=True,
    )
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loops", type=int, default=4)
    parser.add_argument("--apart", action="store_true", help="loops in another session, as another terminal's are")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one demo")
    parser.add_argument("--times", type=int, default=1)
    args = parser.parse_args()
    for _ in range(args.times):
        alone = measure("alone", args.limit)
        with busy_loops(args.loops, args.apart):
            beside = measure(f"{args.loops} loops", args.limit)
        print(f"{beside / alone:.2f} times as long", flush=True)


if __name__ == "__main__":
    main()
