"""Calls in every spelling that services and servers write, and what of them is learnt with each chat template.

    python tests/benchmarks/tool_calls.py [--tokenizers FOLDER] [--quote]

Rows say the same call in each spelling; with the templates of the installed TRL, ours, and those of the tokenizers in
the subfolders of FOLDER, what is learnt of them must be the same text. Prints for each template the spellings of which
that holds (`=`), that differ (`OTHER`) or are refused (`-`), the notes, and with --quote the learnt text. Exits with 1
where spellings differ.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from prompt_equality import templates

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.row import SourceRow

ARGUMENTS: dict[str, Any] = {"city": "Ulm", "days": 2}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
FUNCTION = {"name": "forecast", "description": "Weather to come.", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}]
ASKS = {"role": "user", "content": "Rain in Ulm?"}
TEXT = json.dumps(ARGUMENTS)


def _openai(call: dict[str, Any], tools: Any = TOOLS) -> dict[str, Any]:
    return {"messages": [ASKS, {"role": "assistant", "content": None, "tool_calls": [call]}], "tools": tools}


def _parts(part: dict[str, Any], tools: Any) -> dict[str, Any]:
    return {"messages": [ASKS, {"role": "assistant", "content": [part]}], "tools": tools}


_named = {"id": "call_8f3a2b1c9d", "type": "function"}
_anthropic = [{"name": "forecast", "description": "Weather to come.", "input_schema": SCHEMA}]
_bedrock = [{"toolSpec": {**_anthropic[0], "inputSchema": {"json": SCHEMA}}}]
del _bedrock[0]["toolSpec"]["input_schema"]
SPELLINGS: dict[str, dict[str, Any]] = {
    "OpenAI, arguments as text": _openai({**_named, "function": {"name": "forecast", "arguments": TEXT}}),
    "OpenAI, as an object": _openai({**_named, "function": {"name": "forecast", "arguments": ARGUMENTS}}),
    "without id and type": _openai({"function": {"name": "forecast", "arguments": ARGUMENTS}}),
    "bare name, arguments": _openai({"name": "forecast", "arguments": ARGUMENTS}),
    "parameters for arguments": _openai({"name": "forecast", "parameters": ARGUMENTS}),
    "nulls of a table": _openai({**_named, "index": None, "function": {
        "name": "forecast", "arguments": {**ARGUMENTS, "zone": None, "unit": None}}}),
    "bare definitions": _openai({"name": "forecast", "arguments": ARGUMENTS}, [FUNCTION]),
    "tools as JSON text": _openai({**_named, "function": {"name": "forecast", "arguments": TEXT}}, json.dumps(TOOLS)),
    "OpenAI's function_call": {
        "messages": [ASKS, {"role": "assistant", "content": None, "function_call": {
            "name": "forecast", "arguments": TEXT}}],
        "tools": TOOLS,
    },
    "Anthropic": _parts(
        {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "forecast", "input": ARGUMENTS}, _anthropic
    ),
    "Bedrock": _parts(
        {"toolUse": {"toolUseId": "tooluse_kZJMlvQmRJ6eAyJE5GIl7Q", "name": "forecast", "input": ARGUMENTS}}, _bedrock
    ),
    "Gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": ASKS["content"]}]},
            {"role": "model", "parts": [{"functionCall": {"name": "forecast", "args": ARGUMENTS}}]},
        ],
        "tools": [{"functionDeclarations": [FUNCTION]}],
    },
    "ShareGPT": {
        "conversations": [
            {"from": "human", "value": ASKS["content"]},
            {"from": "function_call", "value": json.dumps({"name": "forecast", "arguments": ARGUMENTS})},
        ],
        "tools": json.dumps([FUNCTION]),
    },
}  # fmt: skip


def learnt(tokenizer: Any, value: dict[str, Any]) -> tuple[str, list[str]]:
    """The learnt text of a row, and the notes on it.

    Raises:
        DataError: it cannot be read, or the template refuses it.
    """
    source = SourceRow(file="row", number=1, value=value)
    found = detect([source])
    row = normalise(source, found.format, found.settled)
    assert isinstance(row, Conversation)
    renderer = Renderer(tokenizer)
    (one,) = renderer.encode(renderer.render(row))
    text = tokenizer.decode(one.ids[one.trained])
    for name in (_named["id"], "toolu_01A09q90qw90lq917835lq9", "tooluse_kZJMlvQmRJ6eAyJE5GIl7Q"):
        text = text.replace(name, "ID")
    return text, sorted(renderer.take_notes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path)
    parser.add_argument("--quote", action="store_true")
    given = parser.parse_args()
    wrong = 0
    for number, name in enumerate(SPELLINGS, 1):
        print(f"{number:2} {name}")
    print(f"{'template':28}", *(f"{number:>5}" for number in range(1, len(SPELLINGS) + 1)))
    for name, tokenizer in templates(given.tokenizers).items():
        cells, notes, first = [], [], ""
        for value in SPELLINGS.values():
            try:
                text, notes = learnt(tokenizer, value)
            except DataError:
                cells.append("-")
                continue
            first = first or text
            # Ids are a row's own: Mistral's templates write them.
            same = text == first or any("ids of calls" in note for note in notes)
            cells.append("=" if same else "OTHER")
        wrong += cells.count("OTHER")
        print(f"{name:28}", *(f"{cell:>5}" for cell in cells), "; ".join(notes), flush=True)
        if given.quote:
            print(f"    {first!r}")
    print(f"spellings that are learnt otherwise: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
