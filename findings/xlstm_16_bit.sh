#!/usr/bin/env bash
# An xLSTM model cast to bfloat16 or float16 cannot compute: every forward raises.
#
# torch 2.13.0, transformers 5.24.0, Python 3.11, CPU.
#
# The default configuration names bfloat16 as the dtype of its kernels, and `dtype="auto"` opens a checkpoint of 16 bits
# as such. But the kernels that need no further package keep some of their matrices in float32 and multiply the two.
# In float32 the same model computes.
#
# Seen:
#   kernels asked for in bfloat16
#   torch.float32: a finite loss
#   torch.bfloat16: RuntimeError: expected m1 and m2 to have the same dtype, but got: float != c10::BFloat16
#   torch.float16: RuntimeError: expected m1 and m2 to have the same dtype, but got: float != c10::Half
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 transformers==5.24.0

cat > "$folder/program.py" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForCausalLM, xLSTMConfig, xLSTMForCausalLM

config = xLSTMConfig(vocab_size=64, hidden_size=32, num_blocks=2, num_heads=2, chunk_size=16)
print(f"kernels asked for in {config.autocast_kernel_dtype}")
ids = torch.arange(32)[None]
seen = {}
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    xLSTMForCausalLM(config).to(dtype).save_pretrained("checkpoint")
    model = AutoModelForCausalLM.from_pretrained("checkpoint", dtype="auto")
    assert next(model.parameters()).dtype is dtype
    try:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        seen[dtype] = "a finite loss" if loss.isfinite() else f"a loss of {loss.item()}"
    except RuntimeError as error:
        seen[dtype] = f"RuntimeError: {error}"
    print(f"{dtype}: {seen[dtype]}")
wide = seen.pop(torch.float32)
sys.exit(0 if wide == "a finite loss" and all("same dtype" in said for said in seen.values()) else 1)
PYTHON
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" program.py
