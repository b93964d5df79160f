#!/usr/bin/env bash
# What a Linear4bit gives for a batch of sequences cannot be added to in place; what nn.Linear gives can.
#
# torch 2.13.0, bitsandbytes 0.50.2, Python 3.11, CPU.
#
# A model that writes `y = self.proj(x); y += residual` trains with nn.Linear and fails once the layer is 4-bit: for
# an input of three dimensions the output of Linear4bit is a view made inside an autograd function. With two dimensions it
# works, so a test on flat rows does not show it.
#
# Seen:
#   Linear (2, 64) += 1: ok
#   Linear (1, 2, 64) += 1: ok
#   Linear4bit (2, 64) += 1: ok
#   Linear4bit (1, 2, 64) += 1: RuntimeError: Output 0 of MatMul4Bit is a view and is being modified inplace. This view wa
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 bitsandbytes==0.50.2

cat > "$folder/program.py" <<'PYTHON'
import sys

import bitsandbytes as bnb
import torch

torch.manual_seed(0)
packed = bnb.nn.Linear4bit(64, 64, bias=True, compute_dtype=torch.float32, quant_type="nf4")
packed = packed.to("cpu")
weight = bnb.nn.Params4bit(torch.randn(64, 64), requires_grad=False, quant_type="nf4")
packed.weight = weight.to("cpu")
worked = {}
for layer in (torch.nn.Linear(64, 64), packed):
    for shape in ((2, 64), (1, 2, 64)):
        y = layer(torch.randn(shape, requires_grad=True))
        name, said = type(layer).__name__, "ok"
        try:
            y += 1
        except RuntimeError as error:
            said = f"RuntimeError: {str(error)[:76]}"
        worked[name, len(shape)] = said == "ok"
        print(f"{name} {shape} += 1: {said}")
as_seen = {("Linear", 2): True, ("Linear", 3): True, ("Linear4bit", 2): True, ("Linear4bit", 3): False}
sys.exit(0 if worked == as_seen else 1)
PYTHON
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" program.py
