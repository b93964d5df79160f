"""Packed documents give the numbers that they give alone, in every family that claims it."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from evenfall.engine.model.families.table import FAMILIES
from evenfall.engine.model.layers import packed_attention as attention
from evenfall.engine.model.layers.packed_attention import (
    STOCK_WAYS,
    Documents,
    Ways,
    attend,
    choose,
)

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "mistral-window": MistralConfig(**SIZES, sliding_window=5),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "gemma": GemmaConfig(**SIZES, head_dim=16),
    "gemma2-window-softcap": Gemma2Config(**SIZES, head_dim=16, sliding_window=6),
    "gemma3-window": Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=4),
    "phi3": Phi3Config(**SIZES),
    "granite": GraniteConfig(**SIZES, attention_multiplier=0.2),
}
LENGTHS = (1, 7, 20, 3)
KERNEL = Ways(equal="kernel", mixed="kernel", windowed="kernel", softcapped="kernel")


def documents_of(*lengths: int, ways: Ways = STOCK_WAYS) -> Documents:
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    return Documents(lengths=lengths, bounds=bounds, ways=ways)


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_documents_equal_separate_ones(name: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[name]
    assert FAMILIES[config.model_type].packed
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    documents = [torch.randint(3, 96, (1, length)) for length in LENGTHS]
    with torch.no_grad():
        alone = [model(input_ids=ids, use_cache=False).logits for ids in documents]
        model.set_attn_implementation(attention.NAME)
        packed = model(
            input_ids=torch.cat(documents, dim=1),
            position_ids=torch.cat([torch.arange(n) for n in LENGTHS])[None],
            documents=documents_of(*LENGTHS),
            use_cache=False,
        ).logits
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=1e-4, atol=1e-4)


def test_another_documents_tokens_change_nothing() -> None:
    """The test above would miss a leak that is equal on both sides."""
    torch.manual_seed(1)
    q = torch.randn(1, 4, 12, 8)
    k, v = torch.randn(2, 1, 2, 12, 8)
    out, _ = attend(torch.nn.Module(), q, k, v, None, documents=documents_of(5, 7))
    k2, v2 = k.clone(), v.clone()
    k2[:, :, :5], v2[:, :, :5] = torch.randn(2, 1, 2, 5, 8)
    changed, _ = attend(torch.nn.Module(), q, k2, v2, None, documents=documents_of(5, 7))
    torch.testing.assert_close(out[:, 5:], changed[:, 5:], rtol=0, atol=0)
    assert not torch.equal(out[:, :5], changed[:, :5])


def test_gradients_equal_separate_documents() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, heads, 11, 8, requires_grad=True) for heads in (4, 2, 2))
    weight = torch.randn(1, 11, 4, 8)
    out, _ = attend(torch.nn.Module(), q, k, v, None, documents=documents_of(4, 7))
    packed = torch.autograd.grad((out * weight).sum(), (q, k, v))
    total = torch.zeros(())
    for start, end in ((0, 4), (4, 11)):
        part, _ = attend(torch.nn.Module(), q[:, :, start:end], k[:, :, start:end], v[:, :, start:end], None)
        total = total + (part * weight[:, start:end]).sum()
    for got, want in zip(packed, torch.autograd.grad(total, (q, k, v)), strict=True):
        torch.testing.assert_close(got, want)


def test_packed_documents_come_in_one_row() -> None:
    x = torch.randn(2, 2, 4, 8)
    with pytest.raises(ValueError, match="one row"):
        attend(torch.nn.Module(), x, x, x, None, documents=documents_of(2, 2))


@pytest.mark.parametrize("lengths", [(6, 6), (12,), (5, 7)])
def test_each_way_gives_the_same_numbers(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(1, heads, 12, 8, requires_grad=True) for heads in (4, 2, 2))
    weight = torch.randn(1, 12, 4, 8)
    results = []
    for ways, window in ((STOCK_WAYS, None), (KERNEL, None), (STOCK_WAYS, 3), (KERNEL, 3)):
        documents = documents_of(*lengths, ways=ways)
        out, _ = attend(torch.nn.Module(), q, k, v, None, sliding_window=window, documents=documents)
        results.append([out, *torch.autograd.grad((out * weight).sum(), (q, k, v))])
    for one, other in ((0, 1), (2, 3)):
        for got, want in zip(results[one], results[other], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(results[0][0], results[2][0])


def test_the_way_is_that_of_the_kind_of_documents() -> None:
    ways = Ways(equal="rows", mixed="kernel", windowed="flash", softcapped="each")
    equal, mixed = documents_of(6, 6, ways=ways), documents_of(6, 7, ways=ways)
    assert choose(equal) == "rows" and choose(mixed) == "kernel"
    assert choose(equal, sliding_window=5) == choose(mixed, sliding_window=6) == "flash"
    assert choose(equal, sliding_window=6) == "rows"  # as long as the documents: none
    assert choose(mixed, sliding_window=7) == "kernel"
    assert choose(equal, softcap=50.0) == choose(mixed, softcap=50.0, sliding_window=3) == "each"
    assert choose(equal, dropout=0.1) == choose(mixed, dropout=0.1) == "each"
