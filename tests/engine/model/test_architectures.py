"""Architectures without a row in the table of families: which train, which are refused, and what is said of them.

Every model is random and tiny, made on the spot. All of transformers' are swept by hand
(`tests/benchmarks/architectures.py`); here stands one for each reason.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AyaVisionConfig,
    DbrxConfig,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma3Config,
    MambaConfig,
    MambaForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    T5Config,
    ViTConfig,
)
from unknown_models import ADAPTER, CPU, SIZES, batch, load, saved, trains, trocr

from evenfall.engine.config.run_config import AdapterConfig, RunConfig
from evenfall.engine.model import architecture
from evenfall.engine.model.adapter import add_adapter
from evenfall.engine.model.folder import LoadError
from evenfall.engine.model.source import readable_errors
from evenfall.engine.model.trained import TrainedModel
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session
from evenfall.engine.training import trial
from evenfall.engine.training.objectives.sft import loss_sum
from evenfall.engine.training.trial import require_trainable

GROUPED: dict[str, Any] = {**SIZES, "num_key_value_heads": 1}
MAMBA: dict[str, Any] = {
    "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1,
    "mamba_d_state": 8, "mamba_chunk_size": 16,
}  # fmt: skip


def config_alone(config: Any, folder: Path) -> Path:
    """A folder whose weights are none of the model's: what is refused must be before they are read."""
    config.save_pretrained(folder)
    save_file({"nothing": torch.zeros(1)}, str(folder / "model.safetensors"))
    return folder


def phimoe(folder: Path) -> Path:
    config = PhimoeConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2)
    return saved(PhimoeForCausalLM, config, folder)


def falcon_h1(folder: Path) -> Path:
    return saved(FalconH1ForCausalLM, FalconH1Config(**GROUPED, **MAMBA), folder)


def mamba(folder: Path) -> Path:
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers")}
    config = MambaConfig(**sizes, state_size=8, time_step_rank=8, pad_token_id=0, eos_token_id=1)
    return saved(MambaForCausalLM, config, folder)


def test_a_router_gets_no_adapter_and_the_rest_trains(tmp_path: Path) -> None:
    _, learnt = trains(load(phimoe(tmp_path)))
    assert learnt == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_a_layer_whose_weight_the_model_reads_itself_gets_no_adapter(tmp_path: Path) -> None:
    loaded = load(falcon_h1(tmp_path))
    with pytest.raises(LoadError, match="out_proj takes no adapter in this model") as refused:
        add_adapter(loaded.model, AdapterConfig(r=4, target_modules=["q_proj", "out_proj"]), seed=1)
    assert "the model reads its weight itself" in str(refused.value)
    assert not any("lora_" in name for name, _ in loaded.model.named_parameters())
    _, learnt = trains(loaded)
    assert {"in_proj", "q_proj", "down_proj"} <= learnt and "out_proj" not in learnt


def test_what_peft_refuses_names_what_can_be_adapted(tmp_path: Path) -> None:
    model = load(mamba(tmp_path)).model
    with pytest.raises(LoadError, match="PEFT puts no such adapter") as refused:
        add_adapter(model, AdapterConfig(r=4, target_modules=["conv1d"]), seed=1)
    assert refused.value.hint.endswith(": in_proj, lm_head")
    with pytest.raises(LoadError, match="fits no module of this model") as unknown:
        add_adapter(model, AdapterConfig(r=4, target_modules=["k_proj"]), seed=1)
    assert unknown.value.hint == "it has in_proj, lm_head"


def test_nf4_leaves_layers_wide_that_other_code_reads(tmp_path: Path) -> None:
    base, learnt = trains(load(mamba(tmp_path), "nf4"))
    mixer = base.backbone.layers[0].mixer
    kinds = {name: type(module).__name__ for name, module in mixer.named_modules()}
    assert kinds["dt_proj"] == kinds["out_proj"] == "Linear" == type(base.lm_head).__name__
    assert type(mixer.in_proj.base_layer).__name__ == "Linear4bit" and "in_proj" in learnt


def test_a_model_that_swallows_logits_to_keep_learns_the_right_tokens(tmp_path: Path) -> None:
    loaded = load(trocr(tmp_path))
    model = add_adapter(loaded.model, ADAPTER, seed=1).eval()
    one = batch()
    logits = model(input_ids=one.input_ids, use_cache=False).logits[0, one.label_positions]
    want = torch.nn.functional.cross_entropy(logits, one.labels, reduction="sum")
    got = loss_sum(TrainedModel(model=model, device=CPU, packed=False), one)
    torch.testing.assert_close(got, want)
    trains(load(tmp_path))


def test_towers_that_see_get_no_adapter() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 32, "patch_size": 16}  # fmt: skip
    config = Gemma3Config(text_config={**GROUPED, "head_dim": 16}, vision_config=vision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    unfit = architecture.unfit_for_adapter(model)
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(unfit) == {name for name in linear if "vision_tower" in name} != set()


def test_a_model_that_four_bits_leave_mostly_wide_is_told(
    tiny_model: Path, tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    folder = phimoe(tmp_path / "experts")
    for file in tiny_model.glob("*token*"):
        shutil.copy(file, folder)
    shutil.copy(tiny_model / "chat_template.jinja", folder)
    run = tiny_config(model={"name_or_path": str(folder)}, train={"max_steps": 1})
    session = Session(create_run(run))
    session.start()
    assert session.wait(600) and session.state == "finished"
    alerts = [e.message for e in session.events_since(0) if isinstance(e, ev.Alert)]
    (told,) = (alert for alert in alerts if alert.startswith("nf4: only "))
    assert "most of it model.layers.mlp.experts.gate_up_proj" in told and "float32" in told


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (T5Config(), r"is an encoder-decoder model \(t5\)"),
        (AyaVisionConfig(), r"reads pictures too \(aya_vision\)"),
        (ViTConfig(), r"is no causal language model \(vit: ViTConfig\)"),
        (DbrxConfig(n_layers=1), r"cannot build a dbrx from its config.json \(AttributeError"),
    ],
)
def test_what_is_no_causal_model_is_refused_before_its_weights_are_read(
    config: Any, words: str, tmp_path: Path
) -> None:
    with pytest.raises(LoadError, match=words) as refused:
        load(config_alone(config, tmp_path))
    assert refused.value.hint


def test_a_package_that_a_model_needs_is_named() -> None:
    said = "TimmWrapper needs timm. You can install it with pip:\n`pip install timm`. Restart."
    with pytest.raises(LoadError) as refused, readable_errors("gemma3n"):
        raise ImportError(said)
    assert str(refused.value) == "gemma3n: needs a package that is not installed: TimmWrapper needs timm"
    assert refused.value.hint == "install what it needs: pip install timm"


def test_weights_that_would_be_random_are_refused_and_tied_ones_are_not(tiny_model: Path, tmp_path: Path) -> None:
    assert "lm_head.weight" not in load_file(tiny_model / "model.safetensors")
    load(tiny_model)
    folder = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    with pytest.raises(LoadError, match=r"1 of the weights.*\(model.layers.1.mlp.up_proj.weight\)"):
        load(folder)


def test_families_of_the_table_are_asked_nothing(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", never)
    monkeypatch.setattr(architecture, "_read_by_others", never)
    monkeypatch.setattr(trial, "_embedding_gradient", never)
    loaded = load(tiny_model, "nf4")
    require_trainable(loaded, ADAPTER)
    add_adapter(loaded.model, ADAPTER, seed=1)
