"""What the Train screen costs while a run goes on: the main thread's share of one core.

    PYTHONPATH=.types python tests/benchmarks/charts_cost.py [seconds] [WIDTHxHEIGHT] [steps]

The screen is run headless with a long history (20,000 steps) and a new step each 0.1 s, told by a
thread as the engine's would be. The share is CPU time of the main thread per second of wall time, once
the history is taken in. What a share of CPU costs the training loop: while the main thread computes it
holds the GIL, so the loop loses at most that share. Budget: 5 % of a core.
"""

import asyncio
import math
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.report.report import DataReport
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.tui.app import EvenfallApp


class Told:
    """A session whose steps come from here."""

    log_error = None
    done = False
    state = "training"

    def __init__(self, run: RunDirectory, history: int, total: int) -> None:
        self.run = run
        self._total = total
        self._events: list[ev.Event] = []
        self.tell(ev.StateChanged("training"))
        self.tell(
            ev.DataPrepared(
                DataReport(
                    sources=[], eval_rows=1, tokens=1, trained_tokens=1, bins=1, max_length=2048, lengths=[], notes={}
                ),
                total,
            )
        )
        for n in range(1, history + 1):
            self.step(n)

    def tell(self, event: ev.Event) -> None:
        self._events.append(replace(event, n=len(self._events) + 1, t=time.time()))

    def step(self, n: int) -> None:
        noise = 0.1 * math.sin(n * 12.9898) * math.cos(n * 78.233)
        loss = 0.9 + 2 * math.exp(-n / self._total * 6) + noise
        self.tell(
            ev.Step(
                step=n,
                epoch=n / self._total,
                loss=loss,
                learning_rate=1e-4,
                grad_norm=0.4,
                tokens=8192,
                trained_tokens=4000,
                seconds=0.1 + noise / 50,
                memory_gb=61 + noise,
                memory_peak_gb=66.0,
                memory_total_gb=80.0,
            )
        )
        if n % 500 == 0:
            self.tell(ev.Evaluated(step=n, loss=loss, rows=10, seconds=1.0))

    def start(self) -> None:
        """Steps come from the benchmark's thread."""

    def events_since(self, n: int) -> list[ev.Event]:
        return self._events[n:]


async def measure(seconds: float, size: tuple[int, int], history: int) -> tuple[float, float]:
    """(share with a new step each 0.1 s, share without news)."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder) / "bench")
        run.path.mkdir()
        run.write_config(RunConfig())
        told = Told(run, history, history * 3 // 2)
        app = EvenfallApp(root=Path(folder), first="train")
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            app.desk.begin(told)  # type: ignore[arg-type]
            await asyncio.sleep(3)
            idle = await _share(seconds / 2)
            ended = threading.Event()

            def tell() -> None:
                n = history
                while not ended.wait(0.1):
                    n += 1
                    told.step(n)

            thread = threading.Thread(target=tell)
            thread.start()
            await asyncio.sleep(2)
            busy = await _share(seconds)
            ended.set()
            thread.join()
    return busy, idle


async def _share(seconds: float) -> float:
    wall, used = time.perf_counter(), time.thread_time()
    await asyncio.sleep(seconds)
    return (time.thread_time() - used) / (time.perf_counter() - wall)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    width, height = (sys.argv[2] if len(sys.argv) > 2 else "120x36").split("x")
    history = int(sys.argv[3]) if len(sys.argv) > 3 else 20_000
    busy, idle = asyncio.run(measure(seconds, (int(width), int(height)), history))
    print(f"{width}x{height}, {history} steps of history, a new one each 0.1 s")
    print(f"main thread {100 * busy:.1f} % of a core; {100 * idle:.1f} % without news")


if __name__ == "__main__":
    main()
