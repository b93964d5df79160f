"""QLoRA projections against PEFT's own layers: numbers, gradients, and what must not be computed or kept."""

from typing import Any

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, get_peft_model
from torch import nn

from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.nf4 import NF4Weight
from evenfall.kernels.qlora import Projection, ProjectionGroup, Workspace, project

IN = 64


def stock(widths, *, rank=4, bias=False, quantized=True, rslora=False, dtype=torch.float32, seed=0):
    """Layers `p0`, `p1`, ... of one input, with PEFT's adapters whose B is not zero."""
    torch.manual_seed(seed)
    layers = {}
    for index, width in enumerate(widths):
        dense = nn.Linear(IN, width, bias=bias)
        if quantized:
            layer = Linear4bit(
                IN,
                width,
                bias=bias,
                compute_dtype=dtype,
                quant_type="nf4",
                compress_statistics=True,
            )
            layer.load_state_dict(dense.state_dict())
            dense = layer.to("cpu")
            dense.support_avx512bf16_for_cpu = False  # its kernel for evaluation has no backward
        layers[f"p{index}"] = dense if quantized else dense.to(dtype)
    config = LoraConfig(r=rank, lora_alpha=6, target_modules=list(layers), use_rslora=rslora, lora_dropout=0.0)
    model = get_peft_model(nn.ModuleDict(layers), config)  # pyright: ignore[reportArgumentType]
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) / 5
    adapted: Any = model.base_model.model
    return [adapted[name] for name in layers]


def group_of(layers, dtype=torch.float32, **options):
    """The same as a group that shares the layers' parameters."""
    projections = []
    for layer in layers:
        base = layer.base_layer
        quantized = isinstance(base, Linear4bit)
        projections.append(
            Projection(
                weight=NF4Weight.of(base.weight) if quantized else base.weight,
                bias=base.bias,
                lora_a=layer.lora_A["default"].weight,
                lora_b=layer.lora_B["default"].weight,
                scaling=layer.scaling["default"],
            )
        )
    return ProjectionGroup(projections, dtype, Workspace(), **options)


def run(layers, function, x, dout):
    """Output, gradient of x, gradients of the adapters."""
    leaf = x.detach().clone().requires_grad_()
    parameters = [w for layer in layers for w in (layer.lora_A["default"].weight, layer.lora_B["default"].weight)]
    for parameter in parameters:
        parameter.grad = None
    out = function(leaf)
    out.backward(dout)
    return [out.detach(), leaf.grad, *[parameter.grad for parameter in parameters]]


def both(layers, group, x, dout):
    def eager(leaf):
        return torch.cat([layer(leaf) for layer in layers], dim=-1)

    return run(layers, eager, x, dout), run(layers, lambda leaf: project(leaf, group), x, dout)


@pytest.mark.parametrize("rank", [1, 7, 16, 33])
@pytest.mark.parametrize("widths", [(48,), (96, 32, 32), (40, 40)], ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
def test_numbers_and_gradients_are_pefts(widths, rank, bias, quantized):
    layers = stock(widths, rank=rank, bias=bias, quantized=quantized)
    x, dout = torch.randn(2, 11, IN), torch.randn(2, 11, sum(widths))
    want, got = both(layers, group_of(layers), x, dout)
    for expected, value in zip(want, got, strict=True):
        assert value.shape == expected.shape and value.dtype == expected.dtype
        assert relative_rms_error(value, expected) < 2e-6


def test_rslora_only_changes_the_factor():
    layers = stock((48, 32), rank=9, rslora=True)
    assert layers[0].scaling["default"] == 2.0
    x, dout = torch.randn(5, IN), torch.randn(5, 80)
    want, got = both(layers, group_of(layers), x, dout)
    assert all(relative_rms_error(a, b) < 2e-6 for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_is_as_close_to_exact_as_peft(dtype):
    layers = stock((96, 32, 32), rank=8, quantized=False, dtype=dtype)
    x, dout = torch.randn(64, IN).to(dtype), torch.randn(64, 160).to(dtype)
    want, got = both(layers, group_of(layers, dtype), x, dout)
    exact = stock((96, 32, 32), rank=8, quantized=False)
    for layer, other in zip(exact, layers, strict=True):
        layer.base_layer.weight.data = other.base_layer.weight.data.float()
    truth, _ = both(exact, group_of(exact), x.float(), dout.float())
    rounding = torch.finfo(dtype).eps / 2
    for value, eager, true in zip(got, want, truth, strict=True):
        # The adapter is rounded to 16 bits here, which PEFT with float32 adapters does not do.
        allowed = max(1.05 * relative_rms_error(eager, true), 2.5 * rounding)
        assert relative_rms_error(value, true) <= allowed


def test_a_layer_without_an_adapter_may_stand_in_a_group():
    layers = stock((48, 32, 16), rank=4, bias=True)
    plain = layers[1].base_layer
    group = group_of(layers)
    projections = list(group.projections)
    projections[1] = Projection(weight=NF4Weight.of(plain.weight), bias=plain.bias)
    group = ProjectionGroup(projections, torch.float32, Workspace())
    x, dout = torch.randn(9, IN), torch.randn(9, 96)
    layers = [layers[0], layers[2]]
    want = run(layers, lambda t: torch.cat([layers[0](t), plain(t), layers[1](t)], -1), x, dout)
    got = run(layers, lambda t: project(t, group), x, dout)
    assert len(got) == 6
    assert all(relative_rms_error(a, b) < 2e-6 for a, b in zip(got, want, strict=True))


def test_no_adapter_at_all_is_the_base_layer():
    base = stock((48,))[0].base_layer
    group = ProjectionGroup([Projection(weight=NF4Weight.of(base.weight))], torch.float32, Workspace())
    x = torch.randn(9, IN, requires_grad=True)
    assert group.extra == 0
    torch.testing.assert_close(project(x, group), base(x))
    (dx,) = torch.autograd.grad(project(x, group).sum(), x)
    (want,) = torch.autograd.grad(base(x).sum(), x)
    torch.testing.assert_close(dx, want)


@pytest.mark.parametrize("cached", [False, True])
def test_a_changed_adapter_is_seen(cached):
    layers = stock((48, 32))
    group = group_of(layers)
    group.keep_weights(cached)
    x = torch.randn(9, IN)
    before = project(x, group)
    with torch.no_grad():
        layers[1].lora_B["default"].weight.add_(1.0)
    after = project(x, group)
    assert torch.equal(before[:, :48], after[:, :48])
    torch.testing.assert_close(after[:, 48:], layers[1](x))


def test_groups_of_one_size_take_turns_in_one_workspace():
    workspace = Workspace()
    pairs = [stock((48, 32), seed=seed) for seed in (0, 1)]
    groups = [ProjectionGroup(group_of(layers).projections, torch.float32, workspace) for layers in pairs]
    x, dout = torch.randn(9, IN), torch.randn(9, 80)
    leaf = x.clone().requires_grad_()
    outs = [project(leaf, group) for group in groups]
    torch.autograd.backward(outs, [dout, dout])
    want = torch.zeros_like(x)
    for layers in pairs:
        want += both(layers, group_of(layers), x, dout)[0][1]
    torch.testing.assert_close(leaf.grad, want)
    assert len(workspace._matrices) == 1


def test_kept_weights_give_the_same_bits():
    layers = stock((48, 32))
    group = group_of(layers)
    x, dout = torch.randn(9, IN), torch.randn(9, 80)
    _, fresh = both(layers, group, x, dout)
    group.keep_weights(True)
    for _ in range(2):
        _, kept = both(layers, group, x, dout)
        assert all(torch.equal(a, b) for a, b in zip(fresh, kept, strict=True))
    group.keep_weights(False)
    assert group._kept is None


def test_dropout_acts_on_the_adapters_input_alone():
    layers = stock((48, 32), rank=4)
    group = group_of(layers, dropout=0.3)
    x, dout = torch.randn(400, IN), torch.randn(400, 80)
    torch.manual_seed(5)
    got = run(layers, lambda t: project(t, group), x, dout)
    torch.manual_seed(5)
    _, mask = torch.native_dropout(x, 0.3, True)
    assert 0.25 < 1 - mask.float().mean() < 0.35

    def eager(leaf):
        scale = mask / 0.7
        outs = []
        for layer in layers:
            a, b = layer.lora_A["default"], layer.lora_B["default"]
            outs.append(layer.base_layer(leaf) + b(a(leaf * scale)) * layer.scaling["default"])
        return torch.cat(outs, dim=-1)

    want = run(layers, eager, x, dout)
    assert all(relative_rms_error(a, b) < 2e-6 for a, b in zip(got, want, strict=True))


def test_an_input_that_needs_no_gradient_costs_no_matmul_for_one(monkeypatch):
    layers = stock((48,))
    group = group_of(layers)
    out = project(torch.randn(9, IN), group)
    shapes = []
    real = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, **o: shapes.append(b.shape) or real(a, b, **o))
    out.sum().backward()
    assert (48 + group.extra, IN) not in shapes
    assert layers[0].lora_A["default"].weight.grad is not None


def test_what_does_not_fit_is_refused():
    group = group_of(stock((48,)))
    with pytest.raises(ValueError, match=r"project: x must be \[\.\.\., 64\] torch\.float32"):
        project(torch.randn(3, IN + 1), group)
    with pytest.raises(ValueError, match=r"torch\.float16"):
        project(torch.randn(3, IN).half(), group)
    with pytest.raises(ValueError, match="one or more projections of one input"):
        ProjectionGroup([], torch.float32, Workspace())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_input_from_elsewhere_is_carried_like_one_that_was_written(bias, dropout):
    (layer,) = stock([48], bias=bias)
    group = group_of([layer], dropout=dropout)
    group.refresh()
    source = torch.randn(7, IN)
    written, copied = group.input_buffer(7), group.input_buffer(7).zero_()
    written.zero_()[:, :IN] = source
    mask = group.carry(written)
    group.carry_from(source, copied, mask)
    torch.testing.assert_close(copied, written)
    assert written[:, IN:].abs().sum() > 0
