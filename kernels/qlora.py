"""QLoRA projections: a frozen base weight and its LoRA adapter in one matmul, several projections at once.

Projections that read the same input (q, k, v; gate, up) form a group. Their base weights W, adapters A and
B and biases b lie in one matrix of the compute dtype,

        in        extra
    +---------+-----------+
    |    W    |  s B   b  |   out rows, the projections one below the other
    +---------+-----------+
    |    A    |     0     |   extra rows
    +---------+-----------+

and each input row is carried in a buffer ``[x, t]`` whose extra columns hold t = x A^T (and 1 where the bias is).
Then both directions are one matmul with fp32 accumulation over base and adapter together:

    y  = [x, t] [W, sB]^T              t  = x A^T
    dx = [dy, u] [W; A]                u  = dy sB
    dA = u^T x                         dB = s dy^T t

so the adapter costs its share of inner columns instead of passes over the output (Hu et al. 2021 for LoRA,
Dettmers et al. 2023 for QLoRA; rsLoRA only changes s). The block of B is block diagonal: a projection sees its
own t alone. 4-bit weights are dequantised into the matrix for each use, into a workspace that all layers
share, or once for good where memory is spare (the same bits either way). The adapters' part is the
parameters rounded to the compute dtype; it is refreshed when a parameter's version has changed.

Dropout acts on the adapter's input only, so there the two parts of dx are two matmuls. The projections of
a group share one dropout mask (PEFT draws one each: the same distribution for each projection).

Everything here is plain torch but the dequantisation, so it runs, and is tested, on a CPU as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .nf4 import NF4Weight, dequantize_nf4

_MULTIPLE = 16
"""Extra columns come in multiples of this: rows then start at addresses that tensor cores load fast."""


@dataclass(frozen=True)
class Projection:
    """One frozen linear layer and its adapter, by reference.

    `lora_a` is ``[r, in]``, `lora_b` ``[out, r]``, `scaling` their factor (alpha / r, or alpha /
    sqrt(r)); both None where the layer has no adapter.
    """

    weight: NF4Weight | Tensor
    """``[out, in]``."""
    bias: Tensor | None = None
    """``[out]``, frozen."""
    lora_a: Tensor | None = None
    lora_b: Tensor | None = None
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        return 0 if self.lora_a is None else self.lora_a.shape[0]


class Workspace:
    """Matrices that the groups of a model take turns in: one for each size."""

    def __init__(self) -> None:
        self._matrices: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}

    def matrix(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``[rows, columns]``, with whatever the last user left in it."""
        key = rows, columns, dtype, device
        if key not in self._matrices:
            self._matrices[key] = torch.empty((rows, columns), dtype=dtype, device=device)
        return self._matrices[key]


class ProjectionGroup:
    """Projections of one input, as one matrix; see the module.

    Args:
        projections: all with the same number of input features.
        dtype: what the matmuls run in.
        workspace: shared by all groups of the model.
        dropout: probability with which an element of the adapters' input is dropped.

    Raises:
        ValueError: there is no projection, or their inputs differ.
    """

    def __init__(
        self,
        projections: Sequence[Projection],
        dtype: torch.dtype,
        workspace: Workspace,
        *,
        dropout: float = 0.0,
    ) -> None:
        shapes = [tuple(p.weight.shape) for p in projections]
        if not shapes or len({columns for _, columns in shapes}) != 1:
            raise ValueError(f"a group is one or more projections of one input, got {shapes}")
        self.projections = tuple(projections)
        self.dtype = dtype
        self.dropout = dropout
        self.cached = False
        """Whether the base weights stay dequantised; set by `keep_weights`."""
        self.out_features = sum(rows for rows, _ in shapes)
        self.in_features = shapes[0][1]
        self.rank = sum(p.rank for p in projections)
        self._has_bias = any(p.bias is not None for p in projections)
        used = self.rank + self._has_bias
        self.extra = -(-used // _MULTIPLE) * _MULTIPLE
        """Columns beside the input, and beside the output's gradient."""
        self._workspace = workspace
        self._kept: Tensor | None = None
        self._adapter: tuple[Tensor, Tensor] | None = None
        self._versions: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        return self.projections[0].weight.device

    def parameters(self) -> list[Tensor]:
        """A and B of each projection that has an adapter, in order."""
        return [t for p in self.projections for t in (p.lora_a, p.lora_b) if t is not None]

    def input_buffer(self, tokens: int) -> Tensor:
        """``[tokens, in + extra]``: write the input into the first columns, then call `carry`."""
        return self._rows(tokens, self.in_features)

    def gradient_buffer(self, tokens: int) -> Tensor:
        """``[tokens, out + extra]``: write the output's gradient into the first columns."""
        return self._rows(tokens, self.out_features)

    def _rows(self, tokens: int, columns: int) -> Tensor:
        return torch.empty((tokens, columns + self.extra), dtype=self.dtype, device=self.device)

    def keep_weights(self, keep: bool) -> None:
        """Hold the dequantised weights between uses, or let them go."""
        self.cached = keep
        self._kept = None

    def carry(
        self, x: Tensor, mask: Tensor | None = None, *, training: bool = True
    ) -> Tensor | None:
        """Write the adapters' columns of an input.

        Args:
            x: ``[tokens, in + extra]`` from `input_buffer`, its first columns written.
            mask: bool ``[tokens, in]``: which inputs the adapters see; None draws one if the group
                has dropout and this is `training`.

        Returns:
            The mask; None without dropout.
        """
        if not self.extra:
            return None
        rows, _ = self._adapters()
        source = x[:, : self.in_features]
        if mask is not None:
            source = self._drop(source, mask)
        elif self.dropout and training:
            source, mask = torch.native_dropout(source, self.dropout, True)
        torch.mm(source, rows[:, : self.in_features].t(), out=x[:, self.in_features :])
        if self._has_bias:
            x[:, self.in_features + self.rank] = 1.0
        return mask

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """All projections of an input.

        Args:
            x: ``[tokens, in + extra]`` after `carry`.
            out: ``[tokens, out]`` to write to, rows any distance apart.

        Returns:
            ``[tokens, out]``, the projections side by side.
        """
        inner = self._matrix()[: self.out_features].t()
        return torch.mm(x, inner) if out is None else torch.mm(x, inner, out=out)

    def carry_gradient(self, dy: Tensor) -> None:
        """Write the adapters' columns of ``[tokens, out + extra]`` from `gradient_buffer`."""
        if self.extra:
            _, columns = self._adapters()
            torch.mm(dy[:, : self.out_features], columns, out=dy[:, self.out_features :])

    def input_gradient(self, dy: Tensor, mask: Tensor | None = None) -> Tensor:
        """The gradient of the input, ``[tokens, in]``.

        Args:
            dy: ``[tokens, out + extra]`` after `carry_gradient`.
            mask: what `carry` returned.
        """
        matrix = self._matrix()[:, : self.in_features]
        if mask is None:
            return torch.mm(dy, matrix)
        dx = torch.mm(dy[:, : self.out_features], matrix[: self.out_features])
        adapter = torch.mm(dy[:, self.out_features :], matrix[self.out_features :])
        return dx.add_(self._drop(adapter, mask))

    def adapter_gradients(self, dy: Tensor, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Gradients of `parameters()`, fp32.

        Args:
            dy: ``[tokens, out + extra]`` after `carry_gradient`.
            x: ``[tokens, in + extra]`` after `carry`.
            mask: what `carry` returned.
        """
        source = x[:, : self.in_features]
        if mask is not None:
            source = self._drop(source, mask)
        if not self.rank:
            return []
        gradients = []
        da = _mm_fp32(dy[:, self.out_features : self.out_features + self.rank].t(), source)
        row = column = 0
        for projection in self.projections:
            rank, rows = projection.rank, projection.weight.shape[0]
            if rank:
                t = x[:, self.in_features + column : self.in_features + column + rank]
                db = _mm_fp32(dy[:, row : row + rows].t(), t)
                gradients += [da[column : column + rank], db.mul_(projection.scaling)]
            row, column = row + rows, column + rank
        return gradients

    def _drop(self, values: Tensor, mask: Tensor) -> Tensor:
        return torch.ops.aten.native_dropout_backward(values, mask, 1 / (1 - self.dropout))

    def _matrix(self) -> Tensor:
        """The group's matrix, filled."""
        adapters = self._adapters()
        rows, columns = self.out_features + self.extra, self.in_features + self.extra
        if self._kept is not None:
            return self._kept
        if self.cached:
            matrix = torch.empty((rows, columns), dtype=self.dtype, device=self.device)
            self._kept = matrix
        else:
            matrix = self._workspace.matrix(rows, columns, self.dtype, self.device)
        row = 0
        for projection in self.projections:
            weight = projection.weight
            target = matrix[row : row + weight.shape[0], : self.in_features]
            if isinstance(weight, Tensor):
                target.copy_(weight)
            else:
                dequantize_nf4(weight, out=target)
            row += weight.shape[0]
        self._place(adapters, matrix)
        return matrix

    def _place(self, adapters: tuple[Tensor, Tensor], matrix: Tensor) -> None:
        rows, columns = adapters
        matrix[self.out_features :].copy_(rows)
        matrix[: self.out_features, self.in_features :].copy_(columns)

    def _adapters(self) -> tuple[Tensor, Tensor]:
        """The adapters' rows and columns of the matrix, up to date: ``[extra, in + extra]`` and
        ``[out, extra]``."""
        versions = tuple(t._version for t in self.parameters())
        if self._adapter is None:
            like = {"dtype": self.dtype, "device": self.device}
            self._adapter = (
                torch.zeros((self.extra, self.in_features + self.extra), **like),
                torch.zeros((self.out_features, self.extra), **like),
            )
        elif versions == self._versions:
            return self._adapter
        self._versions = versions
        adapter_rows, adapter_columns = self._adapter
        row = column = 0
        for projection in self.projections:
            rows, rank = projection.weight.shape[0], projection.rank
            if projection.lora_a is not None and projection.lora_b is not None:
                a, b = projection.lora_a.detach(), projection.lora_b.detach()
                adapter_rows[column : column + rank, : self.in_features].copy_(a)
                block = adapter_columns[row : row + rows, column : column + rank]
                block.copy_(b * projection.scaling)
            if projection.bias is not None:
                adapter_columns[row : row + rows, self.rank].copy_(projection.bias)
            row, column = row + rows, column + rank
        if self._kept is not None:
            self._place(self._adapter, self._kept)
        return self._adapter


def _mm_fp32(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` accumulated and returned in fp32 (float64 stays)."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, group: ProjectionGroup, *parameters: Tensor) -> Tensor:
        rows = x.reshape(-1, group.in_features)
        buffer = group.input_buffer(rows.shape[0])
        buffer[:, : group.in_features] = rows
        mask = group.carry(buffer)
        y = group.forward(buffer)
        ctx.save_for_backward(buffer, *(() if mask is None else (mask,)))
        ctx.group = group
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], group.out_features)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        group: ProjectionGroup = ctx.group
        x, *mask = ctx.saved_tensors
        buffer = group.gradient_buffer(x.shape[0])
        buffer[:, : group.out_features] = dy.reshape(-1, group.out_features)
        group.carry_gradient(buffer)
        dx = group.input_gradient(buffer, *mask) if ctx.needs_input_grad[0] else None
        gradients = group.adapter_gradients(buffer, x, *mask)
        return None if dx is None else dx.view(ctx.shape), None, *gradients


def project(x: Tensor, group: ProjectionGroup) -> Tensor:
    """All projections of a group, with gradients for x and for the adapters.

    Args:
        x: ``[..., in]`` in the group's dtype, any strides.

    Returns:
        ``[..., out]``, the projections side by side.

    Raises:
        ValueError: x has another width or dtype than the group.
    """
    if x.shape[-1] != group.in_features or x.dtype != group.dtype:
        raise ValueError(
            f"project: x must be [..., {group.in_features}] {group.dtype}, "
            f"got {tuple(x.shape)} {x.dtype}"
        )
    y = _Project.apply(x, group, *group.parameters())
    assert isinstance(y, Tensor)  # apply() is typed as returning anything
    return y
