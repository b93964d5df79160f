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
parameters rounded to the compute dtype, anew in every forward (`Workspace.refresh`).

Dropout acts on the adapter's input only, so there the two parts of dx are two matmuls. The projections of
a group share one dropout mask (PEFT draws one each: the same distribution for each projection).

Everything here is plain torch but the dequantisation, so it runs, and is tested, on a CPU as it is.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .carry import copy_carry
from .matmul import aligned, matmul, matmul_fp32, row_bytes
from .matmul_choices import Product
from .nf4 import NF4Weight, dequantize_nf4
from .scatter import Copy, Scatter

_MULTIPLE = 16
"""Extra columns come in multiples of this, which tensor cores take."""


@dataclass(frozen=True, kw_only=True)
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
    """What the groups of a model share: matrices that they take turns in, one for each size, and the
    launch that rounds all their adapters."""

    def __init__(self) -> None:
        self._matrices: dict[tuple[int, int, torch.dtype, torch.device], Tensor] = {}
        # Weak: groups hold the workspace, and a cycle would keep their matrices, gigabytes, until
        # the garbage collector comes round.
        self._groups: list[weakref.ref[ProjectionGroup]] = []
        self._parameters: list[Tensor] = []
        self._where: list[int] = []
        self._scatter: Scatter | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Workspace:
        """For copies of a model: their groups share a workspace of their own."""
        memo[id(self)] = other = Workspace()
        groups = [group for reference in self._groups if (group := reference()) is not None]
        other._groups = [weakref.ref(copy.deepcopy(group, memo)) for group in groups]
        return other

    def join(self, group: ProjectionGroup) -> None:
        self._groups.append(weakref.ref(group))
        self.forget()

    def forget(self) -> None:
        """To be called when a group's adapter is to be written elsewhere."""
        self._parameters, self._where, self._scatter = [], [], None

    def refresh(self) -> None:
        """Round the adapters of all groups anew. Once in every forward: an optimiser's update may be
        invisible (torch's fused AdamW and bitsandbytes' raise no version)."""
        where = [parameter.data_ptr() for parameter in self._parameters]
        if where != self._where or self._scatter is None:
            groups = [group for reference in self._groups if (group := reference()) is not None]
            self._parameters = [t for group in groups for t in group.parameters()]
            self._where = [parameter.data_ptr() for parameter in self._parameters]
            self._scatter = Scatter([one for group in groups for one in group.adapter_copies()])
        self._scatter.run()

    def matrix(self, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """``[rows, columns]``, with whatever the last user left in it."""
        key = rows, columns, dtype, device
        if key not in self._matrices:
            with torch.inference_mode(False):  # others write to it outside of that
                self._matrices[key] = aligned(rows, columns, dtype, device)
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
        self._filled = False
        self._adapter: tuple[Tensor, Tensor] | None = None
        workspace.join(self)

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
        return aligned(tokens, columns + self.extra, self.dtype, self.device)

    def keep_weights(self, keep: bool) -> None:
        """Hold the dequantised weights between uses, or let them go.

        Their memory is taken in the next forward, where they are filled as well.
        """
        self.cached = keep
        self._kept = self._adapter = None
        self._filled = False
        self._workspace.forget()

    def refresh(self) -> None:
        """Take in the adapters as they are now, and those of all groups of the workspace."""
        self._workspace.refresh()

    def carry(self, x: Tensor, mask: Tensor | None = None, *, training: bool = True) -> Tensor | None:
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
        self.carry_bias(x)
        return mask

    def carry_from(
        self, source: Tensor, x: Tensor, mask: Tensor | None = None, *, training: bool = True
    ) -> Tensor | None:
        """Copy ``[tokens, in]`` into the first columns of an input, and `carry`: one pass where the
        group has no dropout."""
        target, carried = x[:, : self.in_features], x[:, self.in_features :]
        if self.dropout or not self.extra:
            target.copy_(source)
            return self.carry(x, mask, training=training)
        copy_carry(source, target, self.carrying_rows(), carried)
        self.carry_bias(x)
        return None

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """All projections of an input.

        Args:
            x: ``[tokens, in + extra]`` after `carry`.
            out: ``[tokens, out]`` to write to, rows any distance apart.

        Returns:
            ``[tokens, out]``, the projections side by side.
        """
        inner = self._matrix()[: self.out_features].t()
        return matmul(x, inner, out)

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
            return matmul(dy, matrix)
        dx = matmul(dy[:, : self.out_features], matrix[: self.out_features])
        adapter = torch.mm(dy[:, self.out_features :], matrix[self.out_features :])
        return dx.add_(self._drop(adapter, mask))

    def adapter_gradients(self, dy: Tensor, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Gradients of `parameters()`, fp32.

        Args:
            dy: ``[tokens, out + extra]`` after `carry_gradient`.
            x: ``[tokens, in + extra]`` after `carry`.
            mask: what `carry` returned.
        """
        return self.gather(self.a_gradient(dy, x, mask), self.b_gradients(dy, self.carried(x)))

    def a_gradient(self, dy: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of all A, one below the other, fp32 ``[rank, in]``; arguments as for `adapter_gradients`."""
        source = x[:, : self.in_features]
        if mask is not None:
            source = self._drop(source, mask)
        return matmul_fp32(self.carried_gradient(dy).t(), source)

    def b_gradients(self, dy: Tensor, carried: Sequence[Tensor]) -> list[Tensor]:
        """Of each projection's B, fp32 ``[out, r]``, before its scaling.

        Args:
            dy: ``[tokens, out + extra]``; only the first columns are read.
            carried: as of `carried`.
        """
        rows = [p.weight.shape[0] for p in self.projections]
        parts = dy[:, : self.out_features].split(rows, dim=1)
        return [matmul_fp32(part.t(), t) for part, t in zip(parts, carried, strict=True)]

    def gather(self, da: Tensor, db: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of `parameters()` from `a_gradient` and `b_gradients`, however they were
        computed."""
        gradients = []
        parts = da.split([p.rank for p in self.projections])
        for projection, a, b in zip(self.projections, parts, db, strict=True):
            if projection.rank:
                gradients += [a, b.mul_(projection.scaling)]
        return gradients

    def carried(self, x: Tensor) -> list[Tensor]:
        """Each projection's columns of an input after `carry`, ``[tokens, r]``."""
        columns = x[:, self.in_features : self.in_features + self.rank]
        return list(columns.split([p.rank for p in self.projections], dim=1))

    def carried_gradient(self, dy: Tensor) -> Tensor:
        """The adapters' columns of a gradient after `carry_gradient`, ``[tokens, rank]``."""
        return dy[:, self.out_features : self.out_features + self.rank]

    def carrying_rows(self) -> Tensor:
        """What an input is multiplied by to give its extra columns, ``[extra, in]``; for those who do
        so themselves, and then call `carry_bias`."""
        return self._adapters()[0][:, : self.in_features]

    def carry_bias(self, x: Tensor) -> None:
        """Write the column that brings in the biases, where there are any."""
        if self._has_bias:
            x[:, self.in_features + self.rank] = 1.0

    def _drop(self, values: Tensor, mask: Tensor) -> Tensor:
        return torch.ops.aten.native_dropout_backward(values, mask, 1 / (1 - self.dropout))

    def _matrix(self) -> Tensor:
        """The group's matrix, filled."""
        rows, columns = self._adapters()
        matrix = self._kept
        if matrix is not None and self._filled:
            return matrix
        if matrix is None:
            matrix = self._workspace.matrix(*self.matrix_shape, self.dtype, self.device)
            matrix[self.out_features :].copy_(rows)
            matrix[: self.out_features, self.in_features :].copy_(columns)
        row = 0
        for projection in self.projections:
            weight = projection.weight
            target = matrix[row : row + weight.shape[0], : self.in_features]
            if isinstance(weight, Tensor):
                target.copy_(weight)
            else:
                dequantize_nf4(weight, out=target)
            row += weight.shape[0]
        self._filled = matrix is self._kept
        return matrix

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Of the matrix: see the module."""
        return self.out_features + self.extra, self.in_features + self.extra

    def products(self, tokens: int) -> list[Product]:
        """The matmuls of `forward` and `input_gradient`, for `matmul.tune`."""
        rows, columns = self.matrix_shape
        return [
            Product(tokens, self.out_features, columns, True),
            Product(tokens, self.in_features, rows, False),
        ]

    @property
    def matrix_bytes(self) -> int:
        rows, columns = self.matrix_shape
        return rows * row_bytes(columns, self.dtype)

    @property
    def input_bytes(self) -> int:
        """Of one token in an `input_buffer`."""
        return row_bytes(self.in_features + self.extra, self.dtype)

    @property
    def gradient_bytes(self) -> int:
        """Of one token in a `gradient_buffer`."""
        return row_bytes(self.out_features + self.extra, self.dtype)

    def _adapters(self) -> tuple[Tensor, Tensor]:
        """The adapters' rows and columns of the matrix, as last rounded: ``[extra, in + extra]`` and
        ``[out, extra]``."""
        if self._adapter is None:
            self._workspace.refresh()
        assert self._adapter is not None
        return self._adapter

    def adapter_copies(self) -> list[Copy]:
        """From where to where the adapters are rounded, as of now; for `Workspace.refresh`."""
        adapter_rows, adapter_columns = self._adapter or self._make_room()
        copies = []
        row = column = 0
        for projection in self.projections:
            rows, rank = projection.weight.shape[0], projection.rank
            if projection.lora_a is not None and projection.lora_b is not None:
                a, b = projection.lora_a.detach(), projection.lora_b.detach()
                target = adapter_rows[column : column + rank, : self.in_features]
                copies.append(Copy(a, target, 1.0))
                target = adapter_columns[row : row + rows, column : column + rank]
                copies.append(Copy(b, target, projection.scaling))
            row, column = row + rows, column + rank
        return copies

    def _make_room(self) -> tuple[Tensor, Tensor]:
        """The adapters' rows and columns, zero but for the biases: a part of the matrix that is kept,
        or tensors of their own."""
        with torch.inference_mode(False):  # it is written to outside of that too
            return self._make_room_now()

    def _make_room_now(self) -> tuple[Tensor, Tensor]:
        like = {"dtype": self.dtype, "device": self.device}
        if self.cached:
            self._kept = aligned(*self.matrix_shape, self.dtype, self.device)
            rows = self._kept[self.out_features :]
            columns = self._kept[: self.out_features, self.in_features :]
        else:
            rows = torch.empty((self.extra, self.in_features + self.extra), **like)
            columns = torch.empty((self.out_features, self.extra), **like)
        rows.zero_()
        columns.zero_()
        row = 0
        for projection in self.projections:
            end = row + projection.weight.shape[0]
            if projection.bias is not None:
                columns[row:end, self.rank] = projection.bias
            row = end
        self._adapter = rows, columns
        return self._adapter


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
        raise ValueError(f"project: x must be [..., {group.in_features}] {group.dtype}, got {tuple(x.shape)} {x.dtype}")
    group.refresh()
    y = _Project.apply(x, group, *group.parameters())
    assert isinstance(y, Tensor)  # apply() is typed as returning anything
    return y
