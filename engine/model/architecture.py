"""What a model's configuration and code tell before a weight is read: whether it can be trained here, and which of its
layers take neither 4 bits nor an adapter.

Families of the table (`families/table.py`) are known to be fit, and nothing here costs them time. Of any other, the
model is built once without memory (torch's meta device), and its code is asked: a layer whose weight the code round it
reads, instead of calling the layer, would be read as packed bytes in 4 bits, and past its adapter. Libraries keep lists
of such layers by model type; the lists are short of most of them, the code is not.

What only a forward can tell is asked in `trial.py`.
"""

import copy
import functools
import inspect
import re
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.quantizers.base import get_keys_to_not_convert

from .families.table import FAMILIES
from .folder import LoadError
from .source import readable_errors

_UNDER_A_SWITCH = frozenset({"BloomAttention", "BloomMLP"})
"""Classes that read such a weight only where two switches say so (`slow_but_exact` is no checkpoint's)."""

_NOT_A_READ = r"(?!\.(?:device|shape)\b)"
"""What may follow ``self.layer.weight`` and tells nothing of how the weight is held."""

_OFF = 0.02
"""Relative distance above which a layer's output is not that of a linear layer: more than bfloat16 rounds."""


def brings_own_code(arch: Any, *, remote: bool) -> bool:
    """Whether transformers will build the model from code that came with it.

    Args:
        arch: the configuration.
        remote: that code may be run.
    """
    return remote and "AutoModelForCausalLM" in (getattr(arch, "auto_map", None) or {})


def require_causal(name: str, arch: Any) -> None:
    """Refuse what transformers has no causal language model for.

    Raises:
        LoadError: an encoder-decoder, a model of text and pictures, or one for another task.
    """
    kind = arch.model_type
    if getattr(arch, "is_encoder_decoder", False):
        raise LoadError(
            f"{name}: is an encoder-decoder model ({kind}); Evenfall trains models that only continue a text",
            "name a causal language model, such as those of the presets",
        )
    if type(arch) in AutoModelForCausalLM._model_mapping:  # pyright: ignore[reportAttributeAccessIssue]
        return
    if type(arch) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise LoadError(
            f"{name}: reads pictures too ({kind}), and transformers loads it only as such a model; "
            "Evenfall trains those that it loads as causal language models",
            "name a text-only model of the family",
        )
    raise LoadError(
        f"{name}: is no causal language model ({kind}: {type(arch).__name__})",
        "name a model that continues a text; is this one made for another task?",
    )


def skeleton(name: str, arch: Any) -> Any:
    """The model without weights, on torch's meta device; None for families of the table.

    Raises:
        LoadError: transformers cannot build it, or needs a package that is not there.
    """
    return None if arch.model_type in FAMILIES else build_empty(name, arch)


def build_empty(name: str, arch: Any) -> Any:
    """`skeleton` of any family."""
    try:
        with readable_errors(name), torch.device("meta"):
            return AutoModelForCausalLM.from_config(copy.deepcopy(arch))
    except LoadError:
        raise
    except Exception as error:  # of a hundred architectures' own code
        raise LoadError(
            f"{name}: this transformers cannot build a {arch.model_type} from its config.json "
            f"({type(error).__name__}: {error})",
            "the file is of another version or task than this transformers takes it for",
        ) from error


def kept_wide(model: Any) -> list[str] | None:
    """The layers that bitsandbytes shall leave alone, for `llm_int8_skip_modules`.

    That list stands instead of transformers' own (output layer, tied weights), so that is in it too.

    Args:
        model: may be a skeleton.

    Returns:
        None where transformers' own list is right.
    """
    # Its dtype counts as read: code casts activations to it, and a packed weight's is uint8.
    unfit = _read_by_others(model, _NOT_A_READ)
    return sorted({*get_keys_to_not_convert(model), *unfit}) if unfit else None


def unfit_for_adapter(model: Any) -> dict[str, str]:
    """Linear layers where an adapter could learn nothing, or cannot be, and why, by full name.

    Args:
        model: on its device, no adapter on it.
    """
    found = _beside_the_text(model)
    if model.config.model_type in FAMILIES:
        return found
    reads = _read_by_others(model, r"(?!\.(?:device|shape|dtype)\b)")
    found |= dict.fromkeys(reads, "the model reads its weight itself, past an adapter")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not _computes_like_linear(module):
            found[name] = f"it is a {type(module).__name__}, which computes more than a linear layer"
    return found


def _beside_the_text(model: Any) -> dict[str, str]:
    """Layers of towers that see or hear: all that is outside the decoder of a model that has more."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    if not isinstance(decoder, PreTrainedModel) or decoder is model.base_model:
        return {}
    text = {id(module) for module in (*decoder.modules(), model.get_output_embeddings())}
    return {
        name: "a text alone does not pass it"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) not in text
    }


def _read_by_others(model: nn.Module, unless: str) -> list[str]:
    """Linear layers whose weight is named in the code of the module that holds them.

    Args:
        unless: pattern of what may not follow ``.weight``.
    """
    found = []
    for name, parent in model.named_modules():
        layers = [child for child, layer in parent.named_children() if isinstance(layer, nn.Linear)]
        if not layers or type(parent).__name__ in _UNDER_A_SWITCH:
            continue
        source = _methods(type(parent))
        found += [
            f"{name}.{child}" if name else child
            for child in layers
            if re.search(rf"\bself\.{child}\.weight\b{unless}", source)
        ]
    return found


@functools.cache
def _methods(cls: type) -> str:
    """The source of a class's methods, inherited ones too. Function by function: for a whole class `inspect` parses
    its file, which takes a quarter of a second for some."""
    sources = []
    for owner in cls.__mro__:
        if owner in (PreTrainedModel, nn.Module):
            break
        for method in vars(owner).values():
            if inspect.isfunction(method) and method.__name__ != "__init__":
                try:
                    sources.append(inspect.getsource(method))
                except OSError:  # made at run time
                    continue
    return "\n".join(sources)


def _computes_like_linear(module: nn.Linear) -> bool:
    """Whether a subclass of `Linear` maps rows as `Linear` does: routers return choices, others group their input."""
    stock = type(module).__module__.startswith(("torch.nn.modules.linear", "bitsandbytes."))
    if stock or type(module).forward is nn.Linear.forward:
        return True
    weight = module.weight
    x = torch.linspace(-1, 1, 2 * module.in_features, dtype=weight.dtype, device=weight.device)
    x = x.view(2, -1)
    try:
        with torch.no_grad():
            out = module(x)
            want = nn.functional.linear(x, weight, module.bias)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):  # of other inputs
        return False
    if not isinstance(out, torch.Tensor) or out.shape != want.shape:
        return False
    return bool((out - want).float().norm() <= _OFF * want.float().norm())
