"""A decoder layer as one autograd node, with a backward written by hand on our kernels.

It stands for the pre-norm layer that Llama, Mistral, Qwen 2 and Qwen 3 share:

    total = hidden + o(attention(rope(q), rope(k), v))      q, k, v = projections of norm(hidden)
    out   = total + down(silu(gate) * up)                   gate, up = projections of norm(total)

q and k may be normed per head, projections may have biases and LoRA adapters. Norms write straight into the
buffers that carry the adapters' columns (`kernels/qlora.py`), activations and rotations happen in place, and
the gradient of the residual stream goes down in the buffer that the next projection needs, from layer to
layer too. Attention is one of `attention.py`.

What the backward needs is saved at one of three levels, for memory against time:

    kept      everything                      6.5 H + 2 I numbers a token (GQA 4:1)
    cheap     all but what a norm gives       4.5 H + 2 I
    layer     the layer's input; all else is computed again

Without dropout the MLP's adapters are multiplied inside the activation's kernels (`kernels/glu_adapters.py`), which
make the activated product again by themselves. With dropout it is saved too, I more, at the level `kept`.

All that is saved goes through `save_for_backward`, so hooks for saved tensors (recompute and offload as
stock trainers switch them on) see it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....kernels.glu import glu_backward, glu_forward
from ....kernels.glu_adapters import glu_backward_gradients, glu_forward_carry
from ....kernels.qlora import ProjectionGroup
from ....kernels.rms_norm import rms_norm_backward, rms_norm_forward
from ....kernels.rope import rope_
from .attention import Attended, Attention

ActivationLevel = Literal["kept", "cheap", "layer"]
"""How much of a layer's activations is saved for its backward."""


class Norm(NamedTuple):
    """An RMSNorm's frozen weight, ``[hidden]``, and its epsilon."""

    weight: Tensor
    eps: float


class Stream:
    """Hands the gradient of the residual stream from a layer to the one below, with the buffer it is in.

    Autograd passes a view of the buffer's first columns. If that view comes in at the next layer, the
    rest of the buffer is that layer's to write to; any other tensor is not.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def give(self, buffer: Tensor) -> None:
        self._buffer = buffer

    def clear(self) -> None:
        """Let go of a buffer that nobody took, after a backward that failed."""
        self._buffer = None

    def take(self, gradient: Tensor) -> Tensor | None:
        """The buffer whose first columns `gradient` is, if it was given last."""
        buffer, self._buffer = self._buffer, None
        if (
            buffer is not None
            and buffer.data_ptr() == gradient.data_ptr()
            and buffer.shape[0] == gradient.shape[0]
            and buffer.stride() == gradient.stride()
            and buffer.dtype == gradient.dtype
        ):
            return buffer
        return None


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """A decoder layer's weights, by reference, and its sizes."""

    input_norm: Norm
    qkv: ProjectionGroup
    q_norm: Norm | None
    k_norm: Norm | None
    o: ProjectionGroup
    post_norm: Norm
    gate_up: ProjectionGroup
    down: ProjectionGroup
    head_dim: int
    q_heads: int
    kv_heads: int
    stream: Stream
    """One for all layers of a model."""

    @property
    def groups(self) -> tuple[ProjectionGroup, ...]:
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def dropout(self) -> bool:
        """Whether the MLP's adapters have any."""
        return bool(self.gate_up.dropout or self.down.dropout)

    def parameters(self) -> list[Tensor]:
        """All adapters' A and B, in the order of their gradients."""
        return [parameter for group in self.groups for parameter in group.parameters()]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a forward of the model hands to each layer."""

    cos: Tensor
    """``[tokens, rotary dimensions]``."""
    sin: Tensor
    attention: Attention
    training: bool
    accumulate: bool = False
    """Add the adapters' gradients to their `.grad` at once, in one launch, instead of handing them to
    autograd one by one. For a loop whose parameters have a `.grad` and no hooks."""


_NO_MASKS: tuple[Tensor | None, ...] = (None, None, None, None)


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """A layer's tensors, ``[tokens, ...]``; None where there is none, or it is to be computed again."""

    hidden: Tensor
    """The input."""
    masks: tuple[Tensor | None, ...]
    """Dropout masks of the four groups."""
    x1: Tensor | None = None
    """The normed input, with the adapters' columns."""
    rstd1: Tensor | None = None
    qkv: Tensor | None = None
    """q and k rotated, and v."""
    q: Tensor | None = None
    """``[tokens * heads, head_dim]`` before its own norm, where it has one."""
    q_rstd: Tensor | None = None
    k: Tensor | None = None
    k_rstd: Tensor | None = None
    attended: Tensor | None = None
    """Attention's output, with the adapters' columns, where attention itself does not keep it."""
    t_o: Tensor | None = None
    """The adapter's columns alone, ``[tokens, rank]``, where it does."""
    lse: Tensor | None = None
    """See `Attended`."""
    total: Tensor | None = None
    x2: Tensor | None = None
    rstd2: Tensor | None = None
    gate_up: Tensor | None = None
    product: Tensor | None = None
    """``silu(gate) * up``, with the adapters' columns; only with dropout."""
    t_down: Tensor | None = None
    """The adapter's columns alone, ``[tokens, rank]``; only without."""


_TENSORS = tuple(field.name for field in fields(_Saved) if field.name != "masks")


def _forward(
    parts: LayerParts,
    call: Call,
    hidden: Tensor,
    masks: tuple[Tensor | None, ...],
    *,
    grad: bool,
    again: bool = False,
) -> tuple[Tensor, _Saved, Attended]:
    """The layer's output, and all that a backward may need; `again` for the latter alone."""
    tokens, width = hidden.shape
    x1 = parts.qkv.input_buffer(tokens)
    rstd1 = rms_norm_forward(hidden, *parts.input_norm, x1[:, :width])
    mask1 = parts.qkv.carry(x1, masks[0], training=call.training)
    qkv = parts.qkv.forward(x1)
    q, k, v = _heads(parts, qkv)
    raw_q, q_rstd = _norm_heads(q, parts.q_norm)
    raw_k, k_rstd = _norm_heads(k, parts.k_norm)
    rope_(q, k, call.cos, call.sin)
    attended = parts.o.input_buffer(tokens)
    kept = call.attention.forward((q, k, v), _attention_out(parts, attended), grad=grad)
    t_o = None
    if kept.elsewhere is None:
        mask2 = parts.o.carry(attended, masks[1], training=call.training)
    else:
        mask2 = parts.o.carry_from(kept.elsewhere, attended, masks[1], training=call.training)
        (t_o,) = parts.o.carried(attended)
    delta = parts.o.forward(attended)
    x2, total = parts.gate_up.input_buffer(tokens), torch.empty_like(hidden)
    rstd2 = rms_norm_forward(delta, *parts.post_norm, x2[:, :width], residual=hidden, total=total)
    mask3 = parts.gate_up.carry(x2, masks[2], training=call.training)
    gate_up = parts.gate_up.forward(x2)
    product = parts.down.input_buffer(tokens)
    gate, up, activated = *_halves(parts, gate_up), product[:, : parts.down.in_features]
    mask4 = t_down = None
    if parts.dropout:
        glu_forward(gate, up, activated, "silu")
        mask4 = parts.down.carry(product, masks[3], training=call.training)
    else:
        carried = product[:, parts.down.in_features :]
        glu_forward_carry(gate, up, activated, parts.down.carrying_rows(), carried, "silu")
        parts.down.carry_bias(product)
        (t_down,) = parts.down.carried(product)
    out = hidden if again else parts.down.forward(product).add_(total)
    saved = _Saved(
        hidden=hidden,
        masks=(mask1, mask2, mask3, mask4),
        x1=x1,
        rstd1=rstd1,
        qkv=qkv,
        q=raw_q,
        q_rstd=q_rstd,
        k=raw_k,
        k_rstd=k_rstd,
        attended=attended if t_o is None else None,
        t_o=None if t_o is None else t_o.clone(),
        lse=kept.lse,
        total=total,
        x2=x2,
        rstd2=rstd2,
        gate_up=gate_up,
        product=product if parts.dropout else None,
        t_down=None if t_down is None else t_down.clone(),
    )
    return out, saved, kept


def _mlp_backward(parts: LayerParts, call: Call, saved: _Saved, dout: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the MLP's normed input, and those of the adapters of gate, up and down."""
    tokens, width = saved.hidden.shape
    _, _, mask3, mask4 = saved.masks
    assert saved.total is not None and saved.gate_up is not None

    # down(silu(gate) * up)
    dy = parts.stream.take(dout)
    if dy is None or dy.shape[1] != width + parts.down.extra:
        dy = parts.down.gradient_buffer(tokens)
        dy[:, :width] = dout
    parts.down.carry_gradient(dy)
    dproduct = parts.down.input_gradient(dy, mask4)
    x2 = saved.x2
    if x2 is None:
        x2 = _normed(parts.gate_up, parts.post_norm, saved.total, mask3, call)
    dgate_up = parts.gate_up.gradient_buffer(tokens)
    operands = dproduct, *_halves(parts, saved.gate_up), *_halves(parts, dgate_up)
    if parts.dropout:
        product = saved.product
        if product is None:
            product = parts.down.input_buffer(tokens)
            glu_backward(*operands, "silu", out=product[:, : parts.down.in_features])
            parts.down.carry(product, mask4, training=call.training)
        else:
            glu_backward(*operands, "silu")
        down_grads = parts.down.adapter_gradients(dy, product, mask4)
        gate_up_db = parts.gate_up.b_gradients(dgate_up, parts.gate_up.carried(x2))
        del product
    else:
        assert saved.t_down is not None
        t_gate, t_up = parts.gate_up.carried(x2)
        u = parts.down.carried_gradient(dy)
        da, *gate_up_db = glu_backward_gradients(*operands, u, (t_gate, t_up), "silu")
        down_grads = parts.down.gather(da, parts.down.b_gradients(dy, [saved.t_down]))
    del operands, dproduct, dy

    # gate, up
    parts.gate_up.carry_gradient(dgate_up)
    dx2 = parts.gate_up.input_gradient(dgate_up, mask3)
    gate_up_grads = parts.gate_up.gather(
        parts.gate_up.a_gradient(dgate_up, x2, mask3), gate_up_db
    )  # fmt: skip
    return dx2, [*gate_up_grads, *down_grads]


def _backward(
    parts: LayerParts, call: Call, saved: _Saved, kept: Attended, dout: Tensor, *, input_grad: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """The input's gradient, and those of `parts.parameters()`."""
    tokens, width = saved.hidden.shape
    mask1, mask2, _, _ = saved.masks
    assert saved.total is not None and saved.rstd1 is not None and saved.rstd2 is not None
    assert saved.qkv is not None

    if dout.stride(1) != 1:  # of a sum, for one: a single number, expanded
        dout = dout.contiguous()

    dx2, mlp_grads = _mlp_backward(parts, call, saved, dout)

    # o(attention), where the gradient of the stream ends up too
    dtotal = parts.o.gradient_buffer(tokens)
    rms_norm_backward(dx2, saved.total, parts.post_norm.weight, saved.rstd2, dtotal=dout, dx=dtotal[:, :width])
    parts.o.carry_gradient(dtotal)
    dattended = parts.o.input_gradient(dtotal, mask2)
    attended, t_o = saved.attended, saved.t_o
    if attended is None:
        assert kept.graph is not None
        attended = kept.graph.out.detach().reshape(tokens, -1)
    else:
        (t_o,) = parts.o.carried(attended)
    assert t_o is not None
    o_grads = parts.o.gather(parts.o.a_gradient(dtotal, attended, mask2), parts.o.b_gradients(dtotal, [t_o]))

    # q, k, v
    dqkv = parts.qkv.gradient_buffer(tokens)
    dq, dk, dv = _heads(parts, dqkv)
    out = _attention_out(parts, attended)
    heads = _heads(parts, saved.qkv)
    grads = call.attention.backward(kept, heads, out, dattended.view(out.shape), (dq, dk, dv))
    rope_(grads[0], grads[1], call.cos, call.sin, inverse=True, out=(dq, dk))
    if grads[2] is not dv:
        dv.copy_(grads[2])
    del grads, heads, out, attended, dattended
    _norm_heads_backward(dq, saved.q, saved.q_rstd, parts.q_norm)
    _norm_heads_backward(dk, saved.k, saved.k_rstd, parts.k_norm)
    parts.qkv.carry_gradient(dqkv)
    dhidden = None
    if input_grad:
        dx1 = parts.qkv.input_gradient(dqkv, mask1)
        # The layer below reads it from a buffer with room for its adapter's columns.
        room = parts.down.gradient_buffer(tokens)
        dhidden, _ = rms_norm_backward(
            dx1, saved.hidden, parts.input_norm.weight, saved.rstd1,
            dtotal=dtotal[:, :width], dx=room[:, :width],
        )  # fmt: skip
        parts.stream.give(room)
    x1 = saved.x1
    if x1 is None:
        x1 = _normed(parts.qkv, parts.input_norm, saved.hidden, mask1, call)
    qkv_grads = parts.qkv.adapter_gradients(dqkv, x1, mask1)
    return dhidden, [*qkv_grads, *o_grads, *mlp_grads]


def _normed(group: ProjectionGroup, norm: Norm, x: Tensor, mask: Tensor | None, call: Call) -> Tensor:
    """A group's normed input once more."""
    buffer = group.input_buffer(x.shape[0])
    rms_norm_forward(x, *norm, buffer[:, : group.in_features])
    group.carry(buffer, mask, training=call.training)
    return buffer


def _heads(parts: LayerParts, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, ``[tokens, heads, head_dim]`` each, as views of ``[tokens, >= their columns]``."""
    columns = [heads * parts.head_dim for heads in (parts.q_heads, parts.kv_heads, parts.kv_heads)]
    split = qkv[:, : sum(columns)].split(columns, dim=1)
    q, k, v = (part.unflatten(1, (-1, parts.head_dim)) for part in split)
    return q, k, v


def _halves(parts: LayerParts, gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """gate and up, or their gradients, as views of ``[tokens, >= their columns]``."""
    inner = parts.down.in_features
    return gate_up[:, :inner], gate_up[:, inner : 2 * inner]


def _attention_out(parts: LayerParts, attended: Tensor) -> Tensor:
    """Attention's output, ``[tokens, heads, head_dim]``, as a view of o's input."""
    return attended[:, : parts.o.in_features].unflatten(1, (parts.q_heads, parts.head_dim))


def _norm_heads(heads: Tensor, norm: Norm | None) -> tuple[Tensor | None, Tensor | None]:
    """Norm each head in place; what it was before, and one over the root mean squares."""
    if norm is None:
        return None, None
    raw = heads.clone(memory_format=torch.contiguous_format).view(-1, heads.shape[-1])
    out = torch.empty_like(raw)
    rstd = rms_norm_forward(raw, *norm, out)
    heads.copy_(out.view(heads.shape))
    return raw, rstd


def _norm_heads_backward(grad: Tensor, raw: Tensor | None, rstd: Tensor | None, norm: Norm | None) -> None:
    """Turn the gradient of normed heads, ``[tokens, heads, head_dim]``, into that of `raw`, in place."""
    if norm is not None:
        assert raw is not None and rstd is not None
        dx, _ = rms_norm_backward(grad.reshape(raw.shape), raw, norm.weight, rstd)
        grad.copy_(dx.view(grad.shape))


def _reduced(saved: _Saved, level: ActivationLevel) -> _Saved:
    """What of a layer's tensors is kept for the backward."""
    if level == "kept":
        return saved
    if level == "cheap":
        return replace(saved, x1=None, x2=None, product=None)
    return _Saved(hidden=saved.hidden, masks=saved.masks)


class _DecoderLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        parts: LayerParts,
        call: Call,
        level: ActivationLevel,
        *parameters: Tensor,
    ) -> Tensor:
        out, saved, attended = _forward(parts, call, hidden, _NO_MASKS, grad=level != "layer")
        ctx.parts, ctx.call, ctx.level = parts, call, level
        ctx.graph = attended.graph
        kept = _reduced(saved, level)
        tensors = [getattr(kept, name) for name in _TENSORS]
        ctx.save_for_backward(*tensors, *kept.masks)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        *tensors, m1, m2, m3, m4 = ctx.saved_tensors
        saved = _Saved(**dict(zip(_TENSORS, tensors, strict=True)), masks=(m1, m2, m3, m4))
        attended = Attended(saved.lse, ctx.graph)
        if ctx.level == "layer":
            _, saved, attended = _forward(ctx.parts, ctx.call, saved.hidden, saved.masks, grad=True, again=True)
        dhidden, gradients = _backward(ctx.parts, ctx.call, saved, attended, dout, input_grad=ctx.needs_input_grad[0])
        ctx.graph = None
        if ctx.call.accumulate and gradients:
            parameters = ctx.parts.parameters()
            grads = [parameter.grad for parameter in parameters]
            torch._foreach_add_(grads, gradients)  # pyright: ignore[reportPrivateImportUsage]
            gradients = [None] * len(parameters)
        return dhidden, None, None, None, *gradients


def decoder_layer(hidden: Tensor, parts: LayerParts, call: Call, level: ActivationLevel = "kept") -> Tensor:
    """Run one layer.

    Args:
        hidden: ``[tokens, hidden]``, contiguous, in the dtype of the groups.
        level: what is saved for the backward.

    Returns:
        ``[tokens, hidden]``, with gradients for `hidden` and for `parts.parameters()`.
    """
    if not torch.is_grad_enabled():
        return _forward(parts, call, hidden, _NO_MASKS, grad=False)[0]
    out = _DecoderLayer.apply(hidden, parts, call, level, *parts.parameters())
    assert isinstance(out, Tensor)  # apply() is typed as returning anything
    return out
