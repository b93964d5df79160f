"""Attention as `decoder.py` calls it: a forward into a buffer of the layer's, and a backward by hand.

Two kinds. `KernelAttention` is ours: it reads q, k and v where the projection left them, writes where the
next projection reads, and saves its log-sum-exps. `GraphAttention` takes any differentiable function, cuDNN's
and the models' own: its autograd graph is kept until the backward, and its output lies where it
put it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ....kernels.packed_attention import packed_attention_backward, packed_attention_forward

Heads = tuple[Tensor, Tensor, Tensor]
"""q ``[tokens, heads, head_dim]``, k and v with their heads, or their gradients; any strides but the last."""


class Graph(NamedTuple):
    """An autograd graph of its own."""

    leaves: Heads
    out: Tensor


class Attended(NamedTuple):
    """What a forward leaves for its backward."""

    lse: Tensor | None = None
    """fp32 ``[heads, tokens]``."""
    graph: Graph | None = None
    elsewhere: Tensor | None = None
    """The output, ``[tokens, heads * head_dim]``, where it is not in the memory that was offered."""


class Attention(Protocol):
    """Attention over the tokens of one call, whose mask, scale and window it knows."""

    def forward(self, heads: Heads, out: Tensor, *, grad: bool) -> Attended:
        """Write to `out`, ``[tokens, heads, head_dim]``, or say where else the output is; without `grad`
        nothing is left for a backward."""
        ...

    def backward(self, attended: Attended, heads: Heads, out: Tensor, dout: Tensor, room: Heads) -> Heads:
        """The gradients of q, k and v; in `room`, or wherever they came to lie."""
        ...


@dataclass(frozen=True, kw_only=True)
class KernelAttention:
    """`kernels/packed_attention.py`."""

    starts: Tensor
    """int32 ``[tokens]``: the first token of each token's document."""
    ends: Tensor
    """int32 ``[tokens]``: one past its last."""
    scale: float
    window: int | None = None
    softcap: float | None = None

    def forward(self, heads: Heads, out: Tensor, *, grad: bool) -> Attended:
        lse = packed_attention_forward(
            *heads, self.starts, out, scale=self.scale, window=self.window, softcap=self.softcap
        )
        return Attended(lse if grad else None)

    def backward(self, attended: Attended, heads: Heads, out: Tensor, dout: Tensor, room: Heads) -> Heads:
        assert attended.lse is not None
        packed_attention_backward(
            dout, *heads, out, attended.lse, self.starts, self.ends, *room,
            scale=self.scale, window=self.window, softcap=self.softcap,
        )  # fmt: skip
        return room


@dataclass(frozen=True)
class GraphAttention:
    """A differentiable function from q ``[batch, heads, length, head_dim]``, k and v to ``[batch, length,
    heads, head_dim]``."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    batch: int

    def forward(self, heads: Heads, out: Tensor, *, grad: bool) -> Attended:
        with torch.set_grad_enabled(grad):
            q, k, v = (t.detach().unflatten(0, (self.batch, -1)).transpose(1, 2).requires_grad_(grad) for t in heads)
            result = self.function(q, k, v)
        graph = Graph((q, k, v), result) if grad else None
        return Attended(graph=graph, elsewhere=result.detach().reshape(out.shape[0], -1))

    def backward(self, attended: Attended, heads: Heads, out: Tensor, dout: Tensor, room: Heads) -> Heads:
        assert attended.graph is not None
        leaves, result = attended.graph
        grads = torch.autograd.grad(result, leaves, dout.reshape(result.shape))
        dq, dk, dv = (grad.transpose(1, 2).flatten(0, 1) for grad in grads)
        return dq, dk, dv
