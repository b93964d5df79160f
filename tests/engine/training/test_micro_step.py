"""Micro-steps as graphs: what they are filled up with, and when one is captured. That a graph gives the
same numbers is seen on a GPU: tests/gpu/graph_gpu.py."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_layers import DEVICE, LENGTHS, OUR_KERNEL, tiny

from evenfall.engine.data.pack.batch import collate
from evenfall.engine.data.pack.examples import Example
from evenfall.engine.model.families.fast_layer import fast_states
from evenfall.engine.model.layers.packed_attention import Ways
from evenfall.engine.model.patch import layers as patch
from evenfall.engine.model.patch.loss_head import read_head
from evenfall.engine.model.patch.proof import Proof
from evenfall.engine.model.trained import TrainedModel
from evenfall.engine.run import events as ev
from evenfall.engine.training import graphs, micro_step
from evenfall.engine.training.graphs import GraphShape, Inputs, fill_up
from evenfall.engine.training.micro_step import MicroStep
from evenfall.kernels.backend import triton

ROWS = Ways(equal="rows", mixed="kernel", windowed="kernel", softcapped="kernel")
ANOTHER_IS_FASTER = Ways(equal="rows", mixed="each", windowed="kernel")


def batch_of(lengths, *, learnt=0.5, seed=0):
    generator = np.random.default_rng(seed)
    examples = []
    for number, length in enumerate(lengths):
        trained = generator.random(length) < learnt
        examples.append(Example(ids=generator.integers(3, 60, length), trained=trained, number=number))
    return collate(examples)


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=6),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 5),
)
def test_filling_up_adds_lonely_tokens_and_labels_that_do_not_count(lengths, tokens, labels, seed):
    batch = batch_of(lengths, seed=seed)
    shape = GraphShape(batch.tokens + tokens, batch.trained_tokens + labels, 0)
    if shape.labels > shape.tokens:
        with pytest.raises(ValueError, match="into GraphShape"):
            fill_up(batch, shape)
        return
    inputs = fill_up(batch, shape)
    count, learnt = batch.tokens, batch.trained_tokens
    assert [t.shape[-1] for t in inputs.tensors()] == [
        *[shape.tokens] * 2,
        *[shape.labels] * 2,
        *[shape.tokens] * 2,
    ]
    assert torch.equal(inputs.input_ids[:, :count], batch.input_ids)
    assert torch.equal(inputs.position_ids[:, :count], batch.position_ids)
    assert torch.equal(inputs.labels[:learnt], batch.labels)
    assert torch.equal(inputs.label_positions[:learnt], batch.label_positions)
    assert (inputs.labels[learnt:] == -100).all()
    assert len(set(inputs.label_positions.tolist())) == shape.labels
    assert (inputs.label_positions < shape.tokens).all()
    at = 0
    for length in (*lengths, *[1] * tokens):
        assert inputs.starts[at : at + length].tolist() == [at] * length
        assert inputs.ends[at : at + length].tolist() == [at + length] * length
        at += length


def test_a_batch_is_not_filled_into_less_than_it_is():
    batch = batch_of([5, 5])
    with pytest.raises(ValueError, match="a batch of 10"):
        fill_up(batch, GraphShape(9, 9, 0))


def fast_run(**changes) -> Any:
    """As much of a run as a micro-step looks at, its layers forced onto our kernels: without their
    proof, which test_layers.py is about and which takes longer than all that is done with them here."""
    model = tiny("llama", quantized=True, **changes)
    with pytest.MonkeyPatch.context() as unproven:
        unproven.setattr(patch, "prove", lambda *_: Proof(passed=True, reason=""))
        (part,) = patch.patch_layers(model, DEVICE, OUR_KERNEL, force=True)
    assert part.fast and part.count == 2, part
    head, _ = read_head(model)
    assert head is not None
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = torch.zeros(sum(p.numel() for p in parameters), device=DEVICE)
    at = 0
    for parameter in parameters:
        parameter.grad = flat[at : at + parameter.numel()].view(parameter.shape)
        at += parameter.numel()
    for state in fast_states(model):
        state.accumulate = True
    trained = TrainedModel(model=model, head=head, ways=OUR_KERNEL, device=torch.device(DEVICE), packed=True)
    return SimpleNamespace(trained=trained, optimizer=SimpleNamespace(gradients=flat))


@pytest.mark.skipif(triton is None, reason="our attention needs Triton or its interpreter")
@pytest.mark.parametrize("ways", [OUR_KERNEL, ANOTHER_IS_FASTER], ids=["kernel", "another"])
def test_a_filled_up_batch_has_the_loss_and_the_gradients_of_the_batch(ways):
    run = fast_run()
    run.trained.ways = ways
    batch = batch_of(LENGTHS)
    want = micro_step._loss_and_gradients(run.trained, batch)
    gradients = run.optimizer.gradients.clone()
    assert gradients.abs().max() > 0
    run.optimizer.gradients.zero_()
    shape = GraphShape(40, 30, 0)
    got = graphs.loss_of_inputs(run.trained, fill_up(batch, shape), shape)
    assert torch.allclose(got, want, rtol=1e-5)
    assert torch.allclose(run.optimizer.gradients, gradients, rtol=1e-4, atol=1e-6)


HOST_BOUND = [micro_step.Timing(seconds=10.0, lag=0.1)] * 3


@pytest.fixture
def gpu(monkeypatch):
    """Stands in for a GPU and for a model whose loss and gradients count the tokens that are learnt."""
    made = []
    stand_in = SimpleNamespace(made=made, free=10**12, loss=1.0, drift=0.0, graphs_off_by=1.0)

    def learn(trained, count):
        stand_in.loss *= 1 + stand_in.drift
        trained.optimizer.gradients.add_(count * stand_in.loss)
        return torch.tensor(count * stand_in.loss)

    def of_inputs(trained, inputs, shape):
        return learn(trained, int((inputs.labels >= 0).sum()))

    class FakeGraph:
        def __init__(self, trained, static, shape, pool):
            made.append(shape)
            self.trained, self.shape = trained, shape

        def replay(self, inputs: Inputs):
            loss = of_inputs(self.trained, inputs, self.shape)
            self.trained.optimizer.gradients.mul_(stand_in.graphs_off_by)
            return loss

    monkeypatch.setattr(micro_step, "StepGraph", FakeGraph)
    monkeypatch.setattr(micro_step, "loss_of_inputs", of_inputs)
    monkeypatch.setattr(
        micro_step,
        "_loss_and_gradients",
        lambda trained, batch: learn(trained, batch.trained_tokens),
    )
    monkeypatch.setattr(micro_step, "_why_never", lambda trained: "")
    monkeypatch.setattr(micro_step, "free_bytes", lambda device: (stand_in.free, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    return stand_in


def started(run) -> MicroStep:
    """Behind its first update."""
    step = MicroStep(run)
    run.state.step += 1
    return step


def counting_run(ways=ROWS, capacity=40) -> Any:
    told = []
    config = SimpleNamespace(
        train=SimpleNamespace(per_device_train_batch_size=1),
        data=SimpleNamespace(max_length=capacity),
    )
    optimizer = SimpleNamespace(gradients=torch.zeros(3))
    trained = SimpleNamespace(ways=ways, device=torch.device("cpu"), optimizer=optimizer)
    return SimpleNamespace(
        trained=trained, config=config, told=told, optimizer=optimizer,
        state=SimpleNamespace(step=1), control=SimpleNamespace(emit=told.append),
    )  # fmt: skip


def test_a_shape_that_comes_twice_in_a_row_is_captured_and_gives_the_same(gpu):
    run = counting_run()
    step, batch = started(run), batch_of([8, 8], learnt=1.0)
    for times in range(1, 5):
        assert step(batch) == 14.0
        assert run.optimizer.gradients.tolist() == [14.0 * times] * 3
    assert gpu.made == [GraphShape(16, 14, 2)]
    (event,) = run.told
    assert isinstance(event, ev.StepCaptured) and event.difference == 0.0 and event.filled == 0


def test_the_first_update_does_not_wait_for_a_capture(gpu):
    run = counting_run()
    run.state.step = 20  # as after a resume
    step, batch = MicroStep(run), batch_of([8, 8], learnt=1.0)
    for _ in range(3):
        step(batch)
    assert not gpu.made
    run.state.step = 21
    step(batch)
    step(batch)
    assert len(gpu.made) == 1


def test_shapes_that_come_by_turns_are_launched(gpu):
    step = started(counting_run())
    for lengths in ([8, 8], [6, 6], [8, 8], [6, 6]):
        step(batch_of(lengths))
    assert not gpu.made


def test_where_the_host_is_the_bottleneck_batches_of_all_lengths_share_a_graph(gpu):
    run = counting_run(OUR_KERNEL)
    step = started(run)
    step._timings = HOST_BOUND
    learnt = 0
    for seed, lengths in enumerate(([29, 1, 4], [30, 8], [36], [20, 12, 7])):
        batch = batch_of(lengths, seed=seed, learnt=0.4)
        assert step(batch) == batch.trained_tokens
        learnt += batch.trained_tokens
        assert run.optimizer.gradients.tolist() == [learnt] * 3
    assert {shape.tokens for shape in gpu.made} == {40}
    assert all(shape.labels % 5 == 0 for shape in gpu.made)
    assert len(gpu.made) < 4


def test_labels_that_fill_up_to_more_than_there_are_tokens_are_no_error(gpu):
    step = started(counting_run(capacity=16))
    step._timings = HOST_BOUND
    for _ in range(3):
        assert step(batch_of([8, 8], learnt=1.0)) == 14.0


def test_attention_that_cannot_be_captured_is_launched(gpu):
    step = started(counting_run(Ways(equal="flash", mixed="flash", windowed="flash")))
    for _ in range(3):
        step(batch_of([8, 8]))
        step(batch_of([8, 3]))
        step(batch_of([8, 3]))
    assert not gpu.made


def test_a_graph_that_gives_other_numbers_is_not_used(gpu):
    gpu.graphs_off_by = 1.1
    run = counting_run()
    step, batch = started(run), batch_of([8, 8], learnt=1.0)
    for times in range(1, 5):
        assert step(batch) == 14.0
        assert run.optimizer.gradients.tolist() == [14.0 * times] * 3
    assert len(gpu.made) == 1 and not run.told


def test_where_the_host_is_the_bottleneck_attention_need_not_be_the_fastest(gpu):
    step = started(counting_run(Ways(equal="flash", mixed="flash", windowed="kernel")))
    step._timings = HOST_BOUND
    for lengths in ([29, 1, 4], [30, 8], [36]):
        step(batch_of(lengths))
    assert {shape.tokens for shape in gpu.made} == {40}


def test_a_filled_up_graph_that_is_not_faster_is_not_used(gpu):
    run = counting_run(OUR_KERNEL)
    step, batch = started(run), batch_of([20, 18], learnt=1.0)
    step._timings = [micro_step.Timing(seconds=0.0, lag=-1.0)] * 3
    for times in range(1, 5):
        assert step(batch) == 36.0
        assert run.optimizer.gradients.tolist() == [36.0 * times] * 3
    assert len(gpu.made) == 1 and not run.told
    assert step._pool is None and step._held == 0
    step._timings = HOST_BOUND
    for learnt in (0.5, 0.1):  # other shapes are not to blame for it
        step(batch_of([20, 18], learnt=learnt))
    assert len(gpu.made) == len(run.told) + 1 == 3


def test_a_replay_that_a_screen_delays_is_not_held_against_a_graph(gpu, monkeypatch):
    step = started(counting_run(OUR_KERNEL))
    step._timings = HOST_BOUND
    real, delays = step._timed, iter([99.0, 0.0, 99.0])

    def delayed(compute):
        loss, timing = real(compute)
        return loss, timing._replace(seconds=timing.seconds + next(delays))

    monkeypatch.setattr(step, "_timed", delayed)
    step(batch_of([29, 1, 4]))
    assert len(step._graphs) == 1


def test_a_graph_whose_time_cannot_be_taken_is_not_used(gpu, monkeypatch):
    run = counting_run(OUR_KERNEL)
    step, batch = started(run), batch_of([20, 18], learnt=1.0)
    step._timings = HOST_BOUND

    def fails(compute):
        compute()
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step, "_timed", fails)
    for times in range(1, 4):
        assert step(batch) == 36.0
        assert run.optimizer.gradients.tolist() == [36.0 * times] * 3
    assert not step._graphs and not run.told


def test_a_graph_may_be_as_far_off_as_its_own_launches_and_not_as_another_attention(gpu, monkeypatch):
    gpu.graphs_off_by = 1.01
    run = counting_run(ANOTHER_IS_FASTER)
    step, batch = started(run), batch_of([20, 18], learnt=1.0)
    step._timings = HOST_BOUND
    launched = micro_step._loss_and_gradients

    def other_attention(trained, batch):
        loss = launched(trained, batch)
        trained.optimizer.gradients.mul_(1.02)
        return loss

    monkeypatch.setattr(micro_step, "_loss_and_gradients", other_attention)
    step(batch)
    assert len(gpu.made) == 1 and not step._graphs


@pytest.mark.parametrize(("lag", "captured"), [(0.5, False), (0.02, True)])
def test_the_bottleneck_is_the_device_where_it_goes_on_when_all_is_launched(gpu, lag, captured):
    step = started(counting_run(OUR_KERNEL))
    step._timings = [micro_step.Timing(10.0, 0.2), micro_step.Timing(10.0, 10 * lag)]
    step._timings.append(micro_step.Timing(10.0, 0.1))
    for lengths in ([29, 1, 4], [30, 8]):
        step(batch_of(lengths))
    assert bool(gpu.made) == captured


def test_a_second_refusal_is_the_last(gpu):
    gpu.graphs_off_by = 1.1
    step = started(counting_run())
    for lengths in ([8, 8], [6, 6], [4, 4]):
        step(batch_of(lengths))
        step(batch_of(lengths))
    assert gpu.made == [GraphShape(16, *gpu.made[0][1:]), GraphShape(12, *gpu.made[1][1:])]


def test_what_is_filled_up_must_give_the_numbers_of_the_batch(gpu, monkeypatch):
    monkeypatch.setattr(
        micro_step,
        "loss_of_inputs",
        lambda trained, inputs, shape: torch.tensor(float(shape.labels)),
    )
    step, batch = started(counting_run()), batch_of([8, 8])
    step(batch)
    step(batch)
    assert not gpu.made


def test_batches_that_are_far_from_full_are_not_filled_up(gpu):
    step = started(counting_run(OUR_KERNEL, capacity=100))
    step._timings = HOST_BOUND
    for _ in range(3):
        step(batch_of([20, 30]))
    assert not gpu.made


def test_a_graph_does_not_take_attention_from_what_is_faster(gpu):
    ways = Ways(equal="flash", mixed="kernel", windowed="kernel")
    step = started(counting_run(ways))
    for _ in range(3):
        step(batch_of([8, 8]))
    assert not gpu.made


def test_memory_that_ran_out_in_the_proof_leaves_the_step_as_it_was(gpu, monkeypatch):
    def fails(run, inputs, shape):
        run.optimizer.gradients.add_(99)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(micro_step, "loss_of_inputs", fails)
    run = counting_run()
    step, batch = started(run), batch_of([8, 8], learnt=1.0)
    for times in range(1, 4):
        assert step(batch) == 14.0
        assert run.optimizer.gradients.tolist() == [14.0 * times] * 3


def test_launches_that_differ_from_themselves_do_not_blame_the_graph(gpu):
    gpu.drift = 1e-3
    run = counting_run()
    step, batch = started(run), batch_of([8, 8], learnt=1.0)
    step(batch)
    step(batch)
    (event,) = run.told
    assert event.difference == pytest.approx(1e-3, rel=0.01)


def test_a_batch_that_is_not_finite_proves_nothing_against_graphs(gpu):
    run = counting_run()
    step, batch = started(run), batch_of([8, 8], learnt=1.0)
    step(batch)
    gpu.loss = float("nan")
    assert not step(batch).isfinite()
    gpu.loss = 1.0
    run.optimizer.gradients.zero_()
    step(batch)
    step(batch)
    assert len(gpu.made) == 1 and len(run.told) == 1


def test_graphs_are_given_up_for_memory_and_in_the_end_not_made_any_more(gpu):
    step, batch = started(counting_run()), batch_of([8, 8])
    for _ in range(5):
        step(batch)
        step(batch)
        step._needs = 10**11
        gpu.free = 10**10
        step.make_room()
        gpu.free = 10**12
    assert len(gpu.made) == 3


def test_nothing_is_captured_without_room_for_it(gpu):
    step, batch = started(counting_run()), batch_of([8, 8])
    step._needs = 10**12
    step(batch)
    step(batch)
    assert not gpu.made


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda it: setattr(it, "head", None), "own head"),
        (lambda it: setattr(it, "packed", False), "own head"),
        (lambda it: setattr(it, "device", torch.device("cpu")), "no GPU"),
        (lambda it: delattr(it.model.get_base_model().model.layers[1], "evenfall"), "stock"),
    ],
)
def test_what_cannot_be_captured_is_told_beforehand(change, why):
    trained = fast_run().trained
    trained.device = torch.device("cuda")
    change(trained)
    assert why in micro_step._why_never(trained)


def test_dropout_is_not_captured():
    trained = fast_run(dropout=0.1).trained
    trained.device = torch.device("cuda")
    assert "dropout" in micro_step._why_never(trained)
