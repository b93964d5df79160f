"""A fast decoder layer computes what the stock one does, forward and backward, whatever it saves."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_layers import DEVICE, FAMILIES, OUR_KERNEL, SIZES, packed, step, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from evenfall.engine.model.families.fast_layer import FastDecoderLayer
from evenfall.engine.model.families.llama import read_llama_layer
from evenfall.engine.model.families.projections import NotFast
from evenfall.engine.model.families.table import FAMILIES as FAMILIES_TABLE
from evenfall.engine.model.layers import attention as layer_attention
from evenfall.engine.model.layers.decoder import ActivationLevel, Stream
from evenfall.engine.model.patch.proof import fast_class
from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.backend import triton_runs_on
from evenfall.kernels.qlora import Workspace

pytestmark = pytest.mark.skipif(
    not triton_runs_on(DEVICE), reason="no GPU: needs Triton's interpreter, TRITON_INTERPRET=1"
)


def fast(model, level: ActivationLevel = "kept"):
    """The same model on fast layers."""
    model = copy.deepcopy(model)
    workspace, stream = Workspace(), Stream()
    for layer in model.get_base_model().model.layers:
        layer.evenfall = FAMILIES_TABLE[model.config.model_type].read(layer, workspace, stream, torch.float32)
        layer.evenfall.level = level
        layer.evenfall.leads = layer is model.get_base_model().model.layers[0]
        layer.__class__ = fast_class(type(layer), FastDecoderLayer)
    return model


def assert_same(got, want, limit=3e-5):
    assert relative_rms_error(got[0], want[0]) < limit
    assert got[1].keys() == want[1].keys() and len(got[1]) == 28
    for name, grad in got[1].items():
        assert relative_rms_error(grad, want[1][name]) < limit, name


@pytest.mark.parametrize("level", ["kept", "cheap", "layer"])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_output_and_gradients_are_the_stock_layers(family, quantized, level):
    model = tiny(family, quantized=quantized)
    assert_same(step(fast(model, level)), step(model))


@pytest.mark.parametrize("level", ["kept", "layer"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_packed_rows_go_through_our_attention_kernel_too(family, level, monkeypatch):
    model, calls = tiny(family), []
    real = layer_attention.packed_attention_backward
    monkeypatch.setattr(
        layer_attention,
        "packed_attention_backward",
        lambda *a, **k: calls.append(1) or real(*a, **k),
    )
    assert_same(step(fast(model, level), packed(ways=OUR_KERNEL)), step(model))
    assert len(calls) == 2


def test_the_gradient_of_the_stream_is_handed_down_in_its_buffer(monkeypatch):
    """And a gradient from elsewhere, though it has the same shape, is copied."""
    model = fast(tiny("llama", num_hidden_layers=3))
    taken = []
    real = Stream.take
    monkeypatch.setattr(Stream, "take", lambda *a: taken.append(real(*a)) or taken[-1])
    step(model)
    assert [buffer is not None for buffer in taken] == [False, True, True]
    stream = Stream()
    buffer = torch.zeros(4, 10)
    stream.give(buffer)
    assert stream.take(torch.zeros(4, 10)[:, :8]) is None
    assert stream.take(buffer[:, :8]) is None  # given once, asked for once
    stream.give(buffer)
    assert stream.take(buffer[:, :8]) is buffer


@pytest.mark.parametrize("implementation", ["sdpa", "evenfall_packed"])
def test_a_padded_batch_goes_through_the_models_own_attention(implementation):
    model = tiny("llama", implementation=implementation)
    ids = torch.arange(24, device=DEVICE).reshape(2, 12) % 50 + 3
    batch = {"input_ids": ids, "use_cache": False}
    if implementation == "sdpa":
        mask = torch.ones_like(ids)
        mask[1, 8:] = 0
        batch["attention_mask"] = mask
    assert_same(step(fast(model), batch), step(model, batch))


@pytest.mark.parametrize("level", ["cheap", "layer"])
def test_dropout_is_the_same_however_little_is_saved(level):
    model = tiny("llama", dropout=0.4)
    torch.manual_seed(7)
    want = step(fast(model, "kept"))
    torch.manual_seed(7)
    assert_same(step(fast(model, level)), want, 1e-6)
    torch.manual_seed(8)
    assert relative_rms_error(step(fast(model, level))[0], want[0]) > 1e-2


def test_evaluation_has_no_dropout():
    model = tiny("llama", dropout=0.4).eval()
    with torch.no_grad():
        want, got = model(**packed()).logits, fast(model)(**packed()).logits
    assert relative_rms_error(got, want) < 1e-5


def test_gradients_flow_in_evaluation_too():
    model = tiny("llama", dropout=0.4).eval()
    assert_same(step(fast(model, "cheap")), step(model))


def test_less_is_saved_at_each_level():
    def saved(level):
        sizes = {}
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t,
            lambda t: t,
        )
        with hooks:
            fast(model, level)(**packed())
        return sum(sizes.values())

    model = tiny("llama")
    kept, cheap, layer = (saved(level) for level in ("kept", "cheap", "layer"))
    assert layer < 0.4 * cheap and cheap < 0.9 * kept


def test_recompute_as_stock_trainers_switch_it_on_gives_the_same():
    model = tiny("llama")
    patched = fast(model)
    for one in (patched, model):
        one.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
        one.enable_input_require_grads()
    assert_same(step(patched), step(model))


def test_accumulated_gradients_add_up():
    model = tiny("llama")
    batches = [packed(0), packed(1)]

    def both(one):
        for batch in batches:
            one(**batch).logits.square().mean().backward()
        return {n: p.grad for n, p in one.named_parameters() if p.grad is not None}

    got, want = both(fast(model)), both(model)
    assert all(relative_rms_error(got[name], want[name]) < 1e-5 for name in want)


@pytest.mark.parametrize("level", ["kept", "layer"])
def test_gradients_may_be_added_up_by_the_layer_itself(level):
    model = fast(tiny("qwen2"), level)
    plain, gathering = copy.deepcopy(model), copy.deepcopy(model)
    for layer in gathering.get_base_model().model.layers:
        layer.evenfall.accumulate = True
    grads = []
    for one in (plain, gathering):
        parameters = [p for p in one.parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        for seed in range(2):
            one(**packed(seed)).logits.square().sum().backward()
        grads.append([p.grad for p in parameters])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_adapters_off_is_the_base_model():
    model = tiny("llama")
    patched = fast(model)
    with model.disable_adapter():
        want = model(**packed()).logits
    with patched.disable_adapter():
        got = patched(**packed()).logits
    assert torch.equal(got, want)
    assert relative_rms_error(patched(**packed()).logits, want) > 1e-2


def test_another_adapter_is_not_taken_for_the_first():
    model = tiny("llama")
    patched = fast(model)
    for one in (patched, model):
        torch.manual_seed(5)
        one.add_adapter("other", LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    first = patched(**packed()).logits
    patched.set_adapter("other")
    model.set_adapter("other")
    want, got = model(**packed()).logits, patched(**packed()).logits
    assert relative_rms_error(got.detach(), want.detach()) < 1e-5
    assert relative_rms_error(got.detach(), first.detach()) > 1e-2


def test_parameters_put_in_place_of_others_are_noticed():
    model = tiny("llama")
    patched = fast(model)
    patched(**packed())
    for one in (patched, model):
        torch.manual_seed(6)
        for name, module in one.named_modules():
            if name.endswith("lora_B.default"):
                module.weight = torch.nn.Parameter(torch.randn_like(module.weight))
        one.get_base_model().model.layers[1].mlp.down_proj.scaling["default"] = 0.7
    assert_same(step(patched), step(model))


def test_hooks_on_a_projection_are_called():
    model = fast(tiny("llama"))
    seen = []
    projection = model.get_base_model().model.layers[1].self_attn.q_proj
    projection.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    model(**packed())
    assert len(seen) == 1


def test_a_first_layer_that_falls_back_leaves_the_others_fresh():
    model = tiny("llama")
    patched = fast(model)
    patched(**packed())
    layer = patched.get_base_model().model.layers[0]
    layer.self_attn.q_proj.register_forward_hook(lambda *_: None)
    with torch.no_grad():
        for one in (patched, model):
            for name, parameter in one.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(1.5)
    assert_same(step(patched), step(model))


def test_autocast_to_another_dtype_is_the_stock_layers():
    model = tiny("llama")
    patched = fast(model)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        want, got = step(model), step(patched)
    assert torch.equal(got[0], want[0])


def test_autocast_to_the_layers_own_dtype_changes_nothing():
    model = fast(tiny("llama"))
    want = step(model)
    with torch.autocast(DEVICE, dtype=torch.float16, enabled=False):
        assert_same(step(model), want, 1e-6)


def test_a_first_forward_in_inference_mode_spoils_nothing():
    model = tiny("llama", quantized=True)
    patched = fast(model)
    for layer in patched.get_base_model().model.layers[:1]:
        for group in layer.evenfall.parts.groups:
            group.keep_weights(True)
    with torch.inference_mode():
        patched(**packed())
    assert_same(step(patched), step(model))


def test_the_gradient_of_a_sum_of_a_layers_output_is_right():
    """It comes as one number, expanded."""
    model = tiny("llama")
    results = []
    for one in (fast(model), model):
        layer = one.get_base_model().model.layers[0]
        hidden = torch.randn(1, 24, 64, generator=torch.Generator().manual_seed(2)).to(DEVICE)
        hidden.requires_grad_()
        batch = packed()
        embeddings = one.get_base_model().model.rotary_emb(hidden, batch["position_ids"])
        out = layer(hidden, position_embeddings=embeddings, documents=batch["documents"])
        results.append(torch.autograd.grad(out.sum(), hidden)[0])
    assert relative_rms_error(results[0], results[1]) < 1e-5


def test_adapters_in_some_layers_alone_train_them():
    model = fast(tiny("llama", target_modules=r".*layers\.0\..*(q|v)_proj"))
    for layer in model.get_base_model().model.layers:
        layer.evenfall.accumulate = True
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert len(parameters) == 4
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    model(**packed()).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in parameters)


def test_a_window_that_the_stock_layer_ignores_is_ignored():
    model = tiny("llama", sliding_window=3)
    assert_same(step(fast(model)), step(model))


def test_states_that_are_dropped_free_their_memory_at_once():
    model = fast(tiny("llama", quantized=True))
    model(**packed())
    layers = model.get_base_model().model.layers
    gone = weakref.ref(layers[0].evenfall.parts.qkv._workspace)
    gc.disable()
    try:
        for layer in layers:
            del layer.evenfall
        assert gone() is None
    finally:
        gc.enable()


def test_generation_with_a_cache_is_the_stock_models():
    model = tiny("llama", implementation="sdpa").eval()
    ids = torch.tensor([[5, 6, 7, 8]], device=DEVICE)
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": True}
    assert torch.equal(fast(model).generate(ids, **options), model.generate(ids, **options))


def test_an_exchanged_module_is_noticed():
    model = tiny("llama")
    patched = fast(model)
    for one in (model, patched):
        torch.manual_seed(9)
        one.get_base_model().model.layers[0].mlp.up_proj = torch.nn.Linear(64, 128, bias=False)
    got, want = patched(**packed()).logits, model(**packed()).logits
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layer: setattr(layer.mlp, "act_fn", torch.nn.GELU()), "GELU, not silu"),
        (lambda layer: layer.mlp.up_proj.base_layer.requires_grad_(True), "up_proj itself"),
        (lambda layer: layer.input_layernorm.requires_grad_(True), "norms are trained"),
        (lambda layer: setattr(layer.self_attn, "attention_dropout", 0.1), "attention has dropout"),
    ],
)
def test_what_has_no_place_is_named(change, reason):
    layer = tiny("llama").get_base_model().model.layers[0]
    change(layer)
    with pytest.raises(NotFast, match=reason):
        read_llama_layer(layer, Workspace(), Stream(), torch.float32)


def test_dora_is_left_to_peft():
    config = LoraConfig(r=4, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(0)
    fresh = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SIZES))
    adapted: Any = get_peft_model(fresh.requires_grad_(False), config)
    layer = adapted.get_base_model().model.layers[0]
    with pytest.raises(NotFast, match="q_proj has an adapter that is not plain LoRA"):
        read_llama_layer(layer, Workspace(), Stream(), torch.float32)
