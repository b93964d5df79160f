"""Chat: what a run leaves behind answers, with the adapter and without."""

import datetime
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.prepare.prepare import prepare
from evenfall.engine.inference.chat import Chat, _Stream, prompt_ids, trained_system
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.engine.run.directory import RunDirectory, RunError, adapter_folder
from evenfall.engine.run.find import create_run

Make = Callable[..., RunConfig]
ASK = [{"role": "user", "content": "what is next after red green blue"}]


def quiet(message: str, fraction: float | None) -> None:
    del message, fraction


def test_base_and_tuned_answer_differently_and_again_the_same(trained: RunDirectory) -> None:
    chat = Chat.open(trained, quiet)
    tuned, base = (chat.reply(ASK, adapter=on, max_new_tokens=12) for on in (True, False))
    assert tuned.text != base.text
    assert chat.reply(ASK, adapter=True, max_new_tokens=12).text == tuned.text
    # Asked again in the other order: the adapter's switch must not stick.
    assert chat.reply(ASK, adapter=False, max_new_tokens=12).text == base.text


def test_the_base_is_the_untouched_model(trained: RunDirectory, tiny_model: Path) -> None:
    trained.write_config(trained.config().with_overrides(["model.quantization=none"]))
    chat = Chat.open(trained, quiet)
    got = chat.reply(ASK, adapter=False, max_new_tokens=10)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
    assert got.text == tokenizer.decode(out, skip_special_tokens=True)


def test_sampling_repeats_with_its_seed(trained: RunDirectory) -> None:
    chat = Chat.open(trained, quiet)
    options = {"adapter": False, "max_new_tokens": 12, "temperature": 3.0}
    first = chat.reply(ASK, seed=1, **options).text
    assert chat.reply(ASK, seed=1, **options).text == first
    assert chat.reply(ASK, seed=2, **options).text != first


def test_text_streams_and_stops_on_request(trained: RunDirectory) -> None:
    chat = Chat.open(trained, quiet)
    stop, seen = threading.Event(), []

    def follow(text: str) -> None:
        seen.append(text)
        if len(seen) == 3:
            stop.set()

    reply = chat.reply(ASK, adapter=False, max_new_tokens=200, temperature=5.0, on_text=follow, stop=stop)
    assert reply.ended == "stopped" and reply.tokens in (3, 4) and seen[-1] == reply.text
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(seen))


def test_what_is_asked_is_what_was_trained(tiny_model: Path) -> None:
    refuses = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
    turns = "{% for m in messages %}<|user|> {{ m.content }} {% endfor %}{{ 'one' if strftime_now('%Y') == '2001' }}"
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = refuses + turns
    asked = [{"role": "system", "content": "red"}, {"role": "user", "content": "blue"}]
    ids = prompt_ids(tokenizer, asked, datetime.date(2001, 3, 1))
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|user|>", "red", "blue", "one"]


def test_the_system_text_of_all_rows_is_known_to_the_chat(tiny_config: Make, tmp_path: Path) -> None:
    row = {"messages": [{"role": "system", "content": "red"}, *ASK, {"role": "assistant", "content": "one"}]}
    for texts, known in ((["red", "red"], "red"), (["red", "blue"], ""), (["red", None], "")):
        rows = [
            {"messages": [{"role": "system", "content": text}, *row["messages"][1:]] if text else row["messages"][1:]}
            for text in texts
        ]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
        config = tiny_config(data={"path": str(path)})
        prepared = prepare(config, load_tokenizer(config), quiet)
        assert trained_system(prepared.report) == known


def test_reasoning_that_says_nothing_is_not_shown() -> None:
    class Tokens:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            return ["\n", "</think>", "\n\n", "Yes", "<end>"][ids[-1]] if len(ids) == 1 else self.all(ids)

        def all(self, ids: list[int]) -> str:
            return "".join(["\n", "</think>", "\n\n", "Yes", "<end>"][i] for i in ids)

    stream = _Stream(Tokens(), {4}, lambda text: None)
    for value in ([9], [0], [1], [2], [3], [4]):
        stream.put(torch.tensor(value))
    assert stream.text == "Yes"


def test_a_run_without_an_adapter_says_so(tiny_config: Make) -> None:
    run = create_run(tiny_config())
    with pytest.raises(RunError, match="no adapter yet"):
        adapter_folder(run)
