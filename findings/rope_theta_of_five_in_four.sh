#!/usr/bin/env bash
# A config.json that transformers 5 wrote opens in 4.57 with the wrong rotary base, and nothing is raised or logged.
#
# transformers 5.24.0 and 4.57.6, Python 3.11.
#
# Version 5 writes rope_theta inside rope_parameters alone. Version 4.57 looks for it beside the other keys, does not find
# it, and takes its default, so the same weights have other positions: a model that was saved by 5 and is served by
# something that still runs on 4 answers worse the longer its context is.
#
# Seen (rope_theta, rope_scaling as 4.57.6 has them, of what 5.24.0 wrote):
#   llama: written 500000.0, read 10000.0; scaling None (written as llama3)
#   qwen3: written 1000000.0, read 10000.0; scaling None
#   mistral: written 1000000.0, read 10000.0; scaling None
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.24.0 4.57.6; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --no-compile "transformers==$version"
done
cat > "$folder/write.py" <<'PYTHON'
import sys

from transformers import LlamaConfig, MistralConfig, Qwen3Config

scaled = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
plain = {"rope_type": "default", "rope_theta": 1000000.0}
for name, kind, rope in (("llama", LlamaConfig, scaled), ("qwen3", Qwen3Config, plain), ("mistral", MistralConfig, plain)):
    kind(rope_parameters=rope, max_position_embeddings=131072).save_pretrained(f"{sys.argv[1]}/{name}")
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import json
import pathlib
import sys

from transformers import AutoConfig

wrong = True
for name in ("llama", "qwen3", "mistral"):
    place = pathlib.Path(sys.argv[1]) / name
    written = json.loads((place / "config.json").read_text())["rope_parameters"]
    config = AutoConfig.from_pretrained(place)
    scaling = getattr(config, "rope_scaling", None)
    print(f"{name}: written {written['rope_theta']}, read {config.rope_theta}; scaling {scaling}")
    wrong &= config.rope_theta == 10000.0 and not scaling
raise SystemExit(0 if wrong else "this has changed")
PYTHON
"$folder/5.24.0/bin/python" "$folder/write.py" "$folder"
"$folder/4.57.6/bin/python" "$folder/read.py" "$folder"
