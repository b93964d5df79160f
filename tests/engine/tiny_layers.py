"""Small models with adapters, for tests of decoder layers."""

from typing import Any

import torch
from bitsandbytes.nn.modules import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from evenfall.engine.model.layers import packed_attention as attention
from evenfall.kernels.backend import INTERPRETED

DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LENGTHS = (9, 1, 14)


def tiny(
    family,
    *,
    quantized=False,
    dropout=0.0,
    implementation="evenfall_packed",
    target_modules="all-linear",
    **changes,
) -> Any:
    """A random model with adapters whose B is not zero, and norms and biases unlike fresh ones."""
    sizes = {**SIZES, **changes}
    if family == "mistral":
        sizes.setdefault("sliding_window", 5)
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) / 5)
    if quantized:
        for layer in model.model.layers:
            for owner in (layer.self_attn, layer.mlp):
                for name, child in list(owner.named_children()):
                    if isinstance(child, torch.nn.Linear):
                        setattr(owner, name, four_bit(child))
    model.requires_grad_(False)
    lora = LoraConfig(
        r=4,
        lora_alpha=6,
        lora_dropout=dropout,
        target_modules=target_modules,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model.to(DEVICE), lora)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model.train()


def four_bit(linear):
    layer = Linear4bit(
        linear.in_features, linear.out_features, bias=linear.bias is not None,
        compute_dtype=torch.float32, quant_type="nf4", compress_statistics=True,
    )  # fmt: skip
    layer.load_state_dict(linear.state_dict())
    layer.support_avx512bf16_for_cpu = False  # its kernel for evaluation has no backward
    return layer.to(DEVICE)


OUR_KERNEL = attention.Ways(mixed="kernel", windowed="kernel", softcapped="kernel")


def packed(seed=0, ways=attention.STOCK_WAYS):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 60, (1, sum(LENGTHS)), generator=generator).to(DEVICE)
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device=DEVICE)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None].to(DEVICE)
    return {
        "input_ids": ids, "position_ids": positions, "use_cache": False,
        "documents": attention.Documents(lengths=LENGTHS, bounds=bounds, ways=ways),
    }  # fmt: skip


def step(model, batch=None):
    """Logits, and the gradients of the adapters for a loss that sees every logit."""
    batch = packed() if batch is None else batch
    logits = model(**batch).logits
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    (logits * weight).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), grads
