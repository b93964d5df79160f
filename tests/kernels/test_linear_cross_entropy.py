"""The frozen loss head: numbers, FLOPs, memory and edge cases against the formula with all logits."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from evenfall.kernels import linear_cross_entropy as module
from evenfall.kernels.accuracy import FLOOR, MARGIN, compare, relative_rms_error
from evenfall.kernels.linear_cross_entropy import (
    linear_cross_entropy,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
    linear_cross_entropy_reference,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPTIONS = {
    "plain": {},
    "soft-cap": {"softcap": 30.0},
    "scale": {"logit_scale": 1 / 16},
    "soft-cap and scale": {"softcap": 2.0, "logit_scale": 1 / 16},
}


@pytest.fixture(params=["triton", "torch"], autouse=True)
def path(request, device, monkeypatch):
    """Every test runs with the kernel and with plain torch, which CPUs and other dtypes take."""
    if request.param == "torch":
        monkeypatch.setattr(module, "takes_triton", lambda *tensors: False)
    return request.param


class Watch(TorchDispatchMode):
    """Names of the operations, and bytes of the largest tensor that one of them made."""

    def __init__(self):
        super().__init__()
        self.names = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and not func.is_view:
                self.largest = max(self.largest, tensor.nbytes)
        return out


def normal(device, *shape, dtype=torch.float32, seed=0):
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=device).to(dtype)


def head(device, rows, columns, vocabulary, dtype=torch.float32, spread=3.0):
    """Hidden states, weight and labels whose logits have about the standard deviation `spread`."""
    hidden = (normal(device, rows, columns) * spread / math.sqrt(columns)).to(dtype)
    weight = normal(device, vocabulary, columns, dtype=dtype, seed=1)
    generator = torch.Generator(device).manual_seed(2)
    labels = torch.randint(vocabulary, (rows,), generator=generator, device=device)
    return hidden, weight, labels


def naive(hidden, weight, labels, bias=None, softcap=None, logit_scale=1.0):
    """The formula, all logits at once; float64 operands stay float64."""
    logits = hidden @ weight.T
    logits = logits if bias is None else torch.addmm(bias, hidden, weight.T)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = logits * logit_scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, labels, reduction="none")


def judge(hidden, weight, labels, bias=None, **options):
    """Losses and gradient against eager's, with upstream gradients of one and of all sizes."""

    def fast(hidden):
        return linear_cross_entropy(hidden, weight, labels, bias=bias, **options)

    def eager(hidden):
        others = [None if t is None else t.to(hidden.dtype) for t in (weight, bias)]
        return naive(hidden, others[0], labels, others[1], **options)

    def gradient(part, hidden):
        leaf = hidden.detach().requires_grad_()
        return torch.autograd.grad(part(leaf).sum(), leaf)[0]

    generator = torch.Generator(hidden.device).manual_seed(3)
    out, grad = compare(fast, eager, {"hidden": hidden}, generator)
    assert (out.tensor, grad.tensor) == ("out", "grad hidden")
    assert out.passed, out
    # Rounded when it is stored and when it is scaled; eager rounds once.
    assert grad.error <= math.hypot(MARGIN * grad.eager_error, grad.rounding) + FLOOR, grad
    truth = gradient(eager, hidden.double())
    error, eager_error = (relative_rms_error(gradient(part, hidden), truth) for part in (fast, eager))
    assert error <= max(MARGIN * eager_error, grad.rounding) + FLOOR


def gradients(hidden, *args, dloss=None, **options):
    hidden = hidden.detach().requires_grad_()
    loss = linear_cross_entropy(hidden, *args, **options)
    dloss = torch.ones_like(loss) if dloss is None else dloss
    return loss.detach(), *torch.autograd.grad(loss, hidden, dloss)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 1), (3, 8, 7), (67, 24, 507), (5, 64, 1088), (3, 16, 32003)], ids=str)
def test_losses_and_gradient_are_as_close_as_eager(device, shape, dtype):
    judge(*head(device, *shape, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_as_close_as_eager(device, options, with_bias, dtype):
    operands = head(device, 35, 24, 507, dtype=dtype, spread=20.0)
    bias = normal(device, 507, dtype=dtype, seed=4) * 5 if with_bias else None
    judge(*operands, bias=bias, **options)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 200.0])
def test_soft_cap_is_as_close_as_eager_from_tiny_to_saturated_logits(device, spread):
    judge(*head(device, 35, 24, 507, spread=spread), softcap=30.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_rounds_where_the_reference_does_and_that_where_transformers_does(device, options, dtype):
    from transformers.loss.loss_utils import ForCausalLMLoss

    # Products and sums of eighths are exact in fp32, whatever the order: only rounding remains.
    hidden, weight, labels = (
        (t * 8).round() / 8 if t.is_floating_point() else t for t in head(device, 20, 48, 300, dtype=dtype, spread=8.0)
    )
    got = linear_cross_entropy(hidden, weight, labels, **options)
    want = linear_cross_entropy_reference(hidden, weight, labels, **options)
    torch.testing.assert_close(got, want, rtol=2e-6, atol=2e-6)
    if not options:
        stock = ForCausalLMLoss(hidden @ weight.T, None, 300, shift_labels=labels)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(want.mean(), stock)


def test_chunks_do_not_change_the_numbers(device):
    operands = head(device, 150, 8, 70)
    dloss = normal(device, 150, seed=4)
    one, many = Watch(), Watch()
    with one:
        want = gradients(*operands, dloss=dloss)
    with many:
        got = gradients(*operands, dloss=dloss, chunk_bytes=1)
    assert one.names.count("mm") == 2 and many.names.count("mm") == 2 * 3  # 64, 64 and 22 rows
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 128, 300, 2049, 8192])
def test_chunks_are_few_and_even_and_within_their_bytes(rows):
    for most in (0, 1, 64, 100, 128, 200, 256, 2048, 100_000):
        step = module._chunk_rows(rows, 1000, most * 1000 + 999)
        granule = 128 if most >= 128 else 64
        chunks = math.ceil(rows / step)
        assert chunks == math.ceil(rows / max(64, most // granule * granule))
        assert step <= max(64, most) and (step == rows or step % granule == 0)
        assert 1 <= step < rows / chunks + granule


def test_gradient_of_a_dpo_loss_equals_autograd_through_the_formula(device):
    hidden, weight, labels = head(device, 48, 16, 211)
    answer = torch.arange(48, device=device) // 6  # 8 answers of 6 tokens; chosen, rejected, ...
    reference = normal(device, 4, seed=5)

    def dpo(loss):
        logps = loss.new_zeros(8).index_add(0, answer, -loss).view(4, 2)
        margin = logps[:, 0] - logps[:, 1] - reference.to(loss.dtype)
        return -F.logsigmoid(0.1 * margin).mean()

    fast, truth = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    loss = dpo(linear_cross_entropy(fast, weight, labels, softcap=30.0, chunk_bytes=1))
    want = dpo(naive(truth, weight.double(), labels, softcap=30.0))
    loss.backward()
    want.backward()
    assert fast.grad is not None and truth.grad is not None
    assert relative_rms_error(loss.detach(), want.detach()) < 1e-6
    assert relative_rms_error(fast.grad, truth.grad) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_to_ignore_cost_nothing_and_get_zeros_even_where_they_hold_nan(device, dtype):
    hidden, weight, labels = head(device, 20, 16, 90, dtype=dtype)
    want = gradients(hidden, weight, labels)
    ignored = torch.arange(20, device=device) % 3 == 0
    hidden = hidden.masked_fill(ignored[:, None], float("nan"))
    labels = labels.masked_fill(ignored, -100)
    for got, before in zip(gradients(hidden, weight, labels), want, strict=True):
        assert torch.equal(got[ignored], torch.zeros_like(got[ignored]))
        torch.testing.assert_close(got[~ignored], before[~ignored])
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, labels)
    assert torch.equal(loss[ignored], torch.zeros_like(loss[ignored]))


def test_another_ignore_index_may_be_a_token_of_the_vocabulary(device):
    hidden, weight, labels = head(device, 9, 8, 30)
    labels[4] = 0
    loss, grad = gradients(hidden, weight, labels, ignore_index=0)
    zero = labels == 0
    assert not loss[zero].any() and not grad[zero].any() and (loss[~zero] > 0).all()


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("label", [-1, 30, -101, 1 << 40])
def test_label_outside_the_vocabulary_gives_nan_in_its_row_alone(device, label, softcap):
    hidden, weight, labels = head(device, 5, 8, 30)
    want = gradients(hidden, weight, labels, softcap=softcap)
    labels[2] = label
    got = gradients(hidden, weight, labels, softcap=softcap)
    others = torch.arange(5, device=device) != 2
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a[others], b[others]) and a[2].isnan().all()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's, in the interpreter
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_logits_stay_finite(device, dtype, softcap):
    hidden = torch.tensor([[1e4], [-1e4], [1e4]], device=device, dtype=dtype)
    weight = torch.tensor([[1.0], [-1.0], [0.0], [0.5]], device=device, dtype=dtype)
    labels = torch.tensor([0, 0, 1], device=device)
    loss, grad = gradients(hidden, weight, labels, softcap=softcap)
    leaf = hidden.clone().requires_grad_()
    want = naive(leaf, weight, labels, softcap=softcap)
    torch.testing.assert_close(loss, want.detach())
    torch.testing.assert_close(grad, torch.autograd.grad(want.sum(), leaf)[0])
    assert softcap is not None or loss[1].item() == pytest.approx(2e4, rel=5e-3)


def test_minus_infinity_in_the_bias_forbids_tokens(device):
    hidden, weight, labels = head(device, 6, 8, 40)
    bias = torch.zeros(40, device=device)
    bias[20:] = float("-inf")
    got = gradients(hidden, weight, labels % 20, bias=bias)
    want = gradients(hidden, weight[:20], labels % 20)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_forward_takes_4mhv_flops_with_the_gradient_2mhv_without_and_backward_none(device):
    hidden, weight, labels = head(device, 70, 8, 90)
    matmul = 2 * 70 * 8 * 90
    leaf = hidden.clone().requires_grad_()
    with FlopCounterMode(display=False) as forward:
        loss = linear_cross_entropy(leaf, weight, labels, chunk_bytes=1)
    with FlopCounterMode(display=False) as backward:
        loss.sum().backward()
    with FlopCounterMode(display=False) as constant:
        linear_cross_entropy(hidden, weight, labels, chunk_bytes=1)
    with FlopCounterMode(display=False) as evaluation, torch.no_grad():
        assert not linear_cross_entropy(leaf, weight, labels, chunk_bytes=1).requires_grad
    counted = [c.get_total_flops() for c in (forward, backward, constant, evaluation)]
    assert counted == [2 * matmul, 0, matmul, matmul]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_no_tensor_is_larger_than_a_chunk_of_logits(device, options):
    operands = head(device, 130, 8, 250)
    with Watch() as watch:
        gradients(*operands, chunk_bytes=1, **options)
    assert 64 * 250 * 4 <= watch.largest <= 64 * 256 * 4  # rows of the buffer are padded


def test_evaluation_needs_one_chunk_and_the_losses(device):
    hidden, weight, labels = head(device, 80, 500, 10)
    with Watch() as watch:
        linear_cross_entropy(hidden, weight, labels)
    assert watch.largest == 80 * 64 * 4  # not [80, 500]: no gradient is kept


def test_only_the_unit_gradient_is_saved(device):
    hidden, weight, labels = head(device, 30, 16, 50, dtype=torch.bfloat16)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        linear_cross_entropy(hidden.requires_grad_(), weight, labels)
    assert [(t.shape, t.dtype) for t in saved] == [((30, 16), torch.bfloat16)]


def test_nothing_asks_the_device_for_a_value(device):
    hidden, weight, labels = head(device, 70, 8, 50)
    with Watch() as watch:
        gradients(hidden, weight, labels, softcap=30.0, chunk_bytes=1)
    syncs = {"_local_scalar_dense", "item", "nonzero", "masked_select", "index", "is_nonzero"}
    assert watch.names and not syncs & set(watch.names)


@pytest.mark.parametrize("layout", ["slice", "transposed", "strided labels", "expanded"])
def test_strides_do_not_change_the_numbers(device, layout):
    hidden, weight, labels = head(device, 20, 48, 33)
    if layout == "slice":
        hidden = normal(device, 20, 100)[:, 10:58]
    elif layout == "transposed":
        hidden, weight = normal(device, 48, 20).t(), normal(device, 48, 33, seed=1).t()
    elif layout == "strided labels":
        labels = torch.stack([labels, labels], 1)[:, 1]
    else:
        hidden = normal(device, 1, 48).expand(20, 48)
    dloss = normal(device, 20, 2, seed=2)[:, 1]
    got = gradients(hidden, weight, labels, dloss=dloss)
    want = gradients(hidden.contiguous(), weight.contiguous(), labels.contiguous(), dloss=dloss)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_operands_and_stored_gradient_are_left_alone(device):
    hidden, weight, labels = head(device, 20, 16, 50)
    before = [t.clone() for t in (hidden, weight, labels)]
    leaf = hidden.requires_grad_()
    loss = linear_cross_entropy(leaf, weight, labels)
    (first,) = torch.autograd.grad(loss.sum(), leaf, retain_graph=True)
    (second,) = torch.autograd.grad(2 * loss.sum(), leaf)
    assert torch.equal(2 * first, second)
    assert all(torch.equal(a, b) for a, b in zip((hidden, weight, labels), before, strict=True))


def test_raw_functions_are_the_two_halves_of_the_public_one(device):
    hidden, weight, labels = head(device, 20, 16, 50, dtype=torch.bfloat16)
    dloss = normal(device, 20, seed=4)
    want = gradients(hidden, weight, labels, dloss=dloss, softcap=30.0)
    leaf = hidden.requires_grad_()  # no graph may grow from it
    loss, dhidden = linear_cross_entropy_forward(leaf, weight, labels, want_gradient=True, softcap=30.0)
    assert dhidden is not None and dhidden.dtype == torch.bfloat16 and not loss.requires_grad
    assert loss.dtype == torch.float32 and torch.equal(loss, want[0])
    assert torch.equal(linear_cross_entropy_backward(dhidden, dloss), want[1])
    exact = (dhidden.double() * dloss.double()[:, None]).to(torch.bfloat16)
    assert torch.equal(want[1], exact)  # one rounding
    loss, dhidden = linear_cross_entropy_forward(leaf, weight, labels, want_gradient=False, softcap=30.0)
    assert dhidden is None and torch.equal(loss, want[0])


def test_no_rows(device):
    hidden, weight, labels = head(device, 0, 8, 30)
    loss, grad = gradients(hidden, weight, labels)
    assert loss.shape == (0,) and loss.dtype == torch.float32 and grad.shape == (0, 8)


def test_float64_is_computed_in_float64(device):
    hidden, weight, labels = head(device, 10, 8, 30, dtype=torch.float64)
    leaf = hidden.requires_grad_()
    loss = linear_cross_entropy(leaf, weight, labels, softcap=5.0)
    want = naive(leaf, weight, labels, softcap=5.0)
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, want)
    got = torch.autograd.grad(loss.sum(), leaf)
    torch.testing.assert_close(got, torch.autograd.grad(want.sum(), leaf))


def test_second_derivatives_are_refused_not_wrong(device):
    hidden, weight, labels = head(device, 3, 8, 30)
    loss = linear_cross_entropy(hidden.requires_grad_(), weight, labels)
    (grad,) = torch.autograd.grad(loss.square().sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.ones(7, 8, requires_grad=True)}, "frozen head"),
        ({"bias": torch.ones(7, requires_grad=True)}, "frozen head"),
        ({"hidden": torch.ones(1, 3, 8)}, r"needs hidden \[M, H\] .* hidden is \(1, 3, 8\)"),
        ({"weight": torch.ones(7, 9)}, r"weight is \(7, 9\)"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, r"one int64 label .* labels is \(4,\)"),
        ({"labels": torch.zeros(3, dtype=torch.int32)}, "one int64 label .* torch.int32"),
        ({"bias": torch.ones(8)}, r"needs bias \[V\]; .* bias is \(8,\)"),
        ({"weight": torch.ones(7, 8).half()}, r"one dtype; hidden is torch.float32"),
        ({"weight": torch.ones(7, 8, device="meta")}, "one device; .* others on .*meta"),
        ({"softcap": 0.0}, "softcap must be positive or None, not 0.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_with_its_shapes(device, changes, message):
    hidden, weight, labels = head(device, 3, 8, 7)
    operands: dict[str, Any] = {"hidden": hidden, "weight": weight, "labels": labels}
    for name, value in changes.items():
        on_device = isinstance(value, torch.Tensor) and not value.is_meta
        needs = on_device and value.requires_grad
        operands[name] = value.detach().to(device).requires_grad_(needs) if on_device else value
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**operands)
