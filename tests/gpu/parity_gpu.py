"""Losses of `evenfall train` on a GPU against the stock stack, step by step.

    python tests/gpu/parity_gpu.py MODEL_FOLDER DATA_FILE [--rows 300] [--steps 20] [key=value ...]

Prints both losses of each step, the kernels in use, and what stock PEFT makes of the adapter. Exit code 1
when a loss differs by more than 1e-3 relative, the kernels were not used, or the adapter does not load.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import AutoPeftModelForCausalLM

from evenfall.engine.config import load_config
from evenfall.engine.runs import RunDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from stock import stock_losses

CONFIG = """
name: parity
output_dir: {output}
model: {{name_or_path: {model}}}
data: {{path: {data}, max_rows: {rows}, max_length: 512}}
train: {{max_steps: {steps}, per_device_train_batch_size: 3, gradient_accumulation_steps: 2,
         learning_rate: 2e-4, warmup_steps: 0, device: {device}}}
"""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (folder / "run.yaml").write_text(CONFIG.format(output=folder / "runs", **vars(args)))
    command = [sys.executable, "-m", "evenfall.tui.cli", "train", str(folder / "run.yaml")]
    command += args.overrides
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        return done.returncode
    run = RunDirectory(folder / "runs" / "parity")
    progress = run.progress()
    ours = [step.loss for step in progress.steps]
    stock = stock_losses(load_config(run.config_file), args.steps)
    print(f"{'step':>4} {'evenfall':>10} {'stock':>10} {'relative':>9}")
    worst = 0.0
    for number, (a, b) in enumerate(zip(ours, stock, strict=True), 1):
        worst = max(worst, abs(a - b) / b)
        print(f"{number:>4} {a:>10.5f} {b:>10.5f} {abs(a - b) / b:>9.1e}")
    parts = progress.parts.parts if progress.parts else []
    print("kernels:", [(part["name"], part["count"], part["fast"]) for part in parts])
    model = AutoPeftModelForCausalLM.from_pretrained(str(run.adapter))
    b_norm = sum(p.float().norm().item() for n, p in model.named_parameters() if "lora_B" in n)
    first, last = sum(ours[:5]) / 5, sum(ours[-5:]) / 5
    print(f"stock PEFT loads the adapter; sum of |B| = {b_norm:.3f}")
    print(f"first five {first:.4f}, last five {last:.4f} ({100 * (last / first - 1):+.1f} %)")
    print(f"worst relative difference {worst:.1e}")
    fast = args.device == "cpu" or any(part["fast"] for part in parts)
    good = worst <= 1e-3 and fast and b_norm > 0 and torch.isfinite(torch.tensor(ours)).all()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
