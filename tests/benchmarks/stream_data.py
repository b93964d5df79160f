"""A data set larger than memory: how soon the first batch is there, how fast rows become tokens, what it takes.

    python tests/benchmarks/stream_data.py --gb 5
    python tests/benchmarks/stream_data.py --file rows.jsonl --model NAME --rows 400000

Without a file, conversations of random words are written to a temporary one. Three processes are measured from
their start: one that reads the stream, one that takes it up in the middle with nothing in the cache, and one that
does so with it. Batches of all three must be the same, token for token. Memory is that of the process and
of those that it started, shared pages counted once (PSS).
"""

import argparse
import atexit
import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

_LETTERS = "etaoinshrdlucmfwypvbgk"


def write_rows(file: Path, size: int) -> int:
    """Write JSON Lines of conversations until `size` bytes; returns the rows."""
    draw = random.Random(0)
    words = ["".join(draw.choices(_LETTERS, k=2 + n % 8)) for n in range(20_000)]
    clauses = [" ".join(draw.choices(words, k=draw.randint(3, 12))) for _ in range(100_000)]
    written = rows = 0
    with file.open("w", encoding="utf-8") as out:
        while written < size:
            turns = []
            for _ in range(draw.choice((1, 1, 1, 2, 3))):
                for role, most in (("user", 8), ("assistant", 30)):
                    text = ", ".join(draw.choices(clauses, k=draw.randint(1, most)))
                    turns.append({"role": role, "content": text})
            line = json.dumps({"messages": turns}) + "\n"
            out.write(line)
            written += len(line)
            rows += 1
    return rows


def measure(file: str, model: str, windows: list[int], cache: str) -> None:
    """In a process of its own: take windows from the stream and print what they are."""
    started = time.time() - _age()
    os.environ["XDG_CACHE_HOME"] = cache
    from evenfall.engine.config.run_config import RunConfig
    from evenfall.engine.data.prepare.begun import begin_processes, end_processes

    config = RunConfig.model_validate({"data": {"path": file}, "model": {"name_or_path": model}})
    begin_processes(config)
    atexit.register(end_processes)
    from evenfall.engine.machine.libraries import import_light
    from evenfall.engine.session.imports import import_for_data

    import_for_data()
    from evenfall.engine.data.prepare.prepare import prepare
    from evenfall.engine.model.tokenizer import load_tokenizer

    # A batch is of torch's tensors, and torch takes longer than the first rows.
    threading.Thread(target=import_light, args=["evenfall.engine.data.pack.batch"]).start()
    prepared = prepare(config, load_tokenizer(config), lambda stage, fraction: None)
    peak = 0
    tokens = rows = 0
    packed, first, fill, since = 0.0, 0.0, 0.0, time.time()
    digests = {}
    for index in range(windows[0], windows[1]):
        while not prepared.train.ready(0, index):
            time.sleep(0.05)
            peak = max(peak, _memory())
        bins = prepared.train.window(0, index)
        assert bins is not None
        packed = packed or time.time() - started
        order = bins.order(0, config.train.seed, True, index)
        digest = hashlib.sha256()
        for place in order:
            batch = bins.batch([place])
            if not first:
                first = time.time() - started
            digest.update(batch.input_ids.numpy().tobytes() + batch.labels.numpy().tobytes())
        digests[index] = digest.hexdigest()
        rows += bins.examples.row_count
        tokens += bins.examples.tokens
        peak = max(peak, _memory())
        fill = bins.examples.tokens / (len(bins) * config.data.max_length)
    seconds = time.time() - since
    prepared.train.close()
    print(
        json.dumps(
            {
                "packed": packed, "first": first, "rows": rows, "tokens": tokens, "seconds": seconds, "peak": peak,
                "fill": fill, "digests": digests, "bins_in_epoch": prepared.train.bins_in_epoch,
            }
        )
    )  # fmt: skip


def _age() -> float:
    """Seconds since this process began."""
    return time.time() - psutil.Process().create_time()


def _memory() -> int:
    """Bytes (PSS) of this process and its children."""
    own = psutil.Process()
    total = 0
    for one in [own, *own.children()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().pss
    return total


def run(file: str, model: str, windows: tuple[int, int], cache: str) -> dict:
    done = subprocess.run(
        [sys.executable, __file__, "--measure", json.dumps([file, model, windows, cache])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gb", type=float, default=5.0, help="size of the file that is written")
    parser.add_argument("--file", help="a file of your own instead")
    parser.add_argument("--model", default="demo", help="whose tokenizer")
    parser.add_argument("--windows", type=int, default=8, help="windows that are read")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*json.loads(options.measure))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = options.file
        if file is None:
            file = f"{folder}/rows.jsonl"
            rows = write_rows(Path(file), int(options.gb * 1e9))
            print(f"{file}: {rows:,} rows, {Path(file).stat().st_size / 1e9:.2f} GB")
        last = options.windows
        middle = last // 2
        whole = run(file, options.model, (0, last), f"{folder}/a")
        anew = run(file, options.model, (middle, last), f"{folder}/b")
        kept = run(file, options.model, (middle, last), f"{folder}/a")
    print(f"{'':24}{'first packed':>14}{'first batch':>13}{'rows/s':>10}{'tokens/s':>12}{'peak MB':>9}")
    for name, one in (
        ("from the beginning", whole),
        ("resumed, nothing kept", anew),
        ("resumed, from the cache", kept),
    ):
        print(
            f"{name:24}{one['packed']:>12.2f} s{one['first']:>11.2f} s{one['rows'] / one['seconds']:>10,.0f}"
            f"{one['tokens'] / one['seconds']:>12,.0f}{one['peak'] / 1e6:>9,.0f}"
        )
    print(f"bins of the last window are {100 * whole['fill']:.2f} % full; about {whole['bins_in_epoch']:,} an epoch")
    same = all(
        other["digests"][index] == whole["digests"][index] for other in (anew, kept) for index in other["digests"]
    )
    print("resumed batches are the same" if same else "RESUMED BATCHES DIFFER")
    sys.exit(not same)


if __name__ == "__main__":
    main()
