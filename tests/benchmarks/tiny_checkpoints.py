"""Tiny random checkpoints of any causal architecture of transformers, and what transformers alone makes of them.

A sweep has to tell our faults from transformers': so each checkpoint is loaded, computed with and, in NF4, compared
with its own dequantised weights by stock code first.
"""

import json
import re
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tiny_configs import tiny_config
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
)
from transformers.models.auto import modeling_auto as auto

_ROOT = Path(__file__).parents[2]
sys.path.append(str(_ROOT / "tests" / "engine"))

from word_tokenizer import WORDS, word_tokenizer_into

_COMPOSITE = {
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}
"""The class whose checkpoints are on the hub, where it is in none of the mappings that `build` asks."""

_CONFIG_ONLY = {"gemma3n": "its picture part is timm's, which is not installed here"}
"""Only the configuration is saved: what is told without weights."""


def rows_into(file: Path) -> None:
    """24 conversations of two turns, 2 to 10 words each, as jsonl."""
    rows = []
    for n in range(24):
        words = [WORDS[(n * 7 + k) % len(WORDS)] for k in range(2 + n % 9)]
        ask = {"role": "user", "content": "what is next after " + " ".join(words)}
        answer = {"role": "assistant", "content": " ".join(reversed(words))}
        rows.append({"messages": [ask, answer]})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def build(model_type: str, folder: Path) -> dict[str, Any]:
    """A tiny checkpoint of this architecture, with its tokenizer, and what transformers by itself makes of it."""
    causal = auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    pictures = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(model_type)
    name = _COMPOSITE.get(model_type) or pictures or causal
    if name is None:
        raise ValueError("no causal class")
    folder.mkdir(parents=True, exist_ok=True)
    word_tokenizer_into(folder)
    if causal is None or model_type in _CONFIG_ONLY:  # its configuration alone decides
        config = CONFIG_MAPPING[model_type]()
        config.architectures = [name]
        config.save_pretrained(str(folder))
        save_file({"nothing": torch.zeros(1)}, str(folder / "model.safetensors"))
        return {"class": name, "parameters": 0, "only_config": True}
    config = tiny_config(model_type)
    cls = getattr(transformers, name)
    torch.manual_seed(0)
    sub = config.sub_configs.get("text_config")
    inner = config.get_text_config() if sub is not None and cls.config_class is sub else config
    model = cls(inner)
    parameters = sum(p.numel() for p in model.parameters())
    if parameters > 60e6:
        raise ValueError(f"{parameters / 1e6:.0f}M parameters")
    model.save_pretrained(str(folder))
    if inner is not config:  # the whole model's configuration, as on the hub
        config.architectures = [name]
        config.save_pretrained(str(folder))
    return {"class": name, "parameters": parameters, **_alone(folder)}


def _alone(folder: Path) -> dict[str, Any]:
    """By transformers alone: does it load, compute, and see later tokens?"""
    told: dict[str, Any] = {}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # noqa: BLE001 - of any architecture's code
        return {**told, "own_load": _said(error)}
    model, info = loaded
    told["loads_as"] = type(model).__name__
    told["missing"] = sorted(map(str, info["missing_keys"]))[:20]
    told["mismatched"] = sorted(map(str, info["mismatched_keys"]))[:5]
    ids = torch.tensor([[3, 20, 21, 22, 7, 8, 9, 1, 4, 9, 8, 7, 1]])
    try:
        model.eval()
        with torch.no_grad():
            one = model(input_ids=ids, use_cache=False).logits
            other = ids.clone()
            other[0, -1] = 25
            two = model(input_ids=other, use_cache=False).logits
        if one.shape[1] == ids.shape[1]:
            change = (one - two).abs()[0].amax(-1)
            told["seen"], told["changed"] = float(change[:-1].max()), float(change[-1])
    except Exception as error:  # noqa: BLE001 - of any architecture's code
        return {**told, "own_forward": _said(error)}
    try:
        told |= later_gradient(model, ids)
    except Exception as error:  # noqa: BLE001 - of any architecture's code
        told["own_backward"] = _said(error)
    return told


def in_four_bits(folder: Path) -> dict[str, Any]:
    """What transformers and bitsandbytes alone make of the checkpoint in NF4: the share of its layers' weights that is
    4-bit at all, and how far its logits are from those of the same weights, dequantised."""
    options = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=torch.float32,
        use_safetensors=True,
        quantization_config=options,
        device_map={"": "cpu"},
    ).eval()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    outside = {id(p) for layer in ends if layer is not None for p in layer.parameters()}
    packed, wide = 0, Counter[str]()
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            packed += state.shape.numel()
        elif parameter.ndim >= 2 and id(parameter) not in outside and "embed" not in name:
            wide[re.sub(r"\.\d+", ".N", name)] += parameter.numel()
    told: dict[str, Any] = {
        "share": packed / max(1, packed + wide.total()),
        "wide": dict(wide.most_common(4)),
    }
    ids = torch.randint(3, 36, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        try:
            got = model(input_ids=ids, use_cache=False).logits
        except Exception as error:  # noqa: BLE001 - of any architecture's code
            return {**told, "error": _said(error)}
        _dequantise(model)
        want = model(input_ids=ids, use_cache=False).logits
    told["apart"] = float((got - want).norm() / want.norm())
    return told


def _dequantise(model: Any) -> None:
    """Replace every 4-bit layer by one of float32 with the weight that it stands for."""
    # Not above: bitsandbytes wakes CUDA when it is imported, and what is forked after that cannot use it.
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    for name, module in list(model.named_modules()):
        if not isinstance(module, Linear4bit):
            continue
        packed: Any = module.weight
        weight = dequantize_4bit(packed.data, packed.quant_state)
        layer = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None)
        layer.weight.data = weight.to(torch.float32).reshape(layer.weight.shape)
        if module.bias is not None:
            layer.bias.data = module.bias.data.float()
        model.set_submodule(name, layer)


def later_gradient(model: Any, ids: torch.Tensor) -> dict[str, float]:
    """How much the logits before the last token hang on the last token's embedding; exactly 0 where it is causal."""
    kept: list[torch.Tensor] = []

    def cut(module: Any, args: Any, output: Any) -> Any:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    handle = model.get_input_embeddings().register_forward_hook(cut)
    try:
        model.requires_grad_(False)
        logits = model(input_ids=ids, use_cache=False).logits
        logits[0, :-1].float().logsumexp(-1).sum().backward()
    finally:
        handle.remove()
    assert kept[0].grad is not None
    grad = kept[0].grad.flatten(0, -2).abs().amax(-1)  # XLNet has tokens first
    return {"later": float(grad[-1]), "earlier": float(grad[:-1].max())}


def where(error: BaseException) -> str:
    """The innermost frame of an error, as ``file:line in function``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{short(frames[-1].filename)}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""


def short(path: str) -> str:
    """A file's path from its package on."""
    return re.sub(rf".*site-packages/|{re.escape(str(_ROOT))}/", "", path)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:600] + f" @ {where(error)}"
