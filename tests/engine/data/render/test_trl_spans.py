"""Trained spans, token for token: TRL's where TRL has a training template, a slow reference's elsewhere."""

import json
import random
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.render import training_template
from evenfall.engine.data.render.mask import EOS_ADDED
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.row import SourceRow
from evenfall.presets.load import chat_template, chat_template_names

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
try:
    from prompt_equality import ROWS, answers, conversation
    from trl_spans import (
        byte_tokenizer,
        compare,
        from_the_prompts,
        prompts,
        trl_messages,
        trl_templates,
        trl_tokens,
        wants_blocks,
    )
finally:
    sys.path.pop(0)

TRL = trl_templates()
MARKED = {name: (text, training) for name, (text, training) in TRL.items() if training}
REST = {
    **{f"trl {name}": text for name, (text, training) in TRL.items() if training is None},
    **{name: chat_template(name) for name in chat_template_names()},
}

# TRL's training version trains some answers behind other tokens than those that this template asks for them with: it
# keeps the reasoning of earlier answers, or has no <think> where the prompt ends with one.
UNASKED = {
    "deepseek_r1_distill", "deepseekv3", "diffusion_gemma", "gptoss", "nemotron_3_5_lightning", "nemotron_3_nano",
    "nemotron_3_super", "nemotron_3_ultra", "qwen3", "qwen3_5_nothink", "qwen3_5_think", "qwen3_6",
}  # fmt: skip

KINDS = ("alpaca", "sharegpt", "messages")
_PIECES = (
    "Yes", "no.", "naïve", "日本語", "🎈", "e\u0301", "\n", "\n\n", "  ", "\t", "3 < 4 & \"5\"", "{{ x }}",
    "<|im_end|>", "</s>", "[INST]", "<|end|>", "<end_of_turn>", "user:", "\u2028", "{'a': 1}", "%}",
)  # fmt: skip


def conversations(kind: str, count: int) -> list[Conversation]:
    """Rows of one kind, the same ones each time."""
    chance = random.Random(kind)

    def text() -> str:
        words = chance.choices(_PIECES, k=chance.randint(1, 6))
        # Something in it must be left when a template trims it.
        return chance.choice(("", " ")).join([*words, chance.choice(("ok", "é", "🎈 ", "!\n"))])

    def alpaca() -> dict:
        return {"instruction": text(), "input": chance.choice(("", text())), "output": text()}

    def messages() -> dict:
        system = chance.choice(([], [""], [text()]))
        turns = [
            {"role": role, "content": text()} for _ in range(chance.randint(1, 4)) for role in ("user", "assistant")
        ]
        return {"messages": [*({"role": "system", "content": one} for one in system), *turns]}

    def sharegpt() -> dict:
        properties = {"at": {"type": "string", "description": text()}, "n": {"type": "integer"}}
        parameters = {"type": "object", "properties": properties, "required": ["at"]}
        tools = [{"name": "look", "description": text(), "parameters": parameters}]
        turns = []
        for _ in range(chance.randint(1, 2)):
            call = {"name": "look", "arguments": {"at": text(), "n": chance.randint(0, 9)}}
            turns += [("human", text()), ("function_call", json.dumps(call))]
            turns += [("observation", json.dumps({"found": text()})), ("gpt", text())]
            turns += chance.choice(([], [("human", text()), ("gpt", text())]))
        system = chance.choice(({}, {"system": text()}))
        return {
            "conversations": [{"from": who, "value": what} for who, what in turns],
            "tools": json.dumps(tools),
            **system,
        }

    def reasoning() -> dict:
        row = messages()
        for message in row["messages"]:
            if message["role"] == "assistant" and chance.random() < 0.5:
                message["reasoning_content"] = text()
        return row

    def calls() -> dict:
        """Two calls at once, beside text or not, and two results; ends with them or an answer."""
        made = [
            {
                "id": f"a1b2c3d4{number}",
                "function": {"name": "look", "arguments": {"at": text(), "n": 3, "on": [1, True]}},
            }
            for number in range(2)
        ]
        asks = {"role": "assistant", "content": chance.choice(("", text())), "tool_calls": made}
        results = [{"role": "tool", "content": text(), "name": "look", "tool_call_id": call["id"]} for call in made]
        answers = [*results, {"role": "assistant", "content": text()}]
        return {
            "messages": [{"role": "user", "content": text()}, asks, *chance.choice(([], answers))],
            "tools": json.loads(sharegpt()["tools"]),
        }

    made = {"alpaca": alpaca, "messages": messages, "sharegpt": sharegpt}
    make = {**made, "reasoning": reasoning, "calls": calls}[kind]
    format: Any = kind if kind in made else "messages"
    rows = [normalise(SourceRow(file=kind, number=number, value=make()), format) for number in range(1, count + 1)]
    return [row for row in rows if isinstance(row, Conversation)]


def render(tokenizer, row, training, notes, blocks, until=None, prompt=False) -> str:
    text = tokenizer.apply_chat_template(
        trl_messages(row, notes, blocks)[:until], tools=list(row.tools) or None,
        chat_template=training, tokenize=False, add_generation_prompt=prompt,
    )  # fmt: skip
    assert isinstance(text, str)
    return text


def alike(first: str, second: str) -> int:
    """Characters that two texts begin with alike."""
    count = 0
    while count < min(len(first), len(second)) and first[count] == second[count]:
        count += 1
    return count


@pytest.mark.parametrize("kind", [*KINDS, "reasoning", "calls"])
@pytest.mark.parametrize("name", MARKED)
def test_ids_and_mask_equal_trls(name, kind):
    template, training = MARKED[name]
    tokenizer = byte_tokenizer(template)
    rows = conversations(kind, 25)
    count = compare(tokenizer, training, rows)
    assert not count.wrong
    assert count.equal + count.unasked == count.rows == len(rows) - count.refused
    assert not count.unasked or name in UNASKED
    assert kind in ("sharegpt", "calls") or not count.refused
    # TRL leaves the end of a turn unlearnt here: text beside a call that nothing answers. We do not.
    assert bool(count.open_ended) is ((name, kind) == ("diffusion_gemma", "calls"))
    assert tokenizer.chat_template == template  # chat and export keep the model's own


@pytest.mark.parametrize("name", [*TRL, *chat_template_names()])
def test_answers_are_learnt_behind_the_tokens_that_ask_for_them(name):
    tokenizer = byte_tokenizer(TRL[name][0] if name in TRL else chat_template(name))
    rendered = 0
    for kind in ROWS:
        try:
            count, _ = answers(tokenizer, conversation(kind))
        except DataError:
            continue
        rendered += 1
        # The prompt of this one ends with reasoning that is empty: no answer that has some stands behind it.
        told = name == "qwen3_5_nothink" and kind in ("reasoning", "reasoning, turns", "<think> inside")
        assert not count["differ"] and bool(count["noted"]) is told
    assert rendered >= 8


@pytest.mark.parametrize("name", sorted(MARKED.keys() - UNASKED))
def test_each_answer_can_be_masked_and_every_end_of_turn_is_learnt(name):
    """The reference gives each token of TRL's mask to the turn in whose characters it begins."""
    template, training = MARKED[name]
    tokenizer = byte_tokenizer(template)
    blocks = wants_blocks(tokenizer, training)
    chance = random.Random(name)
    tried = 0
    for row in [*conversations("messages", 10), *conversations("sharegpt", 8)]:
        whole = Renderer(tokenizer)
        try:
            (one,) = whole.render(row)
        except DataError:
            continue
        notes = set(whole.take_notes())
        assert EOS_ADDED not in notes
        ids, mask, *_ = trl_tokens(tokenizer, training, row, notes, blocks)
        mask = from_the_prompts(mask, prompts(tokenizer, row))
        folded = len(row.messages) - len(trl_messages(row, notes, blocks))
        answers = [n for n, m in enumerate(row.messages) if m["role"] == "assistant"]
        begins = [alike(one.text, render(tokenizer, row, training, notes, blocks, place - folded)) for place in answers]
        offsets = tokenizer(one.text, add_special_tokens=False, return_offsets_mapping=True)
        turn_of = [sum(begin <= start for begin in begins) - 1 for start, _ in offsets["offset_mapping"]]
        for number in range(len(answers)):
            learnt = [i for i, turn, t in zip(ids, turn_of, mask, strict=True) if t and turn == number]
            while not str(tokenizer.decode(learnt[-1])).strip():
                learnt.pop()
            assert learnt[-1] in tokenizer.added_tokens_decoder
        for masked in ({*answers[:-1]}, {n for n in answers[:-1] if chance.random() < 0.5}):
            only = replace(row, masked=frozenset(masked))
            kept = [place not in masked for place in answers]
            expected = [flag and kept[turn] for flag, turn in zip(mask, turn_of, strict=True)]
            made = {"masked": Renderer(tokenizer).render(only)}
            if len(masked) == len(answers) - 1:
                made["last"] = Renderer(tokenizer, last_only=True).render(row)
            for renderings in made.values():
                (encoded,) = whole.encode(renderings)
                assert encoded.ids.tolist() == ids
                assert encoded.trained.tolist() == expected
            tried += len(answers) > 1
    assert tried > 5


@pytest.mark.parametrize("name", ["deepseekv3", "deepseek_r1_distill"])
def test_a_span_that_reaches_into_a_masked_turn_is_derived_instead(name):
    tokenizer = byte_tokenizer(MARKED[name][0])
    call = [{"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}]
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": call},
        {"role": "tool", "content": "seen"},
        {"role": "assistant", "content": "a"},
    ]
    learnt = []
    for masked in ({}, {1}):
        row = Conversation(
            source=SourceRow(file="f", number=1, value=""),
            messages=tuple(messages),
            masked=frozenset(masked),
        )
        renderer = Renderer(tokenizer)
        encoded = renderer.encode(renderer.render(row))
        learnt.append([tokenizer.decode(one.ids[one.trained]) for one in encoded])
    (call, answer), masked = learnt
    assert call.startswith("\n</think>\n\n<｜tool▁calls▁begin｜>")  # behind a prompt that ends with <think>
    assert masked == [answer] == ["a<｜end▁of▁sentence｜>"]


@pytest.mark.parametrize("name", REST)
def test_other_templates_equal_a_slow_reference(name):
    """Character by character: learnt is what an answer adds to the prompt that asks for it."""
    tokenizer = byte_tokenizer(REST[name])
    compared = 0
    for row in [row for kind in KINDS for row in conversations(kind, 20)]:
        renderer = Renderer(tokenizer)
        try:
            (one,) = renderer.encode(renderer.render(row))
        except DataError:
            continue
        notes = set(renderer.take_notes())
        messages = trl_messages(row, notes, False)
        text = render(tokenizer, row, None, notes, False)
        learnt = [False] * len(text)
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                prompt = render(tokenizer, row, None, notes, False, place, prompt=True)
                through = render(tokenizer, row, None, notes, False, place + 1)
                assert text.startswith(prompt)
                end = alike(text, through)
                learnt[len(prompt) : end] = [True] * (end - len(prompt))
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        mask = [any(learnt[start:end]) for start, end in tokens["offset_mapping"]]
        assert EOS_ADDED not in notes
        assert one.ids.tolist() == tokens["input_ids"]
        assert one.trained.tolist() == [False, *mask[1:]]
        compared += 1
    assert compared >= 40


def test_which_templates_have_a_training_version_is_as_trl_says():
    trl = pytest.importorskip("trl.chat_template_utils")
    for text, _ in TRL.values():
        ours = training_template.template_for_training(text)
        try:
            theirs = trl.get_training_chat_template(byte_tokenizer(text))
        except ValueError:
            theirs = None
        marks = trl.has_generation_markers(text)
        assert ours == ((text, marks) if theirs is None or marks else (theirs, True))


def test_trl_is_read_and_not_imported():
    code = (
        "import sys\nfrom evenfall.engine.data.render.training_template import _trl_templates\n"
        "assert len(_trl_templates()) > 20\nassert not {'trl', 'torch'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_trl_or_its_files_templates_stay_as_they_are(monkeypatch, tmp_path):
    find = training_template._trl_templates.__wrapped__
    elsewhere = ModuleSpec("trl", None, is_package=True)
    elsewhere.submodule_search_locations = [str(tmp_path)]
    for spec in (None, ModuleSpec("trl", None), elsewhere):
        monkeypatch.setattr(training_template.importlib.util, "find_spec", lambda _, it=spec: it)
        assert find() == {}
    folder = tmp_path / "chat_templates"
    folder.mkdir()
    for name in ("a", "a_v2", "a_training", "b_training"):
        (folder / f"{name}.jinja").write_text(name)
    assert find() == {"a": "a_training"}


def test_only_learning_answers_alone_takes_the_training_template():
    tokenizer = byte_tokenizer(MARKED["qwen3"][0])
    row = conversation("one turn")
    (whole,) = Renderer(tokenizer, assistant_only=False).render(row)
    (answers,) = Renderer(tokenizer).render(row)
    assert whole.text == render(tokenizer, row, None, set(), False)
    assert answers.text == render(tokenizer, row, MARKED["qwen3"][1], set(), False)
