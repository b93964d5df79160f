"""The base model: found, loaded in 4 bits or 16, frozen, on its device.

Only safetensors are read, and no code that comes with a model runs unless the configuration says so. The base stays in
its own dtypes: unlike the usual k-bit preparation nothing is cast up to float32, which for an 8B model saves 2 GB. NF4
(Dettmers et al. 2023, double-quantised) works on a GPU and on a CPU.
"""

import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as transformers_logging

from ..config.run_config import ModelConfig
from ..machine.device import compute_dtype
from ..machine.jobs import TellStage
from . import architecture
from .families.table import FAMILIES
from .folder import LoadError
from .four_bit import four_bit_share, has_experts
from .layers import packed_attention as attention
from .source import model_source, readable_errors

_TOLD_BELOW = 0.5
"""Share of a mixture's weights in 4 bits below which it is told before they are loaded."""


@dataclass(kw_only=True)
class LoadedModel:
    """A base model, frozen, on its device."""

    model: Any
    name: str
    family: str
    """transformers' `model_type`."""
    quantization: str
    dtype: torch.dtype
    packed: bool
    """Whether its attention is Evenfall's packed one (else: one document a row, stock attention)."""
    parameters: int
    weights_gb: float
    seconds: float


def load_base(config: ModelConfig, device: torch.device, report: TellStage, *, packed: bool = True) -> LoadedModel:
    """Load the frozen base model.

    Args:
        packed: train with packed attention where the family allows it; chat and export want the
            stock one.

    Raises:
        LoadError: not found, no network, gated, unsupported quantisation, no causal language model,
            or weights are missing.
        torch.OutOfMemoryError: it does not fit.
    """
    start = time.perf_counter()
    quiet_libraries()
    source = model_source(config)
    dtype = compute_dtype(config.dtype, device)
    report("reading the model's configuration", None)
    with readable_errors(config.name_or_path):
        arch = AutoConfig.from_pretrained(source, revision=config.revision, trust_remote_code=config.trust_remote_code)
    wide = None
    if not architecture.brings_own_code(arch, remote=config.trust_remote_code):
        architecture.require_causal(config.name_or_path, arch)
        empty = architecture.skeleton(config.name_or_path, arch)
        wide = None if empty is None else architecture.kept_wide(empty)
    stored = getattr(arch, "quantization_config", None)
    options: dict[str, Any] = {}
    if stored is not None:
        _check_stored_quantization(config, stored)
    elif config.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=config.use_double_quant,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=wide,
        )
    family = FAMILIES.get(arch.model_type)
    packed = packed and family is not None and family.packed
    if packed:
        options["attn_implementation"] = attention.NAME
    report(_loading_words(config, arch, options, dtype, wide), None)
    with readable_errors(config.name_or_path):
        found: Any = AutoModelForCausalLM.from_pretrained(
            source,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    model, told = found
    _require_whole(config.name_or_path, model, told["missing_keys"])
    model.requires_grad_(False)
    model.config.use_cache = False
    compute_in(model, dtype)
    parameters = count_parameters(model)
    tensors = [*model.parameters(), *model.buffers()]
    return LoadedModel(
        model=model,
        name=config.name_or_path,
        family=arch.model_type,
        quantization="nf4" if stored is not None else config.quantization,
        dtype=dtype,
        packed=packed,
        parameters=parameters,
        weights_gb=sum(t.numel() * t.element_size() for t in tensors) / 1e9,
        seconds=time.perf_counter() - start,
    )


def _loading_words(
    config: ModelConfig, arch: Any, options: dict[str, Any], dtype: torch.dtype, wide: list[str] | None
) -> str:
    """What is about to be loaded; of a mixture in 4 bits, what of it will stay wide, with the gigabytes."""
    said = f"loading {config.name_or_path}"
    remote = architecture.brings_own_code(arch, remote=config.trust_remote_code)
    if "quantization_config" not in options or remote or not has_experts(arch):
        return said
    empty = architecture.build_empty(config.name_or_path, arch)
    held = four_bit_share(empty, dtype, wide)
    return f"{said}; {held.told(str(dtype).removeprefix('torch.'))}" if held.share < _TOLD_BELOW else said


def compute_in(model: Any, dtype: torch.dtype) -> None:
    """Bring a model to the dtype that was asked for where it came in another.

    A 4-bit checkpoint names the dtype of the machine that made it, and transformers loads all of it so,
    whatever `dtype` says. What a model keeps in float32 on purpose is float32.

    Raises:
        LoadError: a 4-bit layer came without its scales.
    """
    came = model.dtype
    kept: set[str] = set()
    if dtype in (torch.float16, torch.bfloat16):
        kept |= set(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if came == dtype or parameter.dtype != came or hasattr(parameter, "quant_state"):
            continue  # packed 4-bit values may be stored as any dtype
        wide = any(f".{part}." in f".{name}." for part in kept)
        parameter.data = parameter.data.to(torch.float32 if wide else dtype)
    model.config.dtype = dtype
    module: Any
    for name, module in model.named_modules():
        if type(module).__name__ == "Linear4bit":
            if getattr(module.weight, "quant_state", None) is None:
                raise LoadError(
                    f"{name}: is to be 4-bit, but its weight in the checkpoint is not: name it in the "
                    "checkpoint's llm_int8_skip_modules (config.json, quantization_config)"
                )
            module.compute_dtype = dtype
            module.compute_type_is_set = True
            module.weight.quant_state.dtype = dtype
            # On CPUs with AVX512-BF16 the first forward in eval mode repacks the weight for a kernel
            # that has no backward: after an evaluation, gradients would silently be lost.
            module.support_avx512bf16_for_cpu = False


def _require_whole(name: str, model: torch.nn.Module, missing: Iterable[str]) -> None:
    """transformers draws at random what it does not find, and only logs it. Buffers are computed, and tied weights are
    those of another name."""
    random = sorted({name for name, _ in model.named_parameters()}.intersection(missing))
    if random:
        raise LoadError(
            f"{name}: {len(random)} of the weights of a {type(model).__name__} are not in it "
            f"({random[0]}{', ...' if len(random) > 1 else ''}): they would be random",
            "the checkpoint is not whole, or it is of another class than transformers loads it as "
            "(config.json, architectures)",
        )


def _check_stored_quantization(config: ModelConfig, stored: Any) -> None:
    def read(key: str) -> Any:
        return stored.get(key) if isinstance(stored, dict) else getattr(stored, key, None)

    method = str(getattr(read("quant_method"), "value", read("quant_method")))
    if method != "bitsandbytes" or not read("load_in_4bit"):
        raise LoadError(
            f"{config.name_or_path}: is quantised with {method}; Evenfall trains on bitsandbytes "
            "4-bit checkpoints and on unquantised ones (which it quantises while loading)"
        )
    if config.quantization == "none":
        raise LoadError(
            f"{config.name_or_path}: is a 4-bit checkpoint: set model.quantization=nf4, or name the 16-bit model"
        )


def count_parameters(model: torch.nn.Module) -> int:
    """Weights, with 4-bit ones counted as what they stand for; tied ones once."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def share_in_4bit(model: Any) -> tuple[float, str]:
    """How much of its layers' weights is 4-bit (0 to 1), and the largest kind that is not, by its name without layer
    numbers; input and output embeddings are left out of both."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    apart = {id(p) for part in ends if part is not None for p in part.parameters()}
    packed, wide = 0, Counter[str]()
    for name, parameter in model.named_parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            packed += state.shape.numel()
        elif not parameter.requires_grad and parameter.ndim >= 2 and id(parameter) not in apart and "embed" not in name:
            wide[re.sub(r"\.(\d+|base_layer)\b", "", name)] += parameter.numel()
    largest = max(wide, key=lambda name: wide[name], default="")
    return packed / max(1, packed + wide.total()), largest


def quiet_libraries() -> None:
    """Progress bars and start-up notices belong to programs that own the terminal."""
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
