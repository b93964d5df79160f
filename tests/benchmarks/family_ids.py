"""Token ids of rows of every kind with real tokenizers: ours against TRL's, and for Mistral against mistral-common's.

    python tests/benchmarks/family_ids.py FOLDER [--mistral-common PYTHON]

FOLDER holds tokenizers, one a subfolder. TRL's ids are what `apply_chat_template` gives with its training template of
that chat template, or with the template itself where it has none. PYTHON is one of an environment that has
mistral-common (1.5.6 holds the Nemo tokenizer); it is asked for subfolders whose name begins with `mistral`. Prints
for each tokenizer and kind of row: `=` where the ids are equal, `n x` where the row became n examples (each behind its
own prompt), `other` where they differ, `theirs loses` where theirs do not hold all that the row says, with a `*` where
the row has a note, and `-` where one of the two refuses it.
Exits with 1 where ids differ without a note.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
from prompt_equality import ROWS, conversation
from transformers import AutoTokenizer

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.render.training_template import template_for_training

_MISTRAL = """
import json, mistral_common, pathlib, sys
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
data = pathlib.Path(mistral_common.__file__).parent / "data" / "tekken_240718.json"
tokenizer = MistralTokenizer.from_file(str(data), mode=ValidationMode.finetuning)
answers = {}
for kind, row in json.load(sys.stdin).items():
    try:
        request = ChatCompletionRequest(messages=row["messages"], tools=row.get("tools"))
        answers[kind] = tokenizer.encode_chat_completion(request).tokens
    except Exception as error:
        answers[kind] = f"{type(error).__name__}: {error}"
json.dump(answers, sys.stdout)
"""


def of_trl(tokenizer: Any) -> dict[str, Any]:
    """Kind of row -> ids, or why there are none."""
    found: dict[str, Any] = {}
    for kind, row in ROWS.items():
        try:
            template, _ = template_for_training(tokenizer.get_chat_template(tools=row.get("tools")))
            found[kind] = tokenizer.apply_chat_template(
                row["messages"], tools=row.get("tools"), chat_template=template, return_dict=True
            )["input_ids"]
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            found[kind] = str(error)
    return found


def of_mistral_common(python: str) -> dict[str, Any]:
    rows = json.dumps({kind: {**row, "messages": _short_ids(row["messages"])} for kind, row in ROWS.items()})
    done = subprocess.run([python, "-c", _MISTRAL], input=rows, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _short_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the ids of calls that we write: both want nine letters."""
    from evenfall.engine.data.formats.calls import with_short_ids

    copies = [dict(message) for message in messages]
    with_short_ids(copies)
    for message in copies:
        message.pop("reasoning_content", None)
        for call in message.get("tool_calls", ()):
            call["function"] = {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}
    return copies


def compared(tokenizer: Any, kind: str, theirs: Any) -> str:
    renderer = Renderer(tokenizer)
    try:
        encoded = renderer.encode(renderer.render(conversation(kind)))
    except DataError:
        return "-"
    if isinstance(theirs, str):
        return "-"
    noted = "*" if renderer.take_notes() or any(one.prompt_differs for one in encoded) else ""
    if len(encoded) > 1:
        return f"{len(encoded)} x{noted}"
    if encoded[0].ids.tolist() == list(theirs):
        return "=" + noted
    return ("other" if _holds_all(tokenizer.decode(theirs), kind) else "theirs loses") + noted


def _holds_all(text: str, kind: str) -> bool:
    """Whether a text says all that a row does."""
    messages = ROWS[kind]["messages"]
    calls = [call["function"]["name"] for message in messages for call in message.get("tool_calls", ())]
    return all(part.strip() in text for part in (*calls, *(message["content"] for message in messages)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mistral-common", metavar="PYTHON")
    given = parser.parse_args()
    print(f"{'tokenizer':32}", *(f"{kind[:16]:>16}" for kind in ROWS))
    wrong = 0
    for folder in sorted(one for one in given.folder.iterdir() if (one / "tokenizer.json").is_file()):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if not tokenizer.chat_template:
            print(f"{folder.name:32} has no chat template")
            continue
        sides = {"TRL": of_trl(tokenizer)}
        if given.mistral_common and folder.name.startswith("mistral"):
            sides["mistral-common"] = of_mistral_common(given.mistral_common)
        for side, theirs in sides.items():
            cells = [compared(tokenizer, kind, theirs[kind]) for kind in ROWS]
            wrong += cells.count("other")
            print(f"{folder.name + ' / ' + side:32}", *(f"{cell:>16}" for cell in cells), flush=True)
    print(f"rows whose ids differ without a note: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
