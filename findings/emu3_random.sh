#!/usr/bin/env bash
# AutoModelForCausalLM opens a whole Emu3 checkpoint, loads none of its weights and raises nothing.
#
# torch 2.13.0, transformers 5.24.0, Python 3.11, CPU.
#
# A checkpoint of Emu3ForConditionalGeneration, as they are published, is mapped to Emu3ForCausalLM, whose weights have
# other names. All of them are drawn at random; a table in the log is all that says so. What is then trained, or measured,
# is a random model. `output_loading_info=True` gives the missing names.
#
# Seen:
#   opened as Emu3ForCausalLM, no error
#   weights not in the checkpoint: 21 of 21
#   matrices that equal none that was saved: 16 of 16
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile torch==2.13.0 transformers==5.24.0

cat > "$folder/program.py" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForCausalLM, Emu3Config, Emu3ForConditionalGeneration

torch.manual_seed(0)
config = Emu3Config(
    text_config={
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
    },
    vq_config={"embed_dim": 4, "hidden_size": 64, "num_attention_heads": 1, "base_channels": 32,
               "codebook_size": 16},
    vocabulary_map={"<image>": 50, "<|extra_200|>": 51, "<|visual token 000000|>": 52},
)
whole = Emu3ForConditionalGeneration(config)
whole.save_pretrained("checkpoint")
opened, told = AutoModelForCausalLM.from_pretrained("checkpoint", output_loading_info=True)
saved = list(whole.state_dict().values())
weights = dict(opened.named_parameters())
drawn = [name for name, weight in weights.items() if weight.ndim == 2
         and not any(weight.shape == one.shape and torch.equal(weight, one) for one in saved)]
print(f"opened as {type(opened).__name__}, no error")
print(f"weights not in the checkpoint: {len(told['missing_keys'])} of {len(weights)}")
matrices = sum(weight.ndim == 2 for weight in weights.values())
print(f"matrices that equal none that was saved: {len(drawn)} of {matrices}")
sys.exit(0 if len(told["missing_keys"]) == len(weights) and len(drawn) == matrices else 1)
PYTHON
cd "$folder"
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 "$folder/venv/bin/python" program.py
