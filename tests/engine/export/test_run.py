"""Exports: what a run leaves behind loads elsewhere, is checked, and nothing half-written stays."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evenfall.engine.export import merged, proof
from evenfall.engine.export.form import ExportError
from evenfall.engine.export.run import export_run
from evenfall.engine.run.directory import RunDirectory, RunError


def quiet(message: str, fraction: float | None) -> None:
    del message, fraction


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
