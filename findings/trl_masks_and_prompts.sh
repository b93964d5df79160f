#!/usr/bin/env bash
# TRL's training templates teach some answers behind a text that no one asks them with, and some parts of the prompt.
#
# trl 1.16.0, transformers 5.24.0, tokenizers 0.23.3, Python 3.11.
#
# With assistant_only_loss SFT learns what a training template marks. For the templates below that is not what follows
# the generation prompt of the chat template itself: DeepSeek-R1's prompt ends with <think>, which the rows never have
# before an answer; Nemotron's ends with <think> and a line break, the rows close the tag on the same line; gpt-oss' and
# R1's rows learn the header that the prompt has written already, Qwen2.5's the line break that ends the prompt.
#
# Seen (what stands before the learnt tokens, and what asks for the answer):
#   deepseek_r1_distill: trained behind '...Hi', asked with '...Hi<｜Assistant｜><think>\n'
#   nemotron_3_nano: trained behind '...assistant\n', asked with '...assistant\n<think>\n', learnt '<think></think>Yes.'
#   gptoss: trained behind '...<|end|>', asked with '...<|end|><|start|>assistant'
#   qwen2_5: trained behind '...assistant', asked with '...assistant\n'
#   qwen2_5_vl, gemma3, llama3: the same
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile transformers==5.24.0 tokenizers==0.23.3 jinja2==3.1.6
"$folder/venv/bin/pip" install --quiet --no-compile --no-deps trl==1.16.0

cat > "$folder/program.py" <<'PYTHON'
import importlib.util
import pathlib

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

place = importlib.util.find_spec("trl").submodule_search_locations[0]
texts = {file.stem: file.read_text() for file in (pathlib.Path(place) / "chat_templates").glob("*.jinja")}
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
backend.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="!", eos_token="#")
rows = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]
same = {}
for name in ("deepseek_r1_distill", "nemotron_3_nano", "gptoss", "qwen2_5", "qwen2_5_vl", "gemma3", "llama3"):
    trained = tokenizer.apply_chat_template(
        rows, chat_template=texts[f"{name}_training"], return_dict=True, return_assistant_tokens_mask=True
    )
    first = trained["assistant_masks"].index(1)
    behind = tokenizer.decode(trained["input_ids"][:first])
    learnt = tokenizer.decode(trained["input_ids"][first:])
    asked = tokenizer.apply_chat_template(
        rows[:1], chat_template=texts[name], tokenize=False, add_generation_prompt=True
    )
    same[name] = behind == asked
    print(f"{name}: trained behind {behind[-24:]!r}, asked with {asked[-32:]!r}, learnt {learnt[:20]!r}")
expected = {name: name in ("qwen2_5_vl", "gemma3", "llama3") for name in same}
raise SystemExit(0 if same == expected else f"this has changed: {same}")
PYTHON
"$folder/venv/bin/python" "$folder/program.py"
