"""A micro-batch's forward and backward: launch by launch, or as one CUDA graph.

A small model's step is bound by the host: a thousand launches from Python take longer than what they launch,
and a screen that is drawn meanwhile takes the loop's time (both hold the interpreter's lock). Replayed as one
graph the same kernels run back to back. A graph is captured for one shape, so:

* a batch of the shape of the batch before is captured as it is;
* where the host is the bottleneck, packed batches are filled up to the micro-batch's full number of tokens:
  single tokens that are a document each, attend to themselves alone, and are not learnt. The labels are filled
  up too, to a few steps, with positions that no label has and an index that the loss ignores.

Both change no number but by the order of sums. Each graph is proven before it counts: the batch is computed as
any other, then as what it is filled up to, launch by launch, and then by the graph; loss and gradients must
agree, and where batches are filled up the graph must be faster. Where it is not, or a capture fails, the loop goes
on launch by launch. So it does with stock layers (whose kernels may wait for the device), dropout, and attention
other than ours or a batch of equal rows. Which attention is faster counts where the device is the bottleneck; where
the host is, a graph takes ours, which goes by tensors on the device.

A graph keeps the memory of its activations. When another shape or an evaluation needs that room it is given up.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.pack.batch import Batch
from ..machine.memory import free_bytes
from ..model.families.fast_layer import fast_states
from ..model.layers.packed_attention import Documents, choose
from ..model.trained import TrainedModel
from ..run import events as ev
from .graphs import GraphShape, Inputs, StepGraph, fill_up, loss_of_inputs, relative_difference
from .objectives.sft import loss_sum
from .state import Run

log = logging.getLogger(__name__)

MAX_GRAPHS = 6
"""Shapes that have a graph at a time. All share one pool of memory, but each takes a little of its own."""

_MOST_GIVEN_UP = 3
"""Times that graphs are given up for memory before none is captured any more."""

_LAG = 0.15
"""Share of a micro-step for which the device is still at work when all is launched, below which the host is the
bottleneck. Where the device is, a thousand launches wait in its queue."""

_SETTLED, _TIMED = 2, 3
"""Micro-steps before any is timed, since kernels are compiled in them, and how many are."""

_FULL = 0.8
"""How full a batch must be for what it is filled up with to be worth its time."""

_LABEL_STEPS = 8
"""Into so many steps the labels of a full micro-batch are divided, to which they are filled up."""

_ROUNDING, _TIMES_ITSELF, _FURTHEST = 1e-6, 3.0, 0.05
"""How far loss and gradients may be apart, relative: a graph's from those of the same launches by fp32's rounding, or
so many times as far as these are from themselves (attention may add atomically); and what is filled up from the
batch as it is (where attention may be another kernel) by no more than the last."""

_PROOF_COPIES = 5
"""Of the adapter's gradients, that are compared at a time."""

_MARGIN = 0.04
"""Part of the device's memory that a capture leaves alone."""


class Timing(NamedTuple):
    """Of a micro-step from an idle device."""

    seconds: float
    lag: float
    """How long the device went on after the last launch."""


class MicroStep:
    """Computes a run's micro-batches."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._never = _why_never(run.trained)
        if self._never:
            log.info("micro-steps are launched: %s", self._never)
        self._graphs: dict[GraphShape, StepGraph] = {}
        self._pool: Any = None
        self._held = 0
        """Bytes of the graphs' pool."""
        self._needs = 0
        """Bytes of a micro-step, launch by launch: the most so far, or more."""
        self._given_up = 0
        self._refused: set[GraphShape] = set()
        """That could not be captured, or gave other numbers."""
        self._slower: set[GraphShape] = set()
        """That were not faster as a graph."""
        self._begin = run.state.step
        self._last: GraphShape | None = None
        self._launched = 0
        self._timings: list[Timing] = []

    def __call__(self, batch: Batch) -> Tensor:
        """The summed loss, fp32 ``[]``; the gradients are added to the parameters'.

        Args:
            batch: on the host.
        """
        # The first update is what somebody waits for.
        waited_for = self._run.state.step == self._begin
        shape = None if self._never or waited_for else self._shape(batch)
        if shape is None:
            return self._launch(batch)
        again, self._last = shape == self._last, shape
        if graph := self._graphs.get(shape):
            return graph.replay(fill_up(batch, shape))
        if (
            not (again or self._host_bound)
            or shape in self._refused | self._slower
            or len(self._graphs) >= MAX_GRAPHS
            or not self._room()
        ):
            return self._launch(batch)
        return self._capture(batch, shape)

    def make_room(self) -> None:
        """Give the graphs up if as much as a micro-step takes would not fit beside them."""
        # What the graphs hold counts as free there, but launches cannot take it.
        if self._graphs and free_bytes(self._run.trained.device)[0] - self._held < self._needs:
            self.give_up()

    def give_up(self) -> bool:
        """Let go of the graphs for their memory; whether there were any."""
        if not self._graphs:
            return False
        self.forget()
        self._given_up += 1
        if self._given_up >= _MOST_GIVEN_UP:
            self._never = "the memory of graphs is needed"
        return True

    def forget(self) -> None:
        """Let go of all graphs and what they hold."""
        if self._graphs:
            torch.cuda.synchronize(self._run.trained.device)
        self._graphs, self._pool, self._held, self._last = {}, None, 0, None

    @property
    def _host_bound(self) -> bool:
        full = len(self._timings) == _TIMED
        return full and all(timing.lag < _LAG * timing.seconds for timing in self._timings)

    def _shape(self, batch: Batch) -> GraphShape | None:
        """What a batch may be captured as; None where it cannot be."""
        run = self._run
        way = choose(Documents(lengths=batch.lengths, bounds=batch.cu_seqlens, ways=run.trained.ways))
        # As of now: a recovery may have changed them.
        capacity = run.config.train.per_device_train_batch_size * run.config.data.max_length
        count = len(batch.lengths)
        proven = run.trained.ways.windowed == "kernel"
        if not self._host_bound:
            if way == "rows" or (way == "kernel" and proven):
                rows = count if way == "rows" else 0
                return GraphShape(batch.tokens, batch.trained_tokens, rows)
            return None
        step = max(1, capacity // _LABEL_STEPS)
        labels = min(-(-batch.trained_tokens // step) * step, capacity)
        if way == "rows" and batch.tokens == capacity:
            return GraphShape(capacity, labels, count)
        full = _FULL * capacity <= batch.tokens <= capacity
        return GraphShape(capacity, labels, 0) if proven and full else None

    def _room(self) -> bool:
        """Whether a graph and its proof fit: what launching the same took is free by then, and what
        other graphs hold is used again."""
        free, total = free_bytes(self._run.trained.device)
        proof = _PROOF_COPIES * self._run.optimizer.gradients.nbytes
        return free > self._needs + proof + _MARGIN * total

    def _launch(self, batch: Batch) -> Tensor:
        device = self._run.trained.device
        if device.type != "cuda":
            return _loss_and_gradients(self._run.trained, batch)
        self.make_room()
        self._launched += 1
        if not self._never and self._launched > _SETTLED and len(self._timings) < _TIMED:
            loss, timing = self._timed(lambda: _loss_and_gradients(self._run.trained, batch))
            self._timings.append(timing)
            if len(self._timings) == _TIMED:
                log.info("micro-steps from an idle device: %s", self._timings)
        else:
            loss = _loss_and_gradients(self._run.trained, batch)
        self._note_needs()
        return loss

    def _timed(self, compute: Callable[[], Tensor]) -> tuple[Tensor, Timing]:
        torch.cuda.synchronize(self._run.trained.device)
        start = time.perf_counter()
        loss = compute()
        launched = time.perf_counter()
        torch.cuda.synchronize(self._run.trained.device)
        done = time.perf_counter()
        return loss, Timing(done - start, done - launched)

    def _note_needs(self) -> None:
        device = self._run.trained.device
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
            self._needs = max(self._needs, peak - torch.cuda.memory_allocated(device))

    def _capture(self, batch: Batch, shape: GraphShape) -> Tensor:
        """The batch's loss and gradients, launched; and a graph of the same if it gives them too."""
        run = self._run
        gradients = run.optimizer.gradients
        before = gradients.clone()

        def again(compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
            gradients.copy_(before)
            return compute(), gradients - before

        # All launches before the capture: a graph beside them would need their memory twice.
        launched = again(lambda: _loss_and_gradients(run.trained, batch))
        after = gradients.clone()
        if not all(bool(tensor.isfinite().all()) for tensor in launched):
            return launched[0]  # a bad batch proves nothing
        graph, apart, difference = None, math.inf, math.inf
        noise, faster = math.inf, False
        try:
            inputs = fill_up(batch, shape)
            static = inputs.to(run.trained.device)
            filled = again(lambda: loss_of_inputs(run.trained, static, shape))
            apart = noise = relative_difference(filled, launched)
            if self._host_bound:  # the attention may be another than the launches'
                noise = relative_difference(again(lambda: loss_of_inputs(run.trained, static, shape)), filled)
            self._note_needs()
            if apart <= _FURTHEST:
                graph = self._make(static, shape)
                difference = relative_difference(again(lambda: graph.replay(inputs)), filled)
                faster = not self._host_bound or self._is_faster(graph, inputs)
        except (RuntimeError, MemoryError) as error:
            log.warning("no CUDA graph: %s", str(error).partition("\n")[0], exc_info=True)
        gradients.copy_(after)
        if graph is None or difference > max(_ROUNDING, _TIMES_ITSELF * noise):
            log.warning("no CUDA graph: %.1e off, launches %.1e", difference, apart)
            self.forget()
            if self._refused or apart == math.inf:
                self._never = "no graph could be captured, or it gave other numbers"
            self._refused.add(shape)
            return launched[0]
        if not faster:
            log.info("no CUDA graph for %s: it is not faster", shape)
            self._slower.add(shape)
            if not self._graphs:  # nothing else lies in the pool
                self.forget()
            return launched[0]
        self._graphs[shape] = graph
        more = shape.tokens - batch.tokens
        run.control.emit(ev.StepCaptured(tokens=shape.tokens, labels=shape.labels, filled=more, difference=difference))
        return launched[0]

    def _is_faster(self, graph: StepGraph, inputs: Inputs) -> bool:
        """Whether its best time is better than that of launches: a screen that is drawn meanwhile delays one."""
        replays = [self._timed(lambda: graph.replay(inputs))[1] for _ in range(_TIMED)]
        return min(one.seconds for one in replays) < min(one.seconds for one in self._timings)

    def _make(self, static: Inputs, shape: GraphShape) -> StepGraph:
        device = self._run.trained.device
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what is reserved on top of this is the graph's
        reserved = torch.cuda.memory_reserved(device)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = StepGraph(self._run.trained, static, shape, self._pool)
        self._held += max(0, torch.cuda.memory_reserved(device) - reserved)
        return graph


def _loss_and_gradients(trained: TrainedModel, batch: Batch) -> Tensor:
    loss = loss_sum(trained, batch.to(trained.device))
    loss.backward()  # divided later: in fp16 small gradients would vanish here
    return loss.detach()


def _why_never(trained: TrainedModel) -> str:
    """Why this run's micro-steps are not captured at all; empty where they may be."""
    states = fast_states(trained.model)
    if trained.device.type != "cuda":
        return "there is no GPU"
    if trained.head is None or not trained.packed:
        return "the model's own head or attention computes the loss"
    if len(states) < trained.model.config.get_text_config().num_hidden_layers:
        return "some layers are stock"
    if any(group.dropout for state in states for group in state.parts.groups):
        return "there is dropout"
    rope: Any = getattr(trained.model.config.get_text_config(), "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        return f"{rope['rope_type']} rope asks the device how long a batch is"
    return ""
