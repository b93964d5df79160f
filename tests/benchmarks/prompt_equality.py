"""Is an answer trained behind the very tokens that chat sends to ask for it? Counted for templates x kinds of rows.

    python tests/benchmarks/prompt_equality.py [--tokenizers FOLDER]

Templates: all of the installed TRL, ours, and the own ones of the tokenizers in the subfolders of FOLDER. What is sent
is the tokens of `tokenizer.apply_chat_template(messages before the answer, tools, add_generation_prompt=True)`. Prints
for each template and kind of row: answers that are trained behind these tokens, answers with a note that says that the
template cannot write their prompt, and answers that differ without a word; `-` where the template refuses the row.
Exits with 1 where one differs without a word.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from trl_spans import begins, byte_tokenizer, prompts, trl_templates

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.render.mask import TOKENS_APART
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.row import SourceRow
from evenfall.presets.load import chat_template, chat_template_names

SYSTEM = {"role": "system", "content": "Answer in one line."}
USER, ANSWER = {"role": "user", "content": "What is 6 x 7?"}, {"role": "assistant", "content": "It is 42."}
MORE, LAST = {"role": "user", "content": "And 7 x 8?"}, {"role": "assistant", "content": "56, as it happens."}
REASONED = {"role": "assistant", "content": "It is 42.", "reasoning_content": "Six sevens."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "multiply",
            "description": "Multiply two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }
]


def _asks(*numbers: int) -> dict[str, Any]:
    calls = [
        {"id": f"call_{a}", "type": "function", "function": {"name": "multiply", "arguments": {"a": a, "b": 7}}}
        for a in numbers
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _gives(number: int) -> dict[str, Any]:
    return {"role": "tool", "name": "multiply", "tool_call_id": f"call_{number}", "content": str(7 * number)}


ROWS: dict[str, dict[str, Any]] = {
    "one turn": {"messages": [USER, ANSWER]},
    "system": {"messages": [SYSTEM, USER, ANSWER]},
    "turns": {"messages": [USER, ANSWER, MORE, LAST]},
    "system, turns": {"messages": [SYSTEM, USER, ANSWER, MORE, LAST]},
    "reasoning": {"messages": [USER, REASONED]},
    "reasoning, turns": {"messages": [USER, REASONED, MORE, {**LAST, "reasoning_content": "Seven eights."}]},
    "<think> inside": {"messages": [USER, {**ANSWER, "content": "<think>\nSix sevens.\n</think>\n\nIt is 42."}]},
    "call": {"messages": [USER, _asks(6)], "tools": TOOLS},
    "call, result": {"messages": [USER, _asks(6), _gives(6), ANSWER], "tools": TOOLS},
    "system, calls": {
        "messages": [SYSTEM, USER, _asks(6), _gives(6), ANSWER, MORE, _asks(8), _gives(8), LAST],
        "tools": TOOLS,
    },
    "calls at once": {"messages": [USER, _asks(6, 8), _gives(6), _gives(8), ANSWER], "tools": TOOLS},
    "line break": {"messages": [USER, {**ANSWER, "content": "\n\nIt is 42."}]},
}


def conversation(kind: str) -> Conversation:
    row = normalise(SourceRow(file=kind, number=1, value=ROWS[kind]), "messages")
    assert isinstance(row, Conversation)
    return row


def answers(tokenizer: Any, row: Conversation) -> tuple[Counter[str], set[str]]:
    """How many answers of a row are `equal`, `noted` or `differ`; the notes on it.

    Raises:
        DataError: the template refuses the row.
    """
    renderer = Renderer(tokenizer)
    encoded = renderer.encode(renderer.render(row))
    notes = set(renderer.take_notes())
    told = any(one.prompt_differs for one in encoded) or TOKENS_APART in notes
    prefixes = [one.ids[:start].tolist() for one in encoded for start in begins(one.trained.tolist())]
    kinds = ("equal" if prompt in prefixes else "noted" if told else "differ" for prompt in prompts(tokenizer, row))
    return Counter(kinds), notes


def templates(folder: Path | None) -> dict[str, Any]:
    """Name -> tokenizer with the template."""
    made = {f"trl {name}": byte_tokenizer(text) for name, (text, _) in trl_templates().items()}
    made |= {f"our {name}": byte_tokenizer(chat_template(name)) for name in chat_template_names()}
    for one in sorted(folder.iterdir()) if folder else ():
        if (one / "tokenizer.json").is_file():
            made[one.name] = AutoTokenizer.from_pretrained(one)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=Path)
    wrong = 0
    print(f"{'template':28}", *(f"{kind[:15]:>15}" for kind in ROWS))
    for name, tokenizer in templates(parser.parse_args().tokenizers).items():
        cells = []
        for kind in ROWS:
            try:
                count, notes = answers(tokenizer, conversation(kind))
            except DataError:
                cells.append("-")
                continue
            wrong += count["differ"]
            parts = (f"{count['equal']}", f"{count['noted']} noted", f"{count['differ']} DIFFER")
            shown = [part for part, key in zip(parts, ("equal", "noted", "differ"), strict=True) if count[key]]
            cells.append(" ".join(shown) + ("*" if notes else ""))
        print(f"{name:28}", *(f"{cell:>15}" for cell in cells), flush=True)
    print(f"answers that differ without a word: {wrong}; * the row has a note")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
