#!/usr/bin/env bash
# In 4 bits HY-V4 rounds the activations of its indexer to bytes, without an error.
#
# torch 2.13.0, transformers 5.24.0, bitsandbytes 0.50.2, accelerate 1.15.0, Python 3.11, CPU.
#
# The indexer casts what it gets to `self.weights_proj.weight.dtype`. The class names that layer in
# _keep_in_fp32_modules_strict, which load_in_4bit does not heed: it is packed, the dtype of its weight is uint8, and
# fractions and negative numbers of the activations are lost. The indexer chooses the keys that attention sees, so the
# model computes something else, and trains.
#
# Seen:
#   32 bits: weights_proj is Linear, its weight torch.float32, what it is given torch.float32, logits finite: True
#   4 bits: weights_proj is Linear4bit, its weight torch.uint8, what it is given torch.uint8, logits finite: True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 transformers==5.24.0 bitsandbytes==0.50.2 accelerate==1.15.0

cat > "$folder/program.py" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, HYV4Config, HYV4ForCausalLM

torch.manual_seed(0)
config = HYV4Config(
    vocab_size=64, hidden_size=64, intermediate_size=64, moe_intermediate_size=64,
    num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=16,
    max_position_embeddings=128, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1,
    q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=16, v_head_dim=16,
    qk_head_dim=32, index_topk=8, index_head_dim=16, index_n_heads=4,
    mlp_layer_types=["dense", "sparse", "sparse"], layer_types=["indexed_attention"] * 3,
    indexer_types=["full", "full", "shared"],
)
HYV4ForCausalLM(config).save_pretrained("checkpoint")
ids, given = torch.arange(3, 23)[None], {}
for bits, options in (
    (32, {}),
    (4, {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")}),
):
    model = AutoModelForCausalLM.from_pretrained(
        "checkpoint", dtype=torch.float32, device_map={"": "cpu"}, **options
    )
    layer = next(m for n, m in model.named_modules() if n.endswith("weights_proj"))
    inputs = []
    layer.register_forward_pre_hook(lambda module, args, kept=inputs: kept.append(args[0]))
    logits = model(input_ids=ids, use_cache=False).logits
    given[bits] = inputs[0].dtype
    print(f"{bits} bits: weights_proj is {type(layer).__name__}, its weight {layer.weight.dtype}, "
          f"what it is given {given[bits]}, logits finite: {bool(logits.isfinite().all())}")
sys.exit(0 if given == {32: torch.float32, 4: torch.uint8} else 1)
PYTHON
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" program.py
