#!/usr/bin/env bash
# A conversation with a tool call that transformers 4.57 renders cannot be rendered by 5.24: its content is null.
#
# transformers 5.24.0 and 4.57.6, trl 1.16.0 (the template alone), Python 3.11.
#
# OpenAI writes a message that only calls tools with `content: null`. DeepSeek-R1-Distill's chat template asks for just
# that (`message['content'] is none`) before it writes calls. Since transformers takes keys whose value is None out of
# messages before it renders them, the template finds no content at all, and raises. With content "" there is no error in
# either version, and no call in the text.
#
# Seen:
#   4.57.6 null: the call is written; "": no call
#   5.24.0 null: UndefinedError; "": no call
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/program.py" <<'PYTHON'
import pathlib
import sys

import transformers
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

template = pathlib.Path(sys.argv[1]).read_text()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({}, [])), bos_token="!", eos_token="#")
call = {"id": "a1", "type": "function", "function": {"name": "look", "arguments": '{"at": "door"}'}}
seen = []
for content in (None, ""):
    rows = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content, "tool_calls": [call]}]
    try:
        text = tokenizer.apply_chat_template(rows, chat_template=template, tokenize=False)
        seen.append("call" if "look" in text else "no call")
    except Exception as error:
        seen.append(type(error).__name__)
print(transformers.__version__, seen)
expected = {"4": ["call", "no call"], "5": ["UndefinedError", "no call"]}[transformers.__version__[0]]
raise SystemExit(0 if seen == expected else "this has changed")
PYTHON
for version in 4.57.6 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --no-compile "transformers==$version" jinja2==3.1.6
  "$folder/$version/bin/pip" install --quiet --no-compile --no-deps trl==1.16.0
  templates=$("$folder/$version/bin/python" -c 'import importlib.util as u; print(u.find_spec("trl").submodule_search_locations[0])')
  "$folder/$version/bin/python" "$folder/program.py" "$templates/chat_templates/deepseek_r1_distill.jinja"
done
