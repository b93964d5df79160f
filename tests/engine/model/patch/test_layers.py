"""Layers are put on the fast path only after their proof, and everything else stays stock."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from tiny_layers import DEVICE, FAMILIES, packed, step, tiny

from evenfall.engine.memory.fit import set_recompute
from evenfall.engine.model.families.fast_layer import FastDecoderLayer
from evenfall.engine.model.families.table import Family
from evenfall.engine.model.layers.attention import KernelAttention
from evenfall.engine.model.layers.packed_attention import STOCK_WAYS, Ways
from evenfall.engine.model.patch import layers as module
from evenfall.engine.model.patch.layers import patch_layers
from evenfall.engine.model.patch.norms_and_mlps import patch_model
from evenfall.kernels import qlora
from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.backend import INTERPRETED, triton_runs_on

pytestmark = pytest.mark.skipif(
    not triton_runs_on(DEVICE), reason="no GPU: needs Triton's interpreter, TRITON_INTERPRET=1"
)


BOTH_WAYS = Ways(equal="rows", mixed="kernel", windowed="kernel")


def layers_of(model) -> Any:
    return model.get_base_model().model.layers


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_known_layers_pass_their_proof_and_the_model_trains_as_before(family, quantized):
    model = tiny(family, quantized=quantized)
    want = step(model)
    state = torch.get_rng_state()
    (part,) = patch_layers(model, DEVICE, force=True)
    assert part.fast and part.count == 2 and part.kind == "decoder layer", part
    assert part.reason == "fast: checked on this device, no further from exact than stock"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(type(layer).__name__.startswith("Fast") for layer in layers_of(model))
    got = step(model)
    assert relative_rms_error(got[0], want[0]) < 1e-5
    assert all(relative_rms_error(got[1][name], want[1][name]) < 3e-5 for name in want[1])


@pytest.mark.parametrize("ways", [STOCK_WAYS, BOTH_WAYS], ids=["stock", "both"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_proof_holds_in_16_bit(dtype, ways):
    if INTERPRETED and dtype == torch.bfloat16:
        pytest.skip("the interpreter cuts bits off where a GPU rounds to bf16")
    model = tiny("llama")
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    (part,) = patch_layers(model, DEVICE, ways, force=True)
    assert part.fast, part
    assert part.error is not None and part.eager_error is not None


def test_a_layer_that_computes_something_else_stays_stock(monkeypatch):
    model = tiny("llama")
    stock = type(layers_of(model)[0])
    want = step(model)
    real = Family.read

    def wrong(family, *args):
        state = real(family, *args)
        norm = state.parts.post_norm
        object.__setattr__(state.parts, "post_norm", norm._replace(eps=0.3))
        return state

    monkeypatch.setattr(Family, "read", wrong)
    (part,) = patch_layers(model, DEVICE, force=True)
    assert not part.fast and part.reason.startswith("stock: the kernel's ")
    assert all(type(layer) is stock for layer in layers_of(model))
    assert torch.equal(step(model)[0], want[0])


def test_a_way_that_only_equal_documents_take_is_proven_too(monkeypatch):
    def forgets_the_adapter(source, target, rows, carried):
        target.copy_(source)
        carried.zero_()

    monkeypatch.setattr(qlora, "copy_carry", forgets_the_adapter)
    (part,) = patch_layers(tiny("llama"), DEVICE, replace(BOTH_WAYS, equal="kernel"), force=True)
    assert part.fast, part
    (part,) = patch_layers(tiny("llama"), DEVICE, BOTH_WAYS, force=True)
    assert not part.fast and " on another way is off by " in part.reason


def test_the_kernel_that_graphs_take_is_proven_in_the_layer_too(monkeypatch):
    ways = replace(BOTH_WAYS, mixed="each")
    (part,) = patch_layers(tiny("llama"), DEVICE, ways, force=True)
    assert part.fast, part
    real = KernelAttention.backward

    def key_gradient_too_large(*args):
        query, key, value = real(*args)
        return query, key.mul_(1.1), value

    monkeypatch.setattr(KernelAttention, "backward", key_gradient_too_large)
    (part,) = patch_layers(tiny("llama"), DEVICE, ways, force=True)
    assert not part.fast and " on another way is off by " in part.reason


def test_a_proof_that_breaks_leaves_the_layer_stock(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such kernel\nmore")

    monkeypatch.setattr(FastDecoderLayer, "forward", broken)
    module.fast_class.cache_clear()
    try:
        (part,) = patch_layers(tiny("llama"), DEVICE, force=True)
    finally:
        module.fast_class.cache_clear()
    assert not part.fast
    assert part.reason == "stock: the proof failed with RuntimeError: no such kernel"


def test_layers_unlike_the_others_are_proven_and_told_by_themselves():
    model = tiny("llama")
    layers_of(model)[1].mlp.act_fn = torch.nn.GELU()
    stock, fast = patch_layers(model, DEVICE, force=True)
    assert (stock.count, fast.count) == (1, 1) and fast.fast and not stock.fast
    assert stock.reason == "stock: its MLP's activation is GELU, not silu"
    assert type(layers_of(model)[0]).__name__ == "FastLlamaDecoderLayer"
    assert type(layers_of(model)[1]).__name__ == "LlamaDecoderLayer"


def test_patching_again_reads_the_layers_anew():
    model = tiny("llama")
    patch_model(model, DEVICE, force=True)
    patch_layers(model, DEVICE, force=True)
    before = layers_of(model)[0].evenfall
    (part,) = patch_layers(model, DEVICE, force=True)
    assert part.fast and layers_of(model)[0].evenfall is not before


def test_other_families_and_cpus_are_left_alone():
    config = SimpleNamespace(model_type="gemma2")
    assert patch_layers(SimpleNamespace(config=config), DEVICE) == []
    model = tiny("llama")
    (part,) = patch_layers(model, "cpu")
    assert not part.fast and part.reason == "stock: no GPU" and part.count == 2


def test_recompute_is_the_fast_layers_own():
    model = tiny("llama")
    patch_layers(model, DEVICE, force=True)
    want = step(model)
    set_recompute(model, True)
    assert [layer.evenfall.level for layer in layers_of(model)] == ["layer", "layer"]
    assert not any(layer.gradient_checkpointing for layer in layers_of(model))
    got = step(model)
    assert relative_rms_error(got[0], want[0]) < 1e-6
    set_recompute(model, False)
    assert [layer.evenfall.level for layer in layers_of(model)] == ["kept", "kept"]


def test_parameters_and_gradients_are_left_alone():
    model = tiny("llama")
    model(**packed()).logits.sum().backward()
    before = {n: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for n, p in model.named_parameters()}
    patch_layers(model, DEVICE, force=True)
    for name, parameter in model.named_parameters():
        value, grad = before[name]
        assert torch.equal(parameter, value)
        if grad is None or parameter.grad is None:
            assert grad is parameter.grad
        else:
            assert torch.equal(parameter.grad, grad)


def test_layers_that_cannot_be_read_stay_stock_and_say_why():
    model = tiny("llama")
    first, second = layers_of(model)
    first.forward = first.forward  # as accelerate replaces it for several devices
    second.self_attn.q_proj = torch.nn.Identity()
    parts = patch_layers(model, DEVICE, force=True)
    reasons = sorted(part.reason for part in parts)
    assert len(parts) == 2 and not any(part.fast for part in parts)
    assert "AttributeError" in reasons[0] and "forward was replaced" in reasons[1]


def test_two_active_adapters_are_left_to_peft():
    model = tiny("llama")
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model.add_adapter("other", lora)
    model.base_model.set_adapter(["default", "other"])
    (part,) = patch_layers(model, DEVICE, force=True)
    assert not part.fast and "2 active adapters" in part.reason and part.count == 2
