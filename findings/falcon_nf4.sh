#!/usr/bin/env bash
# load_in_4bit packs no layer of a Falcon, and nothing raises.
#
# torch 2.13.0, transformers 5.24.0, bitsandbytes 0.50.2, accelerate 1.15.0, Python 3.11, CPU.
#
# Only what is exactly nn.Linear is replaced by a 4-bit layer. Falcon's layers are of a subclass, FalconLinear, so a
# model that was asked for in 4 bits comes whole in 16 or 32, and takes that memory; a Llama of the same size is packed.
#
# Seen:
#   LlamaForCausalLM: 14 of 15 linear layers in 4 bits
#   FalconForCausalLM: 0 of 9 linear layers in 4 bits
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 transformers==5.24.0 bitsandbytes==0.50.2 accelerate==1.15.0

cat > "$folder/program.py" <<'PYTHON'
import sys

import bitsandbytes as bnb
import torch
from transformers import (
    AutoModelForCausalLM, BitsAndBytesConfig, FalconConfig, FalconForCausalLM, LlamaConfig,
    LlamaForCausalLM,
)

sizes = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
packed = {}
for model in (LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=128)),
              FalconForCausalLM(FalconConfig(**sizes))):
    name = type(model).__name__
    model.save_pretrained(name)
    opened = AutoModelForCausalLM.from_pretrained(
        name, quantization_config=four_bit, dtype=torch.float32, device_map={"": "cpu"}
    )
    layers = [m for m in opened.modules() if isinstance(m, torch.nn.Linear)]
    packed[name] = sum(isinstance(m, bnb.nn.Linear4bit) for m in layers)
    print(f"{name}: {packed[name]} of {len(layers)} linear layers in 4 bits")
sys.exit(0 if packed["LlamaForCausalLM"] == 14 and packed["FalconForCausalLM"] == 0 else 1)
PYTHON
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" program.py
