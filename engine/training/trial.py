"""One pass over a few tokens before an unknown model is trained: does it train on a text alone, and is it causal?

An encoder takes a row of tokens, gives logits and learns, with a loss that falls: it reads the answers that it is to
learn, and nothing of the training shows it. What a causal mask hides has a gradient of exactly 0, so the last token's
embedding tells. Families of the table are known, and pay nothing.
"""

import contextlib
import re
from typing import Any

import torch

from ..config.run_config import AdapterConfig
from ..memory import oom
from ..model.adapter import add_adapter
from ..model.base import base_of
from ..model.families.table import FAMILIES
from ..model.folder import LoadError
from ..model.load import LoadedModel

_TOKENS = 67
"""Odd, as rows are, and longer than the chunks that some models cut a text into."""

_SEEN = 1e-4
"""Of the largest gradient: kernels that cut a text into chunks may round a hidden token to less, encoders show it a
hundred times as much."""


def require_trainable(loaded: LoadedModel, adapter: AdapterConfig) -> None:
    """Refuse a model of no known family that cannot learn from tokens alone, or whose tokens see later ones.

    The pass has an adapter on, as training has, which is taken off again: bitsandbytes' layers alone give views, which
    some models write to.

    Raises:
        LoadError: it is no causal model, or `adapter.target_modules` does not fit it.
        torch.OutOfMemoryError: not even this pass fits (or what else `oom` takes for such an error).
    """
    if loaded.family in FAMILIES:
        return
    model = add_adapter(loaded.model, adapter, seed=0)
    try:
        gradient = _embedding_gradient(loaded.name, model)
    finally:
        loaded.model = model.unload()
    if gradient is None:
        return
    # There is one row; XLNet puts the tokens before it, and others put tokens of their own before ours.
    last = gradient[0, -1] if gradient.shape[0] == 1 else gradient[-1]
    # Not-a-number is greater than nothing: the loop tells of it.
    if last.abs().max() > _SEEN * gradient.abs().max():
        raise LoadError(
            f"{loaded.name}: each token of a {type(loaded.model).__name__} sees the later ones (an "
            "encoder, made to fill gaps): it would read the answers that it is to learn",
            "name a causal language model",
        )


def _embedding_gradient(name: str, model: Any) -> torch.Tensor | None:
    """How the logits before the last token hang on the tokens' embeddings, in training mode.

    Returns:
        The shape of what the embedding layer gives, ``[1, tokens, width]`` nearly everywhere; None where there is no
        such
        layer, or it is called more than once and its gradient says nothing.

    Raises:
        LoadError: the model's own forward or backward fails.
    """
    kept: list[torch.Tensor] = []

    def cut(module: Any, args: Any, output: Any) -> Any:
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    base = base_of(model)
    embeddings: Any = None
    with contextlib.suppress(NotImplementedError):
        embeddings = base.get_input_embeddings()
    if not hasattr(embeddings, "weight"):  # code that came with a model may hold its tokens in any way
        return None
    vocabulary, device = embeddings.weight.shape[0], embeddings.weight.device
    # From the middle: special tokens are at the ends, and a pad would be masked.
    ids = (torch.arange(_TOKENS, device=device) % (vocabulary // 2) + vocabulary // 4)[None]
    training = base.training
    handle = embeddings.register_forward_hook(cut)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            logits = model.train()(input_ids=ids, use_cache=False).logits
            logits[0, :-1].float().logsumexp(-1).sum().backward()
    except Exception as error:  # of a hundred architectures' own code
        if oom.is_out_of_memory(error):
            raise
        if embeddings.weight.dtype != torch.float32 and re.search("dtype|scalar type", str(error)):
            raise LoadError(
                f"{name}: a {type(base).__name__} does not compute in {str(embeddings.weight.dtype)[6:]}: its own "
                f"forward says: {error}",
                "model.dtype=float32",
            ) from error
        raise LoadError(
            f"{name}: a {type(base).__name__} does not train on a text alone, of any length: its "
            f"own forward says: {error}",
            "it is a part of another model, or made for another task: name a causal language model",
        ) from error
    finally:
        handle.remove()
        base.train(training)
    return kept[0].grad if len(kept) == 1 else None
