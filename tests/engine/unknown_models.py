"""Tiny random models, loaded as a run loads them, and trained: architectures without a row in the table of families."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrOCRConfig, TrOCRForCausalLM

from evenfall.engine.config.run_config import AdapterConfig, ModelConfig
from evenfall.engine.data.pack.batch import Batch, collate
from evenfall.engine.data.pack.examples import Example
from evenfall.engine.model.adapter import add_adapter, trainable_parameters
from evenfall.engine.model.base import base_of
from evenfall.engine.model.load import LoadedModel, load_base
from evenfall.engine.model.trained import TrainedModel
from evenfall.engine.training.objectives.sft import loss_sum
from evenfall.engine.training.trial import require_trainable

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 128,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
ADAPTER = AdapterConfig(r=4, lora_alpha=8)


def load(folder: Path, quantization: str = "none", dtype: str = "float32") -> LoadedModel:
    config = ModelConfig.model_validate({"name_or_path": str(folder), "quantization": quantization, "dtype": dtype})
    return load_base(config, CPU, lambda message, fraction: None)


def saved(cls: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    cls(config).save_pretrained(folder)
    return folder


def trocr(folder: Path) -> Path:
    config = TrOCRConfig(
        vocab_size=64, d_model=32, decoder_layers=2, decoder_attention_heads=2,
        decoder_ffn_dim=48, max_position_embeddings=128, pad_token_id=0, eos_token_id=1,
        bos_token_id=2, dropout=0.0,
    )  # fmt: skip
    return saved(TrOCRForCausalLM, config, folder)


def batch() -> Batch:
    ids = np.arange(6, 29, dtype=np.int32)
    return collate([Example(ids=ids, trained=np.arange(23) > 11, number=0)])


def trains(loaded: LoadedModel) -> tuple[Any, set[str]]:
    """The model after three steps of SGD, and the kinds of layers whose adapter learnt; its loss must fall."""
    require_trainable(loaded, ADAPTER)
    model = add_adapter(loaded.model, ADAPTER, seed=1).train()
    trained = TrainedModel(model=model, device=CPU, packed=loaded.packed)
    optimizer = torch.optim.SGD(trainable_parameters(model).values(), lr=0.5)
    losses = []
    for _ in range(3):
        loss = loss_sum(trained, batch()) / 11
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    learnt = {n: bool(p.any()) for n, p in trainable_parameters(model).items() if "lora_B" in n}
    return base_of(model), {name.split(".lora_B")[0].rpartition(".")[2] for name in learnt if learnt[name]}
