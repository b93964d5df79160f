"""The demo by two builds of Evenfall, by turns: is the loop on a CPU as fast as before, and is its loss the same?

    python tests/benchmarks/demo_pairs.py BEFORE AFTER [--pairs 10]

BEFORE and AFTER are the `evenfall` commands of two installations (of two checkouts, say). Each pair runs both, the one
that begins changing from pair to pair, since the speed of a machine goes up and down within minutes; the first pair
warms caches and is left out. A run's speed is the median of tokens per second over its steps after the fifth. Prints
every pair, and the median over pairs of AFTER's speed as a part of BEFORE's.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

WARM_UP = 5


def demo(command: Path) -> tuple[float, float]:
    """Tokens per second, and the last step's loss."""
    with tempfile.TemporaryDirectory() as runs:
        subprocess.run(
            [command, "demo", "--plain", f"--runs={runs}"],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        (log,) = Path(runs).glob("*/events.jsonl")
        steps = [event for event in map(json.loads, log.read_text().splitlines()) if event.get("type") == "Step"]
    return statistics.median(step["tokens"] / step["seconds"] for step in steps[WARM_UP:]), steps[-1]["loss"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    ratios: list[float] = []
    for number in range(options.pairs + 1):
        order = (options.before, options.after) if number % 2 else (options.after, options.before)
        told = {command: demo(command.absolute()) for command in order}
        (before, loss_before), (after, loss_after) = told[options.before], told[options.after]
        said = f"{before:,.0f} and {after:,.0f} tokens/s: {after / before:.4f}; losses {loss_before!r}, {loss_after!r}"
        print(f"pair {number}: {said}{'' if number else ' (left out)'}", flush=True)
        if number:
            ratios.append(after / before)
    print(f"after / before: median {statistics.median(ratios):.4f}, {min(ratios):.4f} to {max(ratios):.4f}")


if __name__ == "__main__":
    main()
