"""Chat and export: what a run leaves behind answers, loads elsewhere, and is checked."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.export import merged, proof
from evenfall.engine.export.form import ExportError
from evenfall.engine.export.run import export_run
from evenfall.engine.inference.chat import Chat
from evenfall.engine.run.directory import RunDirectory, RunError, adapter_folder
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

Make = Callable[..., RunConfig]
ASK = [{"role": "user", "content": "what is next after red green blue"}]


def quiet(message: str, fraction: float | None) -> None:
    del message, fraction


@pytest.fixture
def trained(tiny_config: Make) -> RunDirectory:
    run = create_run(
        tiny_config(
            adapter={"r": 32, "lora_alpha": 64},
            train={"max_steps": 20, "learning_rate": 1e-2, "save_steps": 10},
        )
    )
    session = Session(run)
    session.start()
    assert session.wait(120) and session.state == "finished"
    return run


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


def test_exported_adapter_and_merged_model_load_in_stock_transformers(
    trained: RunDirectory,
) -> None:
    trained.write_config(trained.config().with_overrides(["export.dtype=float32"]))
    done = {item.form: item for item in export_run(trained, ["adapter", "merged"], report=quiet)}
    adapter = load_file(done["adapter"].path / "adapter_model.safetensors")
    assert adapter.keys() == load_file(trained.adapter / "adapter_model.safetensors").keys()
    assert "relative RMS error" in done["merged"].check
    merged = AutoModelForCausalLM.from_pretrained(done["merged"].path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(done["merged"].path)
    ids = tokenizer("red green blue", return_tensors="pt").input_ids
    from peft import AutoPeftModelForCausalLM

    live = AutoPeftModelForCausalLM.from_pretrained(str(trained.adapter), dtype=torch.float32)
    with torch.no_grad():
        want, got = live(input_ids=ids).logits, merged(input_ids=ids).logits
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_can_be_exported(trained: RunDirectory) -> None:
    (item,) = export_run(trained, ["adapter"], checkpoint=10, report=quiet)
    early = load_file(item.path / "adapter_model.safetensors")
    final = load_file(trained.adapter / "adapter_model.safetensors")
    assert item.path.name == "adapter-step-10"
    assert any(not torch.equal(early[name], final[name]) for name in final)
    with pytest.raises(RunError, match=r"no checkpoint of step 7 \(there: 10, 20\)"):
        export_run(trained, ["adapter"], checkpoint=7, report=quiet)


def test_a_merge_that_went_wrong_is_refused_and_leaves_nothing(
    trained: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = proof.compare_with_live

    def damage(folder: Path, *args):
        file = folder / "model.safetensors"
        tensors = load_file(file)
        name = next(name for name in tensors if "down_proj" in name)
        tensors[name] = tensors[name] * 3
        save_file(tensors, file, metadata={"format": "pt"})
        return real(folder, *args)

    monkeypatch.setattr(merged, "compare_with_live", damage)
    with pytest.raises(ExportError, match="differ from base plus adapter"):
        export_run(trained, ["merged"], report=quiet)
    assert not any(trained.exports.glob("*")) and not any(trained.exports.glob(".*"))


def test_a_cancelled_export_leaves_nothing(trained: RunDirectory) -> None:
    class Cancel(Exception):
        pass

    def cancel(message: str, fraction: float | None) -> None:
        if "comparing" in message:
            raise Cancel

    with pytest.raises(Cancel):
        export_run(trained, ["merged"], report=cancel)
    assert not any(trained.exports.iterdir())


def test_an_export_clears_what_a_killed_one_left_and_waits_for_no_other(
    trained: RunDirectory,
) -> None:
    half = trained.exports / ".merged.0123abcd"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    export_run(trained, ["adapter"], report=lambda text, fraction: None)
    assert not half.exists()
    with trained.export_lock(), pytest.raises(RunError, match="another export of this run"):
        export_run(trained, ["adapter"], report=lambda text, fraction: None)


def test_an_unknown_form_names_those_there_are(trained: RunDirectory) -> None:
    with pytest.raises(ExportError, match="there are adapter and merged"):
        export_run(trained, ["onnx"], report=quiet)
