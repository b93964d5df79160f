"""A random Llama in NF4 on disk, as every stack opens it, and the adapter that each begins with.

The 16-bit model never exists: each weight is drawn on the device, quantised there (NF4, double-quantised, blocks
of 64) and written as transformers writes a 4-bit bitsandbytes checkpoint. Stacks then load instead of
quantising, so they train on the same bits. What is in the folder stands in it, so that one that was
kept is used again only where it is the same.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ...presets.load import demo_folder
from ..run.files import atomic_folder
from .shapes import PROJECTIONS, WEIGHT_STD, ModelShape
from .work import LORA_ALPHA, SEED, BenchError

if TYPE_CHECKING:
    import torch

_DESCRIPTION = "evenfall-bench.json"
_FORMAT = 1
_SHARD_BYTES = 2 * 10**9
_B_STD = 0.02
"""Of the adapter's B: a hundred steps of AdamW at 2e-4, all in one direction."""


def description(shape: ModelShape, device_type: str) -> dict[str, Any]:
    return {"format": _FORMAT, "seed": SEED, "made_on": device_type, **asdict(shape)}


def is_there(folder: Path, shape: ModelShape, device_type: str) -> bool:
    """Whether the folder holds this very model."""
    try:
        stored = orjson.loads((folder / _DESCRIPTION).read_bytes())
    except (OSError, ValueError):
        return False
    return stored == description(shape, device_type)


def check_place(folder: Path, shape: ModelShape) -> None:
    """See that the model may be written there.

    Raises:
        BenchError: something else is there, or the disk is too full.
    """
    if folder.exists() and not (folder / _DESCRIPTION).is_file() and any(folder.iterdir()):
        raise BenchError(f"--keep: {folder} holds something else; name a new folder")
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    if free < 1.1 * shape.weights_gb:
        raise BenchError(
            f"the {shape.name} model takes {shape.weights_gb:.1f} GB on disk, and {there} has "
            f"{free:.1f} GB free: name another place with --keep DIR"
        )


def write_model(shape: ModelShape, folder: Path, device: "torch.device", tell: Callable[[str], None]) -> None:
    """Write the model, its configuration and a tokenizer; the folder appears whole or not at all."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as scratch:
        places: dict[str, str] = {}
        shard: dict[str, torch.Tensor] = {}
        total = 0

        def write_shard() -> None:
            name = f"model-{len(set(places.values())) + 1:05}.safetensors"
            save_file(shard, str(scratch / name), metadata={"format": "pt"})
            places.update(dict.fromkeys(shard, name))
            shard.clear()

        for name, tensor in _tensors(shape, device, tell):
            shard[name] = tensor.cpu().contiguous()
            total += tensor.nbytes
            if sum(held.nbytes for held in shard.values()) > _SHARD_BYTES:
                write_shard()
        write_shard()
        tree = {"metadata": {"total_size": total}, "weight_map": places}
        (scratch / "model.safetensors.index.json").write_text(json.dumps(tree, indent=1))
        _configuration(shape, device).save_pretrained(str(scratch))
        _write_tokenizer(shape, scratch)
        (scratch / _DESCRIPTION).write_bytes(orjson.dumps(description(shape, device.type)))


def _tensors(
    shape: ModelShape, device: "torch.device", tell: Callable[[str], None]
) -> Iterator[tuple[str, "torch.Tensor"]]:
    """Every tensor of the checkpoint under its name, drawn one after the other from the seed."""
    import torch
    from bitsandbytes import functional

    from ..machine.device import compute_dtype

    dtype = compute_dtype("auto", device)
    generator = torch.Generator(device).manual_seed(SEED)

    def draw(rows: int, columns: int) -> "torch.Tensor":
        weight = torch.empty(rows, columns, dtype=dtype, device=device)
        return weight.normal_(std=WEIGHT_STD, generator=generator)

    yield "model.embed_tokens.weight", draw(shape.vocabulary, shape.hidden)
    ones = torch.ones(shape.hidden, dtype=dtype)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", ones.clone()
        yield f"{prefix}.post_attention_layernorm.weight", ones.clone()
        for path, (rows, columns) in shape.projections().items():
            packed, state = functional.quantize_4bit(
                draw(rows, columns), blocksize=64, quant_type="nf4", compress_statistics=True
            )
            yield f"{prefix}.{path}.weight", packed
            for key, value in state.as_dict(packed=True).items():
                yield f"{prefix}.{path}.weight.{key}", value
        if layer % 8 == 0:
            tell(f"a random {shape.name} model in NF4: layer {layer + 1} of {shape.layers}")
    yield "model.norm.weight", ones
    if not shape.tied:
        yield "lm_head.weight", draw(shape.vocabulary, shape.hidden)


def _configuration(shape: ModelShape, device: "torch.device") -> Any:
    from transformers import BitsAndBytesConfig, LlamaConfig

    from ..machine.device import compute_dtype

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 500_000.0}
    if shape.rope_factor:
        rope |= {
            "rope_type": "llama3", "factor": shape.rope_factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        }  # fmt: skip
    dtype = compute_dtype("auto", device)
    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden,
        intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.positions, rms_norm_eps=1e-5,
        rope_parameters=rope, tie_word_embeddings=shape.tied, pad_token_id=0, bos_token_id=1,
        eos_token_id=3, dtype=dtype, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    config.quantization_config = quantization.to_dict()
    return config


def _write_tokenizer(shape: ModelShape, folder: Path) -> None:
    """The demo's: small, byte-level, and its pad token is no other's. It is there to be loaded only."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(demo_folder() / "model"))
    tokenizer.model_max_length = shape.positions
    tokenizer.save_pretrained(str(folder))


def write_adapter(shape: ModelShape, rank: int, model: Path, folder: Path) -> None:
    """Write an adapter in PEFT's format, as far as training has come after some hundred steps.

    A as `nn.Linear` is initialised, B normal. A new adapter, whose B is zero, would not do: PEFT adds the
    adapter's share to a base output that is rounded to bfloat16 already, and the share of the first steps,
    below half a unit in the last place of nearly every value, is lost there, so that stacks that round once
    have other losses. A share of any size carries small changes through the rounding.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    tensors = {}
    for layer in range(shape.layers):
        for path, (rows, columns) in shape.projections().items():
            name = f"base_model.model.model.layers.{layer}.{path}"
            bound = 1 / math.sqrt(columns)
            a = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
            tensors[f"{name}.lora_A.weight"] = a
            b = torch.empty(rows, rank).normal_(std=_B_STD, generator=generator)
            tensors[f"{name}.lora_B.weight"] = b
    folder.mkdir(parents=True)
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(model),
        "r": rank, "lora_alpha": LORA_ALPHA, "lora_dropout": 0.0, "bias": "none",
        "target_modules": list(PROJECTIONS), "inference_mode": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
