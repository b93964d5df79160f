"""From starting `evenfall train` to its first optimiser step, and what is imported on the way.

    python tests/benchmarks/first_step.py [--times 5] [--imports] [run.yaml] [key=value ...]

Each start is a process of its own that trains for one step in a folder of its own. Its moments are
the times of events in `events.jsonl`, in seconds from just before the process started:

    command      the configuration is read, the worker begins
    imports      the heavy libraries are there, the device is found
    model        the base model is on the device (the data were prepared before it)
    ready        adapter, proofs of the kernels, attention measured
    first step   done, and its loss known

Prints each start and the medians. A first start, which fills the page cache and Triton's, is left out.
The default run is the demo's model and data, on whatever device there is.

--imports starts it once more under `-X importtime` and prints where imports' time goes: by package, and
as a tree of those that take longest. What Python code imports by name (as transformers does for its own
modules) is not listed by older Pythons; its time is then in the module that asked for it.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

MOMENTS = ("command", "imports", "model", "ready", "first step")
TREE_SECONDS = 0.1
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)$")


@dataclass(frozen=True)
class Import:
    """One line of `-X importtime`."""

    name: str
    own: float
    """Seconds, without what it imports."""
    total: float
    """Seconds, with it."""
    depth: int


def command(config: list[str], folder: str, *flags: str) -> list[str]:
    if not config or "=" in config[0]:
        config = [str(demo(Path(folder))), *config]
    words = ["train", *config, f"output_dir={folder}/runs", "train.max_steps=1", "--plain"]
    return [sys.executable, *flags, "-m", "evenfall.tui.commands.main", *words]


def demo(folder: Path) -> Path:
    file = folder / "run.yaml"
    file.write_text("model: {name_or_path: demo}\ndata: {path: demo, max_length: 256}\n")
    return file


def one(config: list[str]) -> list[float]:
    """Seconds from the start to each of `MOMENTS`."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        words = command(config, folder)
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        logs = list(Path(folder).glob("runs/*/events.jsonl"))
        if done.returncode or not logs:
            raise SystemExit(f"the run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return [t - start for t in moments([json.loads(line) for line in logs[0].open()])]


def moments(events: list[dict]) -> list[float]:
    def first(kind: str) -> float:
        return next(event["t"] for event in events if event["type"] == kind)

    loading = [
        place
        for place, event in enumerate(events)
        if event["type"] == "Progress" and event["stage"].startswith("loading ")
    ]
    loaded = events[loading[-1] + 1]["t"]
    return [first("StateChanged"), first("RunStarted"), loaded, first("ModelLoaded"), first("Step")]


def read_imports(text: str) -> list[Import]:
    """Imports, each before what it imports."""
    found = [match for line in text.splitlines() if (match := _LINE.match(line))]
    return [Import(m[4], int(m[1]) / 1e6, int(m[2]) / 1e6, len(m[3]) // 2) for m in reversed(found)]


def import_tables(imports: list[Import], most: int = 20) -> str:
    """Time and modules of each top-level package, who asks for most of it, and the tree."""
    own: dict[str, float] = defaultdict(float)
    asked: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    modules: Counter[str] = Counter()
    path: list[str] = []
    for module in imports:
        package = module.name.partition(".")[0]
        path[module.depth :] = [module.name]
        above = (name for name in reversed(path) if name.partition(".")[0] != package)
        own[package] += module.own
        asked[package][next(above, "")] += module.own
        modules[package] += 1
    lines = [f"{'own s':>7} {'modules':>8}  package, and who asks for most of it"]
    for package in sorted(own, key=lambda name: -own[name])[:most]:
        by = max(asked[package], key=lambda name: asked[package][name])
        lines.append(f"{own[package]:7.2f} {modules[package]:8}  {package}{by and f' <- {by}'}")
    lines += [f"{sum(own.values()):7.2f} {len(imports):8}  all", ""]
    lines.append(f"{'total s':>7} {'own s':>8}  imports of {TREE_SECONDS} s and more")
    lines += [
        f"{module.total:7.2f} {module.own:8.2f}  {'  ' * module.depth}{module.name}"
        for module in imports
        if module.total >= TREE_SECONDS
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("config", nargs="*", metavar="run.yaml key=value")
    args = parser.parse_args()
    one(args.config)
    print(" ".join(f"{name:>10}" for name in MOMENTS))
    starts = []
    for _ in range(args.times):
        starts.append(one(args.config))
        print(" ".join(f"{seconds:10.2f}" for seconds in starts[-1]), flush=True)
    medians = (statistics.median(column) for column in zip(*starts, strict=True))
    print(" ".join(f"{seconds:10.2f}" for seconds in medians), f" median of {len(starts)}")
    if args.imports:
        with tempfile.TemporaryDirectory() as folder:
            words = command(args.config, folder, "-X", "importtime")
            done = subprocess.run(words, check=True, capture_output=True, text=True)
        print("\n" + import_tables(read_imports(done.stderr)))


if __name__ == "__main__":
    main()
