"""How a decoder layer of the Llama kind is read: Llama's, Mistral's, Qwen 2's and Qwen 3's."""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from ....kernels.qlora import ProjectionGroup, Workspace
from ..layers.decoder import LayerParts, Stream
from .fast_layer import FastState
from .projections import (
    ATTENTION_PROJECTIONS,
    MLP_PROJECTIONS,
    NotFast,
    base_layer,
    dropout_of,
    read_norm,
    read_projection,
)


def read_llama_layer(layer: Any, workspace: Workspace, stream: Stream, dtype: torch.dtype) -> FastState:
    """Read a decoder layer of the Llama kind; all layers of a model share workspace and stream.

    Raises:
        NotFast: a projection, adapter or activation of another kind.
    """
    attention, mlp = layer.self_attn, layer.mlp
    modules = {name: getattr(attention, name) for name in ATTENTION_PROJECTIONS}
    modules |= {name: getattr(mlp, name) for name in MLP_PROJECTIONS}
    if "forward" in vars(layer):
        raise NotFast("its forward was replaced (by accelerate, for several devices)")
    projections = {name: read_projection(name, module) for name, module in modules.items()}
    if len({p.weight.device for p in projections.values()}) > 1:
        raise NotFast("its weights lie on several devices")
    activation = type(mlp.act_fn).__name__
    if activation not in ("SiLU", "SiLUActivation"):
        raise NotFast(f"its MLP's activation is {activation}, not silu")
    if getattr(attention, "attention_dropout", 0.0):
        raise NotFast("its attention has dropout")

    def group(*names: str) -> ProjectionGroup:
        rates = {dropout_of(modules[name]) for name in names if isinstance(modules[name], LoraLayer)}
        if len(rates) > 1:
            raise NotFast(f"{', '.join(names)} have adapters with different dropouts")
        own = [projections[name] for name in names]
        return ProjectionGroup(own, dtype, workspace, dropout=max(rates, default=0.0))

    qkv = group("q_proj", "k_proj", "v_proj")
    heads = [p.weight.shape[0] // attention.head_dim for p in qkv.projections]
    parts = LayerParts(
        input_norm=read_norm(layer.input_layernorm),
        qkv=qkv,
        q_norm=read_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=read_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        o=group("o_proj"),
        post_norm=read_norm(layer.post_attention_layernorm),
        gate_up=group("gate_proj", "up_proj"),
        down=group("down_proj"),
        head_dim=attention.head_dim,
        q_heads=heads[0],
        kv_heads=heads[1],
        stream=stream,
    )
    adapters = {name: list(module.active_adapters) for name, module in modules.items() if isinstance(module, LoraLayer)}
    weights = {name: base_layer(module).weight for name, module in modules.items()}
    return FastState(parts=parts, modules=modules, projections=projections, weights=weights, adapters=adapters)
