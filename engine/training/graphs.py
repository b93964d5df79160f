"""One micro-step of a fixed shape as a CUDA graph, and a batch filled up to that shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.pack.batch import Batch
from ..model.layers.packed_attention import Documents
from ..model.trained import TrainedModel


class GraphShape(NamedTuple):
    """What a graph is made for."""

    tokens: int
    labels: int
    rows: int
    """Documents of one length, as a batch; 0: of any lengths, in our kernel."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that a micro-step reads, of a fixed shape; on the host or, for a graph, always in one place."""

    input_ids: Tensor
    """int64 ``[1, T]``."""
    position_ids: Tensor
    """int64 ``[1, T]``."""
    labels: Tensor
    """int64 ``[M]``; -100 where there is none."""
    label_positions: Tensor
    """int64 ``[M]``, none twice."""
    starts: Tensor
    """int32 ``[T]``: the first token of each token's document."""
    ends: Tensor
    """int32 ``[T]``: one past its last."""

    def tensors(self) -> list[Tensor]:
        return list(vars(self).values())

    def to(self, device: torch.device) -> Inputs:
        return Inputs(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def fill_up(batch: Batch, shape: GraphShape) -> Inputs:
    """A batch on the host, filled up to a shape with tokens and labels that change nothing.

    Raises:
        ValueError: it is larger.
    """
    tokens, labels = shape.tokens - batch.tokens, shape.labels - batch.trained_tokens
    if tokens < 0 or labels < 0 or shape.labels > shape.tokens:
        raise ValueError(f"a batch of {batch.tokens} and {batch.trained_tokens} into {shape}")
    ends = np.cumsum(batch.lengths)
    alone = np.arange(batch.tokens, shape.tokens)
    starts = np.concatenate([np.repeat(ends - batch.lengths, batch.lengths), alone])
    ends = np.concatenate([np.repeat(ends, batch.lengths), alone + 1])
    free = np.ones(shape.tokens, dtype=bool)
    free[batch.label_positions.numpy()] = False
    # The last ones first: where there are filled up tokens, nothing hangs on their hidden states.
    unused = torch.from_numpy(np.flatnonzero(free)[::-1][:labels].copy())
    nothing = torch.zeros((1, tokens), dtype=torch.int64)
    return Inputs(
        input_ids=torch.cat([batch.input_ids, nothing], dim=1),
        position_ids=torch.cat([batch.position_ids, nothing], dim=1),
        labels=torch.cat([batch.labels, torch.full((labels,), -100)]),
        label_positions=torch.cat([batch.label_positions, unused]),
        starts=torch.from_numpy(starts.astype(np.int32)),
        ends=torch.from_numpy(ends.astype(np.int32)),
    )


class StepGraph:
    """One captured micro-step and the tensors that it reads and writes."""

    def __init__(self, trained: TrainedModel, static: Inputs, shape: GraphShape, pool: Any) -> None:
        self._static = static
        self._graph = torch.cuda.CUDAGraph()
        with _capturing(self._graph, pool):
            self._loss = loss_of_inputs(trained, static, shape)

    def replay(self, inputs: Inputs) -> Tensor:
        for source, target in zip(inputs.tensors(), self._static.tensors(), strict=True):
            target.copy_(source.pin_memory(), non_blocking=True)
        self._graph.replay()
        return self._loss.clone()


@contextmanager
def _capturing(graph: torch.cuda.CUDAGraph, pool: Any) -> Iterator[None]:
    """`torch.cuda.graph`, and back to where it was if the capture fails.

    torch's own context then stays on the capture's stream, and its allocator goes on as if a capture were
    under way, during which it returns no memory.
    """
    with torch.cuda.stream(torch.cuda.current_stream()):
        try:
            # Other threads draw screens and read the device's memory meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                yield
        except BaseException:
            index = torch.cuda.current_device()
            for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
                # Where the capture did come to its end they have nothing to do, and say so.
                with suppress(RuntimeError, AttributeError):
                    getattr(torch._C, name)(index, pool)
            raise


def loss_of_inputs(trained: TrainedModel, inputs: Inputs, shape: GraphShape) -> Tensor:
    """The same of inputs on the device."""
    assert trained.head is not None
    # Equal rows as they are; else in our kernel, which goes by starts and ends.
    rows = shape.rows
    ways = replace(trained.ways, mixed="kernel")
    lengths = (shape.tokens // rows,) * rows if rows else (shape.tokens - 1, 1)
    bounds = torch.arange(  # for equal rows; the kernel does not read them
        0, shape.tokens + 1, max(1, lengths[0]), dtype=torch.int32, device=inputs.starts.device
    )
    documents = Documents(lengths=lengths, bounds=bounds, ways=ways, spans=(inputs.starts, inputs.ends))
    loss = trained.head.losses(
        trained.model, inputs.labels, inputs.label_positions, input_ids=inputs.input_ids,
        position_ids=inputs.position_ids, documents=documents,
    ).sum()  # fmt: skip
    loss.backward()
    return loss.detach()


def relative_difference(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> float:
    """Of loss and gradients, the larger: relative, by the root mean square; infinite where anything is
    not finite."""
    errors = [
        ((one - other).norm() / other.norm().clamp_min(1e-30)).item() for one, other in zip(got, want, strict=True)
    ]
    return max(errors) if all(map(math.isfinite, errors)) else math.inf
