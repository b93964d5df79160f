"""`evenfall data check` of some thousand rows: how soon the first is told, rows/s after it, what it takes.

    python tests/benchmarks/data_check.py rows.json [--times 20] [--rounds 3] [--against TREE ...]

The rows of a file are written `--times` times over, each answer with a number of its own behind it, so that all of them
differ and most nearly repeat another. Each source tree (this one, and those that are named) checks them by turns,
nothing in its cache. The first result is the first line that is printed; a tree that
prints it at the end has no rows after it. Memory is that of the process and of those
that it started, shared pages counted once (PSS), at its highest.
"""

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

_HERE = Path(__file__).resolve().parents[2]
_ANSWERS = ("output", "completion", "answer", "response", "text")
_MODULES = {"tui/commands/main.py": "evenfall.tui.commands.main", "tui/cli.py": "evenfall.tui.cli"}


@dataclass(frozen=True, kw_only=True)
class Check:
    first: float
    """Seconds to the first line."""
    whole: float
    """Seconds to the end."""
    cpu: float
    """Seconds of all cores together."""
    peak: int
    """Bytes (PSS)."""

    @staticmethod
    def median(of: "list[Check]") -> "Check":
        return Check(
            first=statistics.median(one.first for one in of),
            whole=statistics.median(one.whole for one in of),
            cpu=statistics.median(one.cpu for one in of),
            peak=max(one.peak for one in of),
        )


def write_rows(source: Path, times: int, out: Path) -> int:
    """Write the rows of a file over and over; returns how many there are."""
    text = source.read_text(encoding="utf-8")
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    key = next((name for name in _ANSWERS if name in rows[0]), "")
    with out.open("w", encoding="utf-8") as file:
        for number in range(times * len(rows)):
            row = copy.deepcopy(rows[number % len(rows)])
            # The answer's column, or what the last turn says.
            place, name = (row, key) if key else (row["conversations"][-1], "value")
            place[name] = f"{place[name]} {number + 1}"
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return times * len(rows)


def check(tree: Path, file: Path, overrides: list[str]) -> Check:
    """Check a file with the program of a source tree."""
    module = next(name for path, name in _MODULES.items() if (tree / path).is_file())
    program = f"import sys; from {module} import main; sys.exit(main())"
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "PYTHONPATH": f"{tree}/.types", "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
        started, cpu = time.time(), os.times()
        process = subprocess.Popen(
            [sys.executable, "-c", program, "data", "check", str(file), *overrides],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=cache, env=environment,
        )  # fmt: skip
        peak: list[int] = [0]
        sampler = threading.Thread(target=_sample, args=(process, peak), daemon=True)
        sampler.start()
        assert process.stdout is not None
        process.stdout.readline()
        first = time.time() - started
        process.stdout.read()
        process.wait()
        whole, after = time.time() - started, os.times()
        sampler.join()
    used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
    return Check(first=first, whole=whole, cpu=used, peak=peak[0])


def _sample(process: "subprocess.Popen[bytes]", peak: list[int]) -> None:
    """Look at the memory of a process and its children until it ends."""
    own = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for one in (own, *own.children(recursive=True)):
                total += _pss(one.pid)
        except psutil.NoSuchProcess:
            return
        peak[0] = max(peak[0], total)
        time.sleep(0.1)


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:  # it has ended
        return 0
    return next((1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("rows", type=Path, help="JSON Lines, or a JSON list")
    parser.add_argument("--times", type=int, default=20, help="how often the rows are written")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each tree")
    parser.add_argument("--against", type=Path, nargs="*", default=[], help="other source trees")
    parser.add_argument("overrides", nargs="*", help="key=value, as data check takes them")
    options, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        rows = write_rows(options.rows, options.times, file)
        print(f"{rows:,} rows, {file.stat().st_size / 1e6:.1f} MB")
        trees = [_HERE, *(tree.resolve() for tree in options.against)]
        found: dict[Path, list[Check]] = {tree: [] for tree in trees}
        for _ in range(options.rounds):
            for tree in trees:
                found[tree].append(check(tree, file, [*options.overrides, *more]))
    print(f"{'first row':>10}{'all':>10}{'rows/s after it':>17}{'in all':>8}{'CPU':>10}{'peak MB':>9}")
    for tree, each in found.items():
        one = Check.median(each)
        speed = f"{rows / (one.whole - one.first):,.0f}" if one.first < 0.9 * one.whole else "-"
        print(
            f"{one.first:>8.2f} s{one.whole:>8.2f} s{speed:>17}{rows / one.whole:>8,.0f}{one.cpu:>8.1f} s"
            f"{one.peak / 1e6:>9,.0f}  {tree}"
        )


if __name__ == "__main__":
    main()
