#!/usr/bin/env bash
# PEFT chooses a layer by itself, refuses it, and leaves half the adapters in the caller's model.
#
# torch 2.13.0, transformers 5.24.0, peft 0.21.2, Python 3.11, CPU.
#
# target_modules="all-linear" on a FalconH1 takes every linear layer, out_proj of its Mamba part too, which PEFT
# then refuses for this architecture, as if it had been named. The ValueError comes half-way: by then adapters are on
# the layers before it, and they stay, so that a second try, or training on without PEFT, works on another model.
#
# Seen:
#   ValueError: [PEFT:PeftType.LORA] Module 'out_proj' is incompatible with Mamba-based models (
#   weights of the caller's model before: 0 of LoRA, after: 8
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 transformers==5.24.0 peft==0.21.2

cat > "$folder/program.py" <<'PYTHON'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import FalconH1Config, FalconH1ForCausalLM


def of_lora(model):
    return sum("lora_" in name for name, _ in model.named_parameters())


torch.manual_seed(0)
config = FalconH1Config(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, mamba_d_ssm=128, mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1,
    mamba_d_state=16, mamba_chunk_size=16,
)
model = FalconH1ForCausalLM(config)
before, error = of_lora(model), None
try:
    get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
except ValueError as raised:
    error = raised
print(f"{type(error).__name__}: {str(error)[:80]}")
print(f"weights of the caller's model before: {before} of LoRA, after: {of_lora(model)}")
sys.exit(0 if error is not None and before == 0 < of_lora(model) else 1)
PYTHON
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" program.py
