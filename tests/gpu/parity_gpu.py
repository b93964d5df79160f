"""Losses and adapters of `evenfall train` on a GPU beside those of the stock stack, in float32 and bfloat16.

    python tests/gpu/parity_gpu.py MODEL_FOLDER DATA_FILE [--rows 1000] [--steps 50] [--batch 3x2] [key=value ...]

Trains four times on the same rows in the same updates, from the same initial A: Evenfall and TRL + PEFT +
bitsandbytes, each computing in float32 and in bfloat16, adapters in float32. The stock stack in float32 is the
reference. In bfloat16 all is further from it, and the stock stack in its own way: PEFT adds the adapter's share
to a base output that is rounded already, which loses the small updates of a run's beginning.

Prints each training's losses and fast parts as soon as it is done, then all losses step by step, and how far each
adapter ends from the reference's. Exit code 1 when

* a loss of Evenfall in float32 differs by more than 1e-4 relative from the reference;
* in bfloat16 the losses differ by more than 1e-3 (root mean square over the steps), or one of them by more than the
  stock stack's in bfloat16 do at most: single losses of bfloat16 scatter by more than 1e-3 in either stack;
* Evenfall's adapter ends further from the reference's than 1.1 times the stock stack's of the same dtype (bfloat16),
  or by more than 5 % (float32: AdamW begins with the signs of gradients, and a rounding turns those near zero);
* a decoder layer is not fast, on a GPU, or stock PEFT does not load the adapter.
"""

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from evenfall.engine.config.run_config import load_config
from evenfall.engine.run.directory import RunDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from stock import train_stock

CONFIG = """
name: {name}
output_dir: {output}
model: {{name_or_path: {model}, dtype: {dtype}}}
data: {{path: {data}, max_rows: {rows}, max_length: 512}}
train: {{max_steps: {steps}, per_device_train_batch_size: {size}, gradient_accumulation_steps: {times},
         learning_rate: 2e-4, warmup_steps: 0, device: {device}}}
"""
REFERENCE = "stock", "float32"
OTHERS = ("ours", "float32"), ("ours", "bfloat16"), ("stock", "bfloat16")
FLOAT32_LOSS_LIMIT = 1e-4
BFLOAT16_LOSS_LIMIT = 1e-3
FLOAT32_ADAPTER_LIMIT = 0.05
TIMES_STOCK = 1.1
"""How much further than the stock stack's an adapter of the same dtype may end from the reference: both are
rounding, taken twice."""


class Trained(NamedTuple):
    losses: list[float]
    adapter: dict[str, torch.Tensor]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", default="3x2", metavar="BINSxTIMES")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args()
    args.size, _, args.times = args.batch.partition("x")
    torch.backends.cuda.matmul.allow_tf32 = False
    folder = Path(tempfile.mkdtemp())
    trained: dict[tuple[str, str], Trained] = {}
    run, layers = None, {}
    for who, dtype in (REFERENCE, *OTHERS):
        start = time.perf_counter()
        file = write_config(args, folder, dtype)
        if who == "ours":
            run = train_ours(args, file)
            progress = run.progress()
            adapter = load_file(str(run.adapter / "adapter_model.safetensors"))
            done = Trained([step.loss for step in progress.steps], adapter)
            parts = progress.parts.parts if progress.parts else []
            print("kernels:", [(part.name, part.count, part.fast) for part in parts])
            layers[dtype] = [part.fast for part in parts if "DecoderLayer" in part.name]
        else:
            done = train_stock_here(args, file)
        trained[who, dtype] = done
        seconds = time.perf_counter() - start
        losses = " ".join(f"{loss:.5f}" for loss in done.losses)
        print(f"{who} {dtype}, {seconds:.0f} s: {losses}", flush=True)
        if len(trained) > 1:
            print(distance_in_words(who, dtype, trained), flush=True)
    good = compare(trained)
    good &= args.device == "cpu" or all(any(fast) and all(fast) for fast in layers.values())
    assert run is not None
    model = AutoPeftModelForCausalLM.from_pretrained(str(run.adapter))
    b_norm = sum(p.float().norm().item() for n, p in model.named_parameters() if "lora_B" in n)
    print(f"stock PEFT loads the adapter; sum of |B| = {b_norm:.3f}")
    return 0 if good and b_norm > 0 else 1


def write_config(args: argparse.Namespace, folder: Path, dtype: str) -> Path:
    file = folder / f"parity-{dtype}.yaml"
    output = folder / "runs"
    file.write_text(CONFIG.format(name=file.stem, output=output, dtype=dtype, **vars(args)))
    return file


def train_ours(args: argparse.Namespace, file: Path) -> RunDirectory:
    command = [
        sys.executable,
        "-m",
        "evenfall.tui.commands.main",
        "train",
        str(file),
        *args.overrides,
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return RunDirectory(file.parent / "runs" / file.stem)


def train_stock_here(args: argparse.Namespace, file: Path) -> Trained:
    losses, adapter = train_stock(load_config(file, args.overrides), args.steps)
    done = Trained(losses, {name: tensor.float().cpu() for name, tensor in adapter.items()})
    del adapter
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return done


def compare(trained: dict[tuple[str, str], Trained]) -> bool:
    names = ["step", *(" ".join(each) for each in trained)]
    print("  ".join(f"{name:>13}" for name in names))
    for step, losses in enumerate(zip(*(each.losses for each in trained.values()), strict=True), 1):
        print(f"{step:>13}  " + "  ".join(f"{loss:>13.5f}" for loss in losses))
    truth = trained[REFERENCE]
    away = {which: differences(trained[which], truth) for which in OTHERS}
    ends = {which: adapter_distance(trained[which].adapter, truth.adapter) for which in OTHERS}
    for who, dtype in OTHERS:
        print(distance_in_words(who, dtype, trained))
        if who == "ours":
            from_same = differences(trained[who, dtype], trained["stock", dtype])
            print(f"    from the stock stack in {dtype} by {max(from_same):.1e} at most")
    ours, stock = ("ours", "bfloat16"), ("stock", "bfloat16")
    return (
        max(away["ours", "float32"]) <= FLOAT32_LOSS_LIMIT
        and root_mean_square(away[ours]) <= BFLOAT16_LOSS_LIMIT
        and max(away[ours]) <= max(away[stock])
        and ends["ours", "float32"] <= FLOAT32_ADAPTER_LIMIT
        and ends[ours] <= TIMES_STOCK * ends[stock]
    )


def distance_in_words(who: str, dtype: str, trained: dict[tuple[str, str], Trained]) -> str:
    one, truth = trained[who, dtype], trained[REFERENCE]
    away = differences(one, truth)
    return (
        f"{who} {dtype}: losses differ by {root_mean_square(away):.1e} (root mean square), by "
        f"{max(away):.1e} at most (step {away.index(max(away)) + 1}); the adapter's B ends "
        f"{adapter_distance(one.adapter, truth.adapter):.2%} from the reference's"
    )


def differences(one: Trained, other: Trained) -> list[float]:
    """Of each step's loss, relative."""
    return [abs(a - b) / b for a, b in zip(one.losses, other.losses, strict=True)]


def root_mean_square(values: list[float]) -> float:
    return (sum(value * value for value in values) / len(values)) ** 0.5


def adapter_distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Of all B together, which start at zero: root mean square, relative."""
    names = [name for name in other if "lora_B" in name]
    wrong = sum((one[name].float() - other[name]).square().sum().item() for name in names)
    return (wrong / sum(other[name].square().sum().item() for name in names)) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
