"""The patcher: patched models compute what stock ones do, and nothing unproven is patched."""

import copy
import dataclasses
import json
from collections import Counter

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from evenfall.engine.model.families.table import FAMILIES
from evenfall.engine.model.patch import norms_and_mlps as patch
from evenfall.engine.model.patch.norms_and_mlps import patch_model
from evenfall.kernels.accuracy import relative_rms_error
from evenfall.kernels.backend import INTERPRETED, triton_runs_on

DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
pytestmark = pytest.mark.skipif(
    not triton_runs_on(DEVICE), reason="no GPU: needs Triton's interpreter, TRITON_INTERPRET=1"
)

TINY = {
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny(model_type, **changes):
    """A random model whose norm weights are, like trained ones, neither all 1 nor all 0."""
    sizes = {**TINY, **changes}
    if model_type == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 2, "image_size": 28}
        sizes = {"text_config": sizes, "vision_config": vision}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) / 5)
    return model.to(DEVICE)


def with_lora(model):
    """LoRA on every projection, with B drawn at random so that gradients reach A as well."""
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(1)
    peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return peft_model


def step(model):
    """Logits, loss and the gradients of what trains, for one small batch."""
    ids = torch.arange(40, device=DEVICE).reshape(2, 20) % 60 + 3
    out = model(input_ids=ids, labels=ids, use_cache=False)
    out.loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return out.logits.detach(), grads


def assert_same(got, want):
    assert relative_rms_error(got[0], want[0]) < 1e-5
    assert got[1].keys() == want[1].keys() and got[1]
    for name, grad in got[1].items():
        assert relative_rms_error(grad, want[1][name]) < 2e-5, name


@pytest.mark.parametrize("order", ["patch first", "adapter first"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"])
def test_patched_lora_model_computes_what_the_stock_one_does(model_type, order):
    model = tiny(model_type)
    want = step(with_lora(copy.deepcopy(model)).train())
    if order == "patch first":
        report = patch_model(model, DEVICE, force=True)
        model = with_lora(model)
    else:
        model = with_lora(model)
        report = patch_model(model, DEVICE, force=True)
    assert [p.kind for p in report.parts if p.fast]
    assert_same(step(model.train()), want)


def test_full_fine_tuning_trains_the_norm_weights_alike():
    model = tiny("llama")
    want = step(copy.deepcopy(model).train())
    patch_model(model, DEVICE, force=True)
    got = step(model.train())
    assert any("norm" in name for name in got[1])
    assert_same(got, want)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_recompute_still_happens(model_type):
    def counted(model):
        model = with_lora(model).train()
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        calls = Counter()
        for name, module in model.named_modules():
            if name.endswith((".mlp", ".input_layernorm")):
                module.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
        return step(model), calls

    model = tiny(model_type)
    want, stock_calls = counted(copy.deepcopy(model))
    patch_model(model, DEVICE, force=True)
    got, calls = counted(model)
    assert calls == stock_calls and set(calls.values()) == {2} and len(calls) == 4
    assert_same(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_report_says_what_is_fast_in_the_models_dtype(dtype):
    model = tiny("qwen3").to(getattr(torch, dtype))
    report = patch_model(with_lora(model), DEVICE, force=True)
    assert (report.model_type, report.device, report.dtype) == ("qwen3", DEVICE, dtype)
    parts = {p.name: p for p in report.parts}
    assert {name: (p.kind, p.count, p.fast) for name, p in parts.items()} == {
        "Qwen3RMSNorm 12": ("rms_norm", 4, True),
        "Qwen3RMSNorm 48": ("rms_norm", 5, True),
        "Qwen3MLP 100": ("swiglu", 2, True),
    }
    for part in report.parts:
        assert part.error is not None and part.eager_error is not None
        assert part.error < (1e-6 if dtype == "float32" else 1e-3)
    assert json.loads(json.dumps(dataclasses.asdict(report)))["parts"][2]["name"] == "Qwen3MLP 100"


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_table_is_true_of_every_family(model_type):
    """Every kind in the table with a kernel passes its check on the family's own code."""
    spec = FAMILIES[model_type]
    report = patch_model(tiny(model_type), DEVICE, force=True)
    kinds = {spec.norm, spec.mlp} - {None}
    if not kinds:  # its attention alone is ours
        assert [(p.kind, p.fast) for p in report.parts] == [("model", False)] and spec.packed
        return
    assert {p.kind for p in report.parts} == kinds
    for part in report.parts:
        no_dense_mlp = model_type == "qwen3_moe" and part.kind == "swiglu"
        assert part.count > 0 or no_dense_mlp
        assert part.fast == (part.kind in patch._FAST and not no_dense_mlp), part


@pytest.mark.parametrize("wrong", ["output", "gradient"])
def test_wrong_kernel_never_trains(monkeypatch, wrong):
    right = patch.swiglu

    def swiglu(gate, up):
        if wrong == "output":
            return right(gate, up) * 1.001
        # Right values, but no gradient through the gate.
        return right(gate, up).detach() + right(gate.detach(), up) - right(gate, up.detach()).detach()

    monkeypatch.setattr(patch, "swiglu", swiglu)
    model = tiny("llama")
    stock_class = type(model.model.layers[0].mlp)
    report = patch_model(model, DEVICE, force=True)
    fast = {p.kind: p.fast for p in report.parts}
    assert fast == {"rms_norm": True, "swiglu": False}
    (part,) = [p for p in report.parts if p.kind == "swiglu"]
    assert part.reason.startswith("stock: ") and part.count == 2
    assert all(type(layer.mlp) is stock_class for layer in model.model.layers)


def test_part_that_passed_before_and_fails_now_goes_back_to_stock(monkeypatch):
    model = tiny("llama")
    stock_class = type(model.model.norm)
    assert patch_model(model, DEVICE, force=True).parts[0].fast
    assert isinstance(model.model.norm, stock_class) and type(model.model.norm) is not stock_class
    monkeypatch.setattr(patch, "rms_norm", lambda x, weight, eps: x)
    assert not patch_model(model, DEVICE, force=True).parts[0].fast
    assert type(model.model.norm) is stock_class


def test_kernel_that_does_not_compile_leaves_the_part_stock(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("ptxas died\nwith a long log")

    monkeypatch.setattr(patch, "swiglu", broken)
    report = patch_model(tiny("llama"), DEVICE, force=True)
    (part,) = [p for p in report.parts if p.kind == "swiglu"]
    assert not part.fast and part.error is None
    assert part.reason == "stock: the proof failed with RuntimeError: ptxas died"


def test_model_that_differs_from_its_family_stays_stock():
    """A Llama configuration with another activation: the check sees it, the table does not."""
    report = patch_model(tiny("llama", hidden_act="gelu"), DEVICE, force=True)
    assert {p.kind: p.fast for p in report.parts} == {"rms_norm": True, "swiglu": False}


@pytest.mark.parametrize(
    ("model_type", "activation"),
    [
        ("gemma", {}),
        ("gemma2", {}),
        ("gemma3_text", {}),
        ("gemma2", {"hidden_activation": "gelu"}),
    ],
    ids=str,
)
def test_gelu_is_the_one_that_the_configuration_names(model_type, activation):
    model = tiny(model_type, **activation).train()
    want = step(copy.deepcopy(model))
    report = patch_model(model, DEVICE, force=True)
    (part,) = [p for p in report.parts if p.kind == "geglu"]
    assert part.fast and part.count == 2 and part.error is not None and part.error < 1e-6
    exact = bool(activation)
    taken = patch._FastExactGeGLU if exact else patch._FastGeGLU
    assert all(type(layer.mlp).forward is taken.forward for layer in model.model.layers)
    assert_same(step(model), want)


def test_configuration_that_names_the_wrong_gelu_is_found_out():
    model = tiny("gemma2")
    for layer in model.model.layers:
        layer.mlp.act_fn = torch.nn.GELU()
    report = patch_model(model, DEVICE, force=True)
    (part,) = [p for p in report.parts if p.kind == "geglu"]
    assert not part.fast and "is off by" in part.reason


def test_activation_without_a_kernel_stays_stock_and_is_named():
    model = tiny("gemma2", hidden_activation="relu")
    stock_class = type(model.model.layers[0].mlp)
    report = patch_model(model, DEVICE, force=True)
    (part,) = [p for p in report.parts if p.kind == "geglu"]
    assert (part.name, part.count, part.fast) == ("Gemma2MLP 100", 2, False)
    assert part.reason == "stock: there is no kernel for the activation 'relu'"
    assert part.error is None and part.eager_error is None
    assert all(type(layer.mlp) is stock_class for layer in model.model.layers)


def test_unknown_architecture_stays_stock():
    config = AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=64)
    model = AutoModelForCausalLM.from_config(config)
    classes = [type(m) for m in model.modules()]
    (part,) = patch_model(model, DEVICE, force=True).parts
    assert not part.fast and "'gpt2' is not in the table" in part.reason
    assert [type(m) for m in model.modules()] == classes


def test_nothing_is_patched_without_a_gpu():
    model = tiny("llama")
    classes = [type(m) for m in model.modules()]
    report = patch_model(model, "cpu")
    assert {(p.fast, p.reason, p.count) for p in report.parts} == {
        (False, "stock: no GPU", 5),
        (False, "stock: no GPU", 2),
    }
    assert [type(m) for m in model.modules()] == classes


def test_forward_that_something_else_replaced_is_left_alone():
    model = tiny("llama")
    norm = model.model.norm
    stock_class = type(norm)
    norm.forward = lambda hidden_states: hidden_states
    report = patch_model(model, DEVICE, force=True)
    assert type(norm) is stock_class
    counts = {(p.kind, p.fast): p.count for p in report.parts}
    assert counts == {("rms_norm", False): 1, ("rms_norm", True): 4, ("swiglu", True): 2}


def test_check_leaves_no_trace():
    model = with_lora(tiny("llama")).train()
    before = copy.deepcopy(model.state_dict())
    hooked = []
    for name, module in model.named_modules():
        if name.endswith(("norm", ".mlp", "_proj")):
            module.register_forward_hook(lambda *_: hooked.append(1))
    state = torch.get_rng_state()
    with torch.no_grad():
        report = patch_model(model, DEVICE, force=True)
    assert all(p.fast for p in report.parts)
    assert torch.equal(torch.get_rng_state(), state)
    assert not hooked and all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_four_bit_projections_stay_inside_the_patched_mlp():
    bnb = pytest.importorskip("bitsandbytes")
    model = tiny("llama", hidden_size=64, intermediate_size=128, head_dim=16)
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            dense = getattr(layer.mlp, name)
            packed = bnb.nn.Linear4bit(
                dense.in_features,
                dense.out_features,
                bias=False,
                compute_dtype=torch.float32,
                quant_type="nf4",
            )
            packed.weight = bnb.nn.Params4bit(dense.weight.data, requires_grad=False, quant_type="nf4")
            setattr(layer.mlp, name, packed.to(DEVICE))
    model = with_lora(model).train()
    want = step(model)
    model.zero_grad()
    report = patch_model(model, DEVICE, force=True)
    assert all(p.fast for p in report.parts)
    assert_same(step(model), want)
