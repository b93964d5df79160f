"""Micro-steps as CUDA graphs against single launches: the same losses, and how much faster.

    python tests/gpu/graph_gpu.py [--steps 30] [--keep FOLDER]

A capture that must fail (it asks the device for a number) has to leave torch as it was. Then a small Llama (8
layers of 512, where Python's launches take longer than what they launch) trains on documents of mixed lengths, and
the 1B shape on rows of 2,048, each with and without graphs, from the same adapter. Prints losses, time of a step,
memory, and what was captured. Exit code 1 when losses differ, no graph was captured, the small model is not
faster by it, or the failed capture left traces.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch

from evenfall.engine.bench import run as bench
from evenfall.engine.bench import stack_evenfall
from evenfall.engine.bench.model import write_adapter, write_model
from evenfall.engine.bench.rows import write_rows
from evenfall.engine.bench.shapes import SHAPES, ModelShape
from evenfall.engine.bench.stacks import Clock
from evenfall.engine.bench.work import StackResult, Work
from evenfall.engine.data.pack.examples import Example, Examples
from evenfall.engine.data.pack.windows import Bins
from evenfall.engine.training import graphs, micro_step

SMALL = ModelShape(
    name="small",
    hidden=512,
    intermediate=1536,
    layers=8,
    heads=8,
    kv_heads=4,
    head_dim=64,
    vocabulary=8192,
    tied=False,
    rope_factor=0.0,
    positions=4096,
)
BINS, BIN_TOKENS = 2, 2048


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    good = failed_capture_leaves_no_trace()
    for name, work in (
        ("small, mixed documents", mixed_work(folder, args.steps)),
        ("1B, 4 rows of 2,048", row_work(folder, args.keep)),
    ):
        with mock.patch.object(micro_step, "_why_never", lambda run: "for comparison"):
            launched = train(work, folder)
        graphed = train(work, folder)
        pairs = list(zip(graphed.losses, launched.losses, strict=True))
        worst = max(abs(a - b) / b for a, b in pairs)
        times = [1e3 * median(result.timed) for result in (launched, graphed)]
        notes = [note for note in graphed.notes if "CUDA graph" in note]
        print(f"{name}: {len(pairs)} steps, losses {pairs[0][1]:.4f} > {pairs[-1][1]:.4f}")
        print(f"  largest relative difference of a loss {worst:.1e}")
        print(f"  a step {times[0]:.2f} ms launched, {times[1]:.2f} ms with graphs")
        print(
            f"  peak {launched.peak_gb:.2f} / {graphed.peak_gb:.2f} GB allocated, reserved "
            f"{launched.reserved_gb:.2f} / {graphed.reserved_gb:.2f}"
        )
        for result in (launched, graphed):
            if result.profile:
                print(f"  {result.profile.launches} launches, {result.profile.idle_ms:.2f} ms between kernels")
        print("  " + "\n  ".join(notes or ["NOTHING WAS CAPTURED"]), flush=True)
        good &= bool(notes) and worst < 1e-3
        good &= work.shape != "small" or times[1] < 0.8 * times[0]
    return 0 if good else 1


def failed_capture_leaves_no_trace() -> bool:
    x = torch.ones(2**20, device="cuda")
    stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    failed = False
    try:
        with graphs._capturing(torch.cuda.CUDAGraph(), pool):
            (x + x).sum().item()
    except RuntimeError as error:
        failed = True
        print("a capture that asks the device fails:", str(error).partition("\n")[0])
    big = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    before = torch.cuda.memory_reserved()
    del big
    torch.cuda.empty_cache()
    returned = before - torch.cuda.memory_reserved()
    graph, out = torch.cuda.CUDAGraph(), None
    with graphs._capturing(graph, torch.cuda.graph_pool_handle()):
        out = x + 1
    graph.replay()
    fine = bool((out == 2).all()) and torch.cuda.current_stream() == stream
    print(f"after it {returned / 1e9:.2f} GB of 1.07 are returned, and another capture works: {fine}")
    return failed and fine and returned >= 2**30


def train(work: Work, folder: Path) -> StackResult:
    own = Path(tempfile.mkdtemp(dir=folder))
    result = stack_evenfall.run(work, Clock(time.time(), lambda text: None), own)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return result


def mixed_work(folder: Path, steps: int) -> Work:
    """Documents of 20 to 400 tokens, half of them learnt, never twice as many to a bin."""
    SHAPES["small"] = SMALL
    random = np.random.default_rng(0)
    examples, bins, number = [], [], 0
    for _ in range(BINS * steps):
        room, own = BIN_TOKENS, []
        while (length := int(random.integers(20, 400))) <= room:
            ids = random.integers(4, SMALL.vocabulary, length).astype(np.int32)
            trained = random.random(length) < 0.5
            trained[0] = False
            examples.append(Example(ids=ids, trained=trained, number=number))
            own.append(number)
            number, room = number + 1, room - length
        bins.append(tuple(own))
    rows, model, adapter = folder / "mixed.safetensors", folder / "small", folder / "small-adapter"
    write_rows(Bins(Examples.of(examples), tuple(bins)), rows)
    write_model(SMALL, model, torch.device("cuda"), lambda text: None)
    write_adapter(SMALL, 16, model, adapter)
    return Work(
        shape="small",
        device="cuda",
        model=str(model),
        adapter=str(adapter),
        rows=str(rows),
        bins=BINS,
        bin_tokens=BIN_TOKENS,
        real=True,
        warmup=steps // 3,
        steps=steps - steps // 3,
        rank=16,
        recompute=False,
    )


def row_work(folder: Path, keep: Path | None) -> Work:
    options = bench.Options(shape="1b", rows=4, keep=keep or folder)
    work = bench._make_work(
        options, SHAPES["1b"], "cuda", ("evenfall",), folder, lambda text: None
    )  # fmt: skip
    return replace(work, warmup=4, steps=10)


if __name__ == "__main__":
    sys.exit(main())
