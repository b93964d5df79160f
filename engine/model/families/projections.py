"""The parts that families share: a linear layer with or without a LoRA adapter, and a norm, as our layers take them."""

from typing import Any

from bitsandbytes.nn.modules import Linear4bit, Params4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ....kernels.nf4 import NF4Weight
from ....kernels.qlora import Projection
from ..layers.decoder import Norm

ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


class NotFast(Exception):
    """The layer holds something that `decoder.py` has no place for; the message says what."""


def read_norm(module: Any) -> Norm:
    if module.weight.requires_grad:
        raise NotFast("its norms are trained")
    return Norm(module.weight.detach(), module.variance_epsilon)


def base_layer(module: nn.Module) -> Any:
    return module.get_base_layer() if isinstance(module, LoraLayer) else module


def lora_of(module: Any) -> tuple[Tensor | None, Tensor | None, float]:
    """A, B and scaling of a layer's one active adapter; None where it has no part in this layer."""
    (active,) = module.active_adapters
    if active not in module.lora_A:
        return None, None, 1.0
    a, b = module.lora_A[active].weight, module.lora_B[active].weight
    return a, b, float(module.scaling[active])


def read_projection(name: str, module: nn.Module) -> Projection:
    base = base_layer(module)
    weight = base.weight
    if isinstance(base, Linear4bit) and isinstance(weight, Params4bit):
        try:
            weight = NF4Weight.of(weight)
        except (TypeError, ValueError) as error:
            raise NotFast(f"{name}: {error}") from error
    elif type(base) is not nn.Linear:
        raise NotFast(f"{name} is a {type(base).__name__}")
    elif weight.requires_grad:
        raise NotFast(f"{name} itself is trained, not an adapter of it")
    bias = None if base.bias is None else base.bias.detach()
    if not isinstance(module, LoraLayer):
        return Projection(weight=weight, bias=bias)
    adapters: Any = module
    if len(adapters.active_adapters) != 1:
        raise NotFast(f"{name} has {len(adapters.active_adapters)} active adapters")
    (active,) = adapters.active_adapters
    a, b, scaling = lora_of(adapters)
    if a is None or b is None:
        return Projection(weight=weight, bias=bias)
    if adapters.lora_variant.get(active) is not None or adapters.lora_bias.get(active):
        raise NotFast(f"{name} has an adapter that is not plain LoRA")
    return Projection(weight=weight, bias=bias, lora_a=a, lora_b=b, scaling=scaling)


def dropout_of(module: Any) -> float:
    (active,) = module.active_adapters
    if active not in module.lora_dropout:
        return 0.0
    return float(getattr(module.lora_dropout[active], "p", 0.0))  # an Identity has none
