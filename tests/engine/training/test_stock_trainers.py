"""A patched model is an ordinary PEFT model: TRL's own trainers train it, to the same losses."""

from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_layers import DEVICE
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from evenfall.engine.model.families import fast_layer
from evenfall.engine.model.patch.layers import patch_layers
from evenfall.engine.model.patch.norms_and_mlps import patch_model
from evenfall.kernels.backend import triton_runs_on

pytestmark = pytest.mark.skipif(not triton_runs_on(DEVICE), reason="needs Triton's interpreter")

STEPS = 3
WORDS = ["red", "green", "blue", "one", "two", "three", "sky", "sea", "sun", "moon"]


def model_of(folder, *, patched) -> Any:
    torch.manual_seed(0)
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(base.to(DEVICE), lora)
    if patched:
        patch_model(model, DEVICE, force=True)
        parts = patch_layers(model, DEVICE, force=True)
        assert parts and all(part.fast for part in parts), parts
    return model


def options(config, folder, **more):
    return config(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-2,
        logging_steps=1, lr_scheduler_type="constant", report_to="none", save_strategy="no", bf16=False, fp16=False,
        use_cpu=DEVICE == "cpu", disable_tqdm=True, seed=3, **more,
    )  # fmt: skip


def losses(trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def sentence(index: int, length: int) -> str:
    return " ".join(WORDS[(index * 3 + n) % len(WORDS)] for n in range(length))


@pytest.fixture
def fast_calls(monkeypatch) -> list[int]:
    calls: list[int] = []
    real = fast_layer.decoder_layer
    monkeypatch.setattr(fast_layer, "decoder_layer", lambda *a: calls.append(1) or real(*a))
    return calls


@pytest.mark.parametrize("recompute", [False, True])
def test_sft_trainer(tiny_model, tmp_path, fast_calls, recompute):
    rows = Dataset.from_list([{"text": sentence(n, 5 + 2 * n)} for n in range(4)])
    runs = {}
    for patched in (False, True):
        trainer = SFTTrainer(
            model=model_of(tiny_model, patched=patched),
            args=options(SFTConfig, tmp_path, gradient_checkpointing=recompute, max_length=32),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
        )
        runs[patched] = losses(trainer)
    assert len(runs[True]) == STEPS and runs[True][-1] < runs[True][0] and fast_calls
    assert runs[True] == pytest.approx(runs[False], rel=1e-4)


def test_dpo_trainer(tiny_model, tmp_path, fast_calls):
    rows = Dataset.from_list(
        [{"prompt": sentence(n, 4), "chosen": " sun moon", "rejected": " " + sentence(n, 3)} for n in range(4)]
    )
    runs = {}
    for patched in (False, True):
        trainer = DPOTrainer(
            model=model_of(tiny_model, patched=patched),
            args=options(DPOConfig, tmp_path, gradient_checkpointing=False, max_length=32),
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
        )
        runs[patched] = losses(trainer)
    assert len(runs[True]) == STEPS and runs[True][-1] < runs[True][0] and fast_calls
    assert runs[True] == pytest.approx(runs[False], rel=1e-4)
