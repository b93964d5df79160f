"""The head gives the model's own loss and gradients, and is refused where it would not."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from evenfall.engine.model.layers import loss_head
from evenfall.engine.model.patch.loss_head import read_head

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 97, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": {}, "mistral": {}, "qwen2": {"tie_word_embeddings": True}, "qwen3": {},
    "gemma2": {"final_logit_softcapping": 3.0}, "granite": {"logits_scaling": 7.0},
    "phi3": {}, "smollm3": {},
}  # fmt: skip


def tiny(family, **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES.get(family, {}), **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)  # logits far apart, so that a cap is felt
    return model.requires_grad_(False)


def adapted(model):
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_adapter_gradients_are_the_models(family):
    model = adapted(tiny(family))
    head, why = read_head(model)
    assert head is not None, why
    assert why.reason == "fast: gives the model's own losses"
    ids = torch.randint(3, 97, (1, 20), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([2, 3, 7, 18])
    labels = ids[0, positions + 1]
    logits = model(input_ids=ids, use_cache=False).logits[0, positions]
    want = F.cross_entropy(logits.float(), labels, reduction="none")
    got = head.losses(model, labels, positions, input_ids=ids)
    torch.testing.assert_close(got, want)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0])
    parameters = [p for p in model.parameters() if p.requires_grad]
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), parameters),
        torch.autograd.grad((want * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_model_that_does_more_to_its_logits_keeps_its_head():
    model = tiny("llama")
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: out * 0.7)
    head, why = read_head(model)
    assert head is None and why.reason == "stock: the model does something else to its logits"


def test_a_head_with_another_gradient_is_refused(monkeypatch):
    real = loss_head.linear_cross_entropy
    monkeypatch.setattr(
        loss_head, "linear_cross_entropy",
        lambda hidden, *rest, **options: real(hidden * 0.5 + hidden.detach() * 0.5, *rest, **options),
    )  # fmt: skip
    head, why = read_head(tiny("llama"))
    assert head is None and why.reason == "stock: the model does something else to its logits"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_proof_holds_in_16_bit(family, dtype):
    head, why = read_head(tiny(family).to(dtype))
    assert head is not None, why


def test_a_trained_output_layer_keeps_its_head():
    model = tiny("llama")
    model.get_output_embeddings().requires_grad_(True)
    head, why = read_head(model)
    assert head is None and why.reason == "stock: the output layer is trained"


def test_an_adapter_on_the_output_layer_keeps_its_head():
    lora = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    head, why = read_head(get_peft_model(tiny("llama"), lora))
    assert head is None and why.reason.startswith("stock: the output layer is quantised, has an adapter")


def test_a_model_that_cannot_be_tried_keeps_its_head():
    model = tiny("llama")
    model.forward = lambda **_: 1 / 0
    head, why = read_head(model)
    assert head is None and why.reason.startswith("stock: the proof failed with ZeroDivisionError")


def test_the_proof_leaves_the_model_in_training():
    model = tiny("llama").train()
    read_head(model)
    assert model.training and model.model.layers[0].training
