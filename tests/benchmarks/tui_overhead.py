"""What the screens cost the loop: the same run with the app in a real terminal and without.

    python tests/benchmarks/tui_overhead.py [--pairs 10] [run.yaml] [key=value ...]

Pairs alternate inside one process under a pseudo-terminal of 120x36 whose output is drained. Prints the
median over pairs of (speed with the app / speed without), their spread, and the share of a core that the
main thread (the app) used while steps were done. Speed is tokens per second over all steps but the
first five. The default run is the demo.
"""

import argparse
import fcntl
import json
import os
import pty
import statistics
import struct
import sys
import tempfile
import termios
import threading
import time
from pathlib import Path

import psutil

from evenfall.engine.config.run_config import RunConfig, load_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

WARM_UP = 5


def speed(session: Session) -> float:
    steps = [e for e in session.events_since(0) if isinstance(e, ev.Step)][WARM_UP:]
    assert session.state == "finished", session.state
    return sum(step.tokens for step in steps) / sum(step.seconds for step in steps)


def cpu_seconds(thread: int) -> float:
    (one,) = (one for one in psutil.Process().threads() if one.id == thread)
    return one.user_time + one.system_time


def watch_main_thread(session: Session, result: list[float]) -> None:
    """CPU share of the main thread from the sixth step to the last."""
    main = os.getpid()
    begin: tuple[float, float] | None = None
    while not session.done:
        steps = [e for e in session.events_since(0) if isinstance(e, ev.Step)]
        if begin is None and len(steps) > WARM_UP:
            begin = time.perf_counter(), cpu_seconds(main)
        if any(isinstance(e, ev.Finished) for e in session.events_since(0)):
            break
        time.sleep(0.1)
    if begin:
        result.append((cpu_seconds(main) - begin[1]) / (time.perf_counter() - begin[0]))


def inner(config: RunConfig, pairs: int, out: Path) -> None:
    from evenfall.tui.app import EvenfallApp

    root = Path(tempfile.mkdtemp())
    rows, shares = [], []
    for number in range(pairs + 1):  # the first pair warms caches and is left out
        row = {}
        for kind in ("app", "plain") if number % 2 else ("plain", "app"):
            named = config.model_copy(update={"name": f"{kind}-{number}", "output_dir": str(root)})
            session = Session(create_run(named), attended=kind == "app")
            if kind == "app":
                share: list[float] = []
                watcher = threading.Thread(target=watch_main_thread, args=(session, share))
                app = EvenfallApp(named, root=root, train=session, leave_when_done=True)
                threading.Timer(0.5, watcher.start).start()
                app.run()
                session.wait()
                watcher.join()
                shares += share[-1:] if number else []
            else:
                session.start()
                session.wait()
            row[kind] = speed(session)
        if number:
            rows.append(row)
        out.write_text(json.dumps({"rows": rows, "shares": shares}))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--inner", type=Path)
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    if args.inner:
        if args.config and "=" not in args.config:
            config = load_config(args.config, args.overrides)
        else:
            from evenfall.engine.inference.demo import demo_config

            config = demo_config([word for word in (args.config, *args.overrides) if word])
        inner(config, args.pairs, args.inner)
        return 0
    out = Path(tempfile.mkdtemp()) / "result.json"
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        words = ["--inner", str(out), *sys.argv[1:]]
        os.execv(sys.executable, [sys.executable, __file__, *words])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
    tail = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break
        if not data:
            break
        tail = (tail + data)[-4000:]
    os.waitpid(child, 0)
    if not out.exists():
        print(tail.decode(errors="replace"))
        return 1
    result = json.loads(out.read_text())
    ratios = sorted(row["app"] / row["plain"] for row in result["rows"])
    for row in result["rows"]:
        print(f"app {row['app']:>12,.0f}  plain {row['plain']:>12,.0f} tokens/s  ratio {row['app'] / row['plain']:.4f}")
    print(
        f"{len(ratios)} pairs: median ratio {statistics.median(ratios):.4f}, from {ratios[0]:.4f} to {ratios[-1]:.4f}"
    )
    shares = result["shares"]
    if shares:
        print(f"main thread: median {100 * statistics.median(shares):.1f} % of a core, most {100 * max(shares):.1f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
