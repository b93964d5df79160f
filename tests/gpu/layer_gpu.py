"""A decoder layer of a real shape, proven and timed: ``python tests/gpu/layer_gpu.py [8b|1b] [tokens]``.

Builds two layers of the shape with random NF4 weights and LoRA of rank 16 on all seven projections, puts them
on the fast path (which proves them, forward and every gradient) and times a forward and backward of packed
rows of 2,048 tokens: stock, fast at each level of what is saved, and with dequantised weights kept; then of
short documents. Beside them the matmuls alone at the rate measured in the same run, and where a fast step's
time goes, kernel by kernel.

Exits with 1 where the proof fails, and with 2 where there is no GPU.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from kernels_gpu import median_ms
from packed_attention_gpu import draw_lengths
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from evenfall.engine.model.layers import packed_attention as attention
from evenfall.engine.model.layers.decoder import ActivationLevel
from evenfall.engine.model.patch.attention import patch_attention
from evenfall.engine.model.patch.layers import patch_layers
from evenfall.engine.model.patch.norms_and_mlps import patch_model

SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "head_dim": 128},
}
ROW = 2048
LAYERS = 2


def build(shape: str) -> Any:
    """Layers with 4-bit weights and adapters whose B is not zero."""
    sizes: dict[str, Any] = SHAPES[shape] | {"attn_implementation": attention.NAME}
    config = LlamaConfig(
        vocab_size=1024, num_hidden_layers=LAYERS, num_attention_heads=32, num_key_value_heads=8,
        **sizes,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    for layer in model.model.layers:
        for owner in (layer.self_attn, layer.mlp):
            for name, child in list(owner.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(owner, name, four_bit(child))
    model.requires_grad_(False)
    adapted: Any = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            if "lora_B" in name:
                parameter.data.normal_(std=0.02)
    return adapted.train()


def four_bit(linear: nn.Linear) -> Linear4bit:
    layer = Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16,
        quant_type="nf4", compress_statistics=True, device="cpu",
    )  # fmt: skip
    layer.load_state_dict({"weight": linear.weight.cpu()})
    return layer.to("cuda")


def step_of(model: Any, lengths: tuple[int, ...], ways: attention.Ways) -> Any:
    """A forward and backward of both layers on packed rows, as a function of nothing."""
    base = model.get_base_model().model
    tokens = sum(lengths)
    bounds = torch.tensor((0, *lengths)).cumsum(0).to("cuda", torch.int32)
    documents = attention.Documents(lengths=lengths, bounds=bounds, ways=ways)
    positions = torch.cat([torch.arange(n, device="cuda") for n in lengths])[None]
    hidden = torch.randn(1, tokens, base.config.hidden_size, device="cuda", dtype=torch.bfloat16)
    hidden.requires_grad_()
    dout = torch.randn_like(hidden)
    embeddings = base.rotary_emb(hidden.detach(), positions)

    def step() -> None:
        x = hidden
        for layer in base.layers:
            x = layer(
                x, attention_mask=None, position_ids=positions, position_embeddings=embeddings,
                documents=documents,
            )  # fmt: skip
        x.backward(dout)
        hidden.grad = None

    return step


def measure(name: str, step: Any, tokens: int, floor_ms: float) -> None:
    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    peak = (torch.cuda.max_memory_allocated() - before) / LAYERS / 1e9
    ms = median_ms(step) / LAYERS
    print(f"{name:28} {ms:8.2f} ms a layer   {floor_ms / ms:6.1%} of floor   {peak:6.2f} GB a layer")


def main() -> int:
    if not torch.cuda.is_available():
        print("there is no GPU here: nothing to time", file=sys.stderr)
        return 2
    shape = sys.argv[1] if len(sys.argv) > 1 else "8b"
    tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 16_384
    model = build(shape)
    rows, short = (ROW,) * (tokens // ROW), draw_lengths(tokens)
    stock = step_of(model, rows, attention.Ways())
    base = model.get_base_model()
    weights = sum(
        m.out_features * m.in_features for m in base.modules() if isinstance(m, Linear4bit)
    ) / LAYERS  # fmt: skip
    a = torch.randn(tokens, base.config.hidden_size, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(base.config.intermediate_size, a.shape[1], device="cuda", dtype=a.dtype)
    rate = 2 * tokens * w.numel() / median_ms(lambda: a @ w.t()) / 1e9
    floor_ms = 4 * tokens * weights / rate / 1e9
    print(f"{torch.cuda.get_device_name()}, {shape}, {tokens} tokens; matmuls at {rate:.0f} TFLOP/s")
    print(f"floor (matmuls without attention) {floor_ms:.2f} ms a layer")
    measure("stock, PEFT + bitsandbytes", stock, tokens, floor_ms)
    patch_model(model, "cuda")
    measure("stock, norms and MLP fast", stock, tokens, floor_ms)
    ways, part = patch_attention(model, "cuda", short)
    print(part.reason if part else "attention is not packed")
    parts = patch_layers(model, "cuda", ways)
    for part in parts:
        print(f"{part.name}: {part.reason} ({part.error} against {part.eager_error})")
    if not all(part.fast for part in parts):
        return 1
    layers = base.model.layers
    levels: tuple[ActivationLevel, ...] = ("kept", "cheap", "layer")
    for level in levels:
        for layer in layers:
            layer.evenfall.level = level
        measure(f"fast, {level}", step_of(model, rows, ways), tokens, floor_ms)
    for layer in layers:
        layer.evenfall.level = "kept"
        for group in layer.evenfall.parts.groups:
            group.keep_weights(True)
    steps = {"rows": step_of(model, rows, ways), "short documents": step_of(model, short, ways)}
    for name, step in steps.items():
        measure(f"kept, weights too, {name}", step, tokens, floor_ms)
        profiled(step)
    return 0


def profiled(step: Any) -> None:
    """Print where a step's time goes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    events = sorted(profile.key_averages(), key=lambda e: -e.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) / LAYERS / 1e3
    print(f"    {total:.2f} ms a layer on the device")
    for event in events[:32]:
        ms = event.self_device_time_total / LAYERS / 1e3
        print(f"    {ms:8.3f} ms {event.count / LAYERS:5.1f} x {event.key[:90]}")


if __name__ == "__main__":
    sys.exit(main())
