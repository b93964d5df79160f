"""The large matmuls of a step under load: torch's algorithm of cuBLAS against the one that is chosen here.

    python tests/gpu/matmul_gpu.py [8b] [1b] [--tokens 16384] [--json FILE]

Measures each anew (`kernels/matmul_tuning.py`), then runs torch's and the chosen one by turns for half a second
each, with the clock and power that nvidia-smi shows, and compares the results bit by bit. Exit code 1 when
a chosen one is wrong or, by turns, slower than torch's by more than 1 %. --json writes the table in the
format of `kernels/matmul_choices.json`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial

import torch

from evenfall.engine.bench.shapes import SHAPES
from evenfall.kernels import matmul_tuning as tuning
from evenfall.kernels.cublaslt import cublaslt
from evenfall.kernels.linear_cross_entropy import products as head_products
from evenfall.kernels.matmul import matmul
from evenfall.kernels.matmul_choices import Product, Weight, choices_of, key_of

RANK = 16


class Gauge:
    """Clock, MHz, and power, W, from nvidia-smi, every 50 ms."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, float, float]] = []
        query = "--query-gpu=clocks.sm,power.draw.instant"
        self.process = subprocess.Popen(
            ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "50"],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            clock, power = map(float, line.split(","))
            self.rows.append((time.time(), clock, power))

    def since(self, start: float) -> str:
        rows = [row for row in self.rows if row[0] > start]
        if not rows:
            return ""
        clock, power = (statistics.mean(row[i] for row in rows) for i in (1, 2))
        return f"{clock:4.0f} MHz {power:3.0f} W"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("shapes", nargs="*", default=["8b", "1b"])
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--json")
    args = parser.parse_args()
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()  # nothing is known yet
    device, dtype = torch.device("cuda", torch.cuda.current_device()), torch.bfloat16
    lt = cublaslt(device)
    if lt is None:
        print("there is no cublasLt here")
        return 1
    choices = choices_of(device)
    choices._by_weight.clear()
    gauge, good = Gauge(), True
    for name in args.shapes:
        names, products = products_of(name, args.tokens, device, dtype)
        start = time.perf_counter()
        tuning.tune(products, dtype, device)
        print(f"{name}, {args.tokens} tokens: measured in {time.perf_counter() - start:.1f} s")
        total = [0.0, 0.0]
        for what, product in zip(names, products, strict=True):
            weight = Weight(product.columns, product.inner, product.transposed, dtype)
            choice = choices.find(weight, product.rows)
            if choice is None:
                print(f"  {what:16} too small to be tuned")
                continue
            a, b, out = tuning.operands_for(product, dtype, device)
            want, flops = torch.mm(a, b), 2 * product.rows * product.columns * product.inner
            times, gauges = ([], []), ["", ""]
            ways = partial(torch.mm, a, b, out=out), partial(matmul, a, b, out)
            for _ in range(2):
                for index, run in enumerate(ways):
                    mark = time.time() + 0.1
                    times[index].append(rate(run, 0.25))
                    gauges[index] = gauge.since(mark)
            right = torch.equal(matmul(a, b, out.fill_(torch.nan)), want)
            stock, chosen = map(statistics.mean, times)
            total[0], total[1] = total[0] + stock, total[1] + chosen
            fine = chosen <= 1.01 * stock and tuning.agree(out, want)
            good &= fine
            print(
                f"  {what:16} torch {stock:6.3f} ms {flops / stock / 1e9:4.0f} TFLOP/s {gauges[0]}"
                f" | chosen {chosen:6.3f} ms {flops / chosen / 1e9:4.0f} {gauges[1]}"
                f" | {choice.algorithm} {'same bits' if right else 'other bits'}"
                f"{'' if fine else ' NOT GOOD'}",
                flush=True,
            )
        print(f"  all: {total[0]:.3f} -> {total[1]:.3f} ms ({1 - total[1] / total[0]:.1%} less)")
    gauge.process.kill()
    if args.json:
        with open(args.json, "w") as file:
            json.dump({key_of(device, lt): choices.to_json()}, file, indent=1)
    return 0 if good else 1


def products_of(name: str, tokens: int, device: torch.device, dtype: torch.dtype):
    """Those of a layer with adapters of rank 16, as `qlora.py` lays them out, and of the head."""
    shape = SHAPES[name]
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    groups = {
        "q, k, v": (shape.hidden, query + 2 * key, 3), "o": (query, shape.hidden, 1),
        "gate, up": (shape.hidden, 2 * shape.intermediate, 2),
        "down": (shape.intermediate, shape.hidden, 1),
    }  # fmt: skip
    names, products = [], []
    for group, (inner, columns, count) in groups.items():
        extra = RANK * count
        names += [f"{group} forward", f"{group} backward"]
        products += [
            Product(tokens, columns, inner + extra, True),
            Product(tokens, inner, columns + extra, False),
        ]
    weight = torch.empty(shape.vocabulary, shape.hidden, dtype=dtype, device="meta")
    return [*names, "logits", "head backward"], products + head_products(tokens, weight)


def rate(run, seconds: float) -> float:
    """Milliseconds of a call, of as many in a row as that takes."""
    run()
    torch.cuda.synchronize()
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    count, start = 0, time.perf_counter()
    before.record()
    while time.perf_counter() - start < seconds:
        for _ in range(5):
            run()
        count += 5
        torch.cuda.synchronize()
    after.record()
    after.synchronize()
    return before.elapsed_time(after) / count


if __name__ == "__main__":
    sys.exit(main())
