"""Chat: what a run leaves behind answers, with the adapter and without."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.inference.chat import Chat
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


def test_a_run_without_an_adapter_says_so(tiny_config: Make) -> None:
    run = create_run(tiny_config())
    with pytest.raises(RunError, match="no adapter yet"):
        adapter_folder(run)
