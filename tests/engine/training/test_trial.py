"""The pass before an unknown model is trained: what it refuses, and that it leaves nothing behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    ReformerConfig,
    ReformerModelWithLMHead,
    TrOCRForCausalLM,
    xLSTMConfig,
    xLSTMForCausalLM,
)
from unknown_models import ADAPTER, SIZES, load, saved, trains, trocr

from evenfall.engine.model.folder import LoadError
from evenfall.engine.training.trial import require_trainable


def test_a_model_whose_tokens_see_later_ones_is_refused(tmp_path: Path) -> None:
    encoder = load(saved(BertLMHeadModel, BertConfig(**SIZES), tmp_path / "encoder"))
    with pytest.raises(LoadError, match="each token of a BertLMHeadModel sees the later ones"):
        require_trainable(encoder, ADAPTER)
    decoder = BertConfig(**SIZES, is_decoder=True)
    trains(load(saved(BertLMHeadModel, decoder, tmp_path / "decoder")))


def test_a_model_that_takes_no_text_of_any_length_is_refused(tmp_path: Path) -> None:
    config = ReformerConfig(
        is_decoder=True, attn_layers=["local"], axial_pos_embds=False, local_attn_chunk_length=16,
        feed_forward_size=48, vocab_size=64, hidden_size=32, num_attention_heads=2,
        attention_head_size=16, max_position_embeddings=128,
    )  # fmt: skip
    loaded = load(saved(ReformerModelWithLMHead, config, tmp_path))
    with pytest.raises(LoadError, match="does not train on a text alone, of any length"):
        require_trainable(loaded, ADAPTER)
    assert not any("lora_" in name for name, _ in loaded.model.named_parameters())


def test_a_model_that_does_not_compute_in_the_dtype_is_told_of_one_that_it_does(tmp_path: Path) -> None:
    config = xLSTMConfig(vocab_size=64, hidden_size=32, num_blocks=1, num_heads=2, chunk_size=16, pad_token_id=0)
    folder = saved(xLSTMForCausalLM, config, tmp_path)
    with pytest.raises(LoadError, match="a xLSTMForCausalLM does not compute in bfloat16") as refused:
        require_trainable(load(folder, dtype="bfloat16"), ADAPTER)
    assert refused.value.hint == "model.dtype=float32"
    require_trainable(load(folder), ADAPTER)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("CUDA out of memory")])
def test_a_trial_without_memory_stays_an_out_of_memory_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(trocr(tmp_path))

    def full(*args: Any, **inputs: Any) -> None:
        raise error

    monkeypatch.setattr(TrOCRForCausalLM, "forward", full)
    with pytest.raises(type(error), match=str(error)):
        require_trainable(loaded, ADAPTER)


def test_a_trial_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    loaded = load(saved(BertLMHeadModel, BertConfig(**SIZES, is_decoder=True), tmp_path))
    weights = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    require_trainable(loaded, ADAPTER)
    assert type(loaded.model) is BertLMHeadModel and not loaded.model.training
    assert loaded.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(weights[n], v) for n, v in loaded.model.state_dict().items())
