"""The adapter: LoRA put on a base, read back, and written, all in PEFT's format.

Adapter weights are float32 whatever the base is: in bfloat16 small updates round to nothing.
"""

import contextlib
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.error import NoMatchingPeftModuleError
from safetensors.torch import save_file

from ..config.run_config import AdapterConfig
from .architecture import unfit_for_adapter
from .base import base_of
from .folder import LoadError


def add_adapter(model: Any, config: AdapterConfig, seed: int) -> PeftModel:
    """Put a new LoRA adapter on a base; A is drawn from `seed`, B is zero, both are float32.

    Layers where an adapter could learn nothing are left out (`architecture.unfit_for_adapter`).

    Raises:
        LoadError: `target_modules` names no module of this model, or one that takes no adapter.
    """
    targets = config.target_modules
    unfit = unfit_for_adapter(model)
    # Before PEFT is asked: what it refuses half-way leaves layers of its own in the model.
    linear = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)} - set(unfit)
    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear})
    there = ", ".join(leaves)
    _require_fit([] if isinstance(targets, str) else targets, model, unfit, leaves)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type] - PEFT takes fractions too
        lora_dropout=config.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=sorted(unfit) or None,
        use_rslora=config.use_rslora,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        with _no_initial_values():
            adapted = get_peft_model(model, lora)
    except NoMatchingPeftModuleError as error:
        raise LoadError(
            f"adapter.target_modules: {targets} fits no module of this model that takes an adapter",
            f"it has {there}",
        ) from error
    except ValueError as error:
        raise LoadError(
            f"adapter.target_modules: PEFT puts no such adapter on this model: {error}",
            f"name others of its modules in adapter.target_modules: {there}",
        ) from error
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    assert isinstance(adapted, PeftModel)
    return adapted


def _require_fit(targets: Sequence[str], model: torch.nn.Module, unfit: dict[str, str], leaves: Sequence[str]) -> None:
    """Args:
    leaves: last names of the modules that take an adapter.
    """
    for target in targets:
        named = [name for name, _ in model.named_modules() if f".{name}".endswith(f".{target}")]
        if not named:  # PEFT takes the other names and leaves this one out without a word
            near = difflib.get_close_matches(target, leaves, 1, 0.8)
            raise LoadError(
                f"adapter.target_modules: {target} fits no module of this model",
                (f"did you mean {near[0]}? " if near else "") + f"it has {', '.join(leaves)}",
            )
        if named and all(name in unfit for name in named):
            raise LoadError(
                f"adapter.target_modules: {target} takes no adapter in this model: {unfit[named[0]]}",
                "leave it out of adapter.target_modules",
            )


@contextlib.contextmanager
def _no_initial_values():
    """New linear layers are left as they are: PEFT fills A and B right after torch has, and for a model of 8B torch
    takes half a second for it."""
    reset = torch.nn.Linear.reset_parameters
    torch.nn.Linear.reset_parameters = lambda self: None
    try:
        yield
    finally:
        torch.nn.Linear.reset_parameters = reset


def load_adapter(model: Any, folder: Path) -> PeftModel:
    """Put a saved adapter on a base, for chat and export (not trainable).

    Raises:
        LoadError: it was trained on a base of other sizes.
    """
    config = PeftConfig.from_pretrained(str(folder))
    try:
        return PeftModel.from_pretrained(model, str(folder), config=config)
    except (RuntimeError, ValueError) as error:
        raise LoadError(
            f"{folder}: does not fit {model.config.name_or_path}: it was trained on a model of other sizes or names "
            f"({str(error).splitlines()[0]}); name its own base (model.name_or_path=PLACE)"
        ) from error


def adapted_weights(model: PeftModel) -> set[str]:
    """Names of the base's weights that an adapter lies on, as the base alone calls them."""
    found = (name for name, module in base_of(model).named_modules() if isinstance(module, BaseTunerLayer))
    return {f"{name}.weight" for name in found}


def adapted_tied_end(model: PeftModel) -> str:
    """The name of the embedding, of input or output, that has an adapter while both are one weight; else empty. An
    adapter changes one of them alone, and can be merged only into a weight of its own."""
    base = base_of(model)
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or _weight_of(ends[0]) is not _weight_of(ends[1]):
        return ""
    adapted = [end for end in ends if isinstance(end, BaseTunerLayer)]
    names = [name for name, module in base.named_modules() if module in adapted]
    return " and ".join(name.rsplit(".", 1)[-1] for name in names)


def untie(model: PeftModel) -> None:
    """Give the output embedding a weight of its own where the adapter changes one of two that share theirs."""
    if not adapted_tied_end(model):
        return
    base = base_of(model)
    head = base.get_output_embeddings()
    head = getattr(head, "base_layer", head)
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


def _weight_of(layer: Any) -> torch.nn.Parameter:
    return getattr(layer, "base_layer", layer).weight


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter, in the model's order, which optimiser and checkpoints share."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter in PEFT's format into an existing folder (float32 safetensors)."""
    config = model.peft_config["default"]
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        str(folder / "adapter_model.safetensors"),
        metadata={"format": "pt"},
    )
    inference_mode, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = inference_mode
