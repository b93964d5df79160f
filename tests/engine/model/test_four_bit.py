"""How much of a model is 4-bit: the same told before it is loaded as after."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from evenfall.engine.config.run_config import ModelConfig
from evenfall.engine.model import architecture
from evenfall.engine.model.four_bit import FourBitShare, four_bit_share, has_experts
from evenfall.engine.model.load import load_base


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    config = Qwen3MoeConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, moe_intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=16, num_experts_per_tok=2, mlp_only_layers=[],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    return folder


def load(folder: Path, said: list[str]) -> Any:
    config = ModelConfig(name_or_path=str(folder), dtype="bfloat16")
    return load_base(config, torch.device("cpu"), lambda text, fraction: said.append(text)).model


def test_the_experts_of_a_mixture_are_told_before_it_is_loaded(mixture: Path) -> None:
    said: list[str] = []
    model = load(mixture, said)
    held = four_bit_share(model, torch.bfloat16, kept=())
    assert held.largest == "experts" and held.share < 0.1
    assert said[-1] == f"loading {mixture}; {held.told('bfloat16')}"
    assert has_experts(model.config)
    empty = architecture.build_empty("it", model.config)
    assert four_bit_share(empty, torch.bfloat16) == held


def test_a_dense_model_needs_no_word_beforehand(tiny_model: Path) -> None:
    said: list[str] = []
    held = four_bit_share(load(tiny_model, said), torch.bfloat16, kept=())
    assert said[-1] == f"loading {tiny_model}" and held.share > 0.8 and held.largest == "embed_tokens"


def test_the_words_have_share_size_and_kind() -> None:
    held = FourBitShare(packed=60_000_000, wide=1_940_000_000, wide_bytes=3_880_000_000, largest="experts")
    assert held.told("bfloat16") == "4-bit: 3 % of the weights; 3.88 of 3.91 GB stay bfloat16 (experts)"
