"""Out of memory: caught in load, step and evaluation, answered by hand or by policy, nothing lost."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.machine.frames import drop_frames
from evenfall.engine.memory.ladder import ModelSizes, rungs_for_step
from evenfall.engine.memory.oom import is_out_of_memory, requested_gb
from evenfall.engine.memory.plan import MemoryPlan
from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session
from evenfall.engine.training import evaluate, micro_step, worker
from evenfall.engine.training import state as run_state
from evenfall.engine.training.objectives import sft

Make = Callable[..., RunConfig]
CUDA_TEXT = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.1 GiB"


def of(kind: type, events: list[ev.Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def steps(events: list[ev.Event]) -> list[int]:
    return [event.step for event in of(ev.Step, events)]


def train(config: RunConfig, *, answer: Callable | None = None) -> list[ev.Event]:
    """Run a session; `answer(question)` gives the command for each out-of-memory question."""
    session = Session(create_run(config), attended=answer is not None)
    session.start()
    asked = 0
    while not session.wait(0.02):
        for question in of(ev.OutOfMemory, session.events_since(asked)):
            asked = question.n
            if answer is not None:
                session.submit(answer(question))
    return session.events_since(0)


@pytest.fixture
def fail_above(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list]:
    """Makes every micro-batch above `tokens` tokens fail from the `after`-th call on, in the midst of
    the forward; returns weak references to what the failed frames held."""

    def arm(tokens: int, after: int) -> list:
        real, calls, held = micro_step.loss_sum, [0], []

        def limited(trained, batch):
            calls[0] += 1
            if calls[0] > after and batch.tokens > tokens:
                graph = real(trained, batch)
                held.append(weakref.ref(graph))
                raise torch.OutOfMemoryError(CUDA_TEXT)
            return real(trained, batch)

        monkeypatch.setattr(micro_step, "loss_sum", limited)
        return held

    return arm


BATCHED = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 8}


def test_policy_takes_the_first_rung_that_keeps_the_result(tiny_config: Make, fail_above) -> None:
    free = train(tiny_config(train=BATCHED, adapter={"lora_dropout": 0.1}))
    held = fail_above(150, 3)
    capped = train(tiny_config(train={**BATCHED, "on_oom": "recover"}, adapter={"lora_dropout": 0.1}))
    assert steps(capped) == list(range(1, 9))
    assert [r.rung for r in of(ev.RecoveryApplied, capped)] == ["batch"]
    assert of(ev.RecoveryApplied, capped)[0].automatic
    gc.collect()
    assert held and all(graph() is None for graph in held), "the failed graph is still alive"
    # Dropout draws per micro-batch, so only the steps before the new plan are equal bit for bit.
    assert [s.loss for s in of(ev.Step, capped)][:3] == [s.loss for s in of(ev.Step, free)][:3]
    question = of(ev.OutOfMemory, capped)[0]
    assert question.step == 3 and question.phase == "step" and question.requested_gb == 2.5 * 2**30 / 1e9


def test_a_smaller_batch_repeats_the_losses(tiny_config: Make, fail_above) -> None:
    free = train(tiny_config(train=BATCHED))
    fail_above(150, 3)
    capped = train(tiny_config(train={**BATCHED, "on_oom": "recover"}))
    torch.testing.assert_close(
        torch.tensor([s.loss for s in of(ev.Step, capped)]),
        torch.tensor([s.loss for s in of(ev.Step, free)]),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip
    assert [s.tokens for s in of(ev.Step, capped)] == [s.tokens for s in of(ev.Step, free)]


@pytest.mark.parametrize("rung", ["batch", "recompute", "shorter", "rank"])
def test_every_rung_can_be_chosen_and_the_run_finishes(
    tiny_config: Make, fail_above, monkeypatch: pytest.MonkeyPatch, rung: str
) -> None:
    fail_above(150, 3)
    real = micro_step.loss_sum
    config = tiny_config(train=BATCHED, adapter={"r": 8, "lora_alpha": 16})

    def answer(question: ev.OutOfMemory) -> cmd.Command:
        chosen = next(r for r in question.rungs if r.id == rung)
        if rung in ("recompute", "rank"):  # these do not shrink the batch: let it fit from now on
            monkeypatch.setattr(micro_step, "loss_sum", sft.loss_sum)
        return cmd.ApplyRecovery(chosen.id)

    events = train(config, answer=answer)
    assert real is not sft.loss_sum
    assert of(ev.StateChanged, events)[-1].state == "finished", of(ev.Failed, events)
    applied = of(ev.RecoveryApplied, events)
    assert {r.rung for r in applied} == {rung} and not applied[0].automatic
    if rung == "rank":
        assert steps(events) == [1, 2, 3, *range(1, 9)]  # it says so: training begins again
    else:
        assert steps(events) == list(range(1, 9))


def test_a_plan_that_saves_more_than_it_must_is_given_up_first(
    tiny_config: Make, fail_above, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each time it is given up a little further, until there is nothing more to give."""
    margins = []

    def fit(trained, config, margin):
        margins.append(margin)
        kept = 1 if len(margins) < 3 else 0
        return MemoryPlan(kept=kept, cheap=0, recomputed=2 - kept, cached=0, activations=0, weights=0)

    monkeypatch.setattr(run_state, "fit_memory", fit)
    fail_above(150, 3)
    events = train(tiny_config(train={**BATCHED, "on_oom": "recover"}))
    assert [r.rung for r in of(ev.RecoveryApplied, events)] == ["plan", "plan", "batch"]
    assert margins[:3] == pytest.approx([0.06, 0.18, 0.30])
    first = of(ev.OutOfMemory, events)[0]
    assert first.rungs[0].id == "plan" and first.rungs[0].changes == {}
    assert first.rungs[0].peak_gb == pytest.approx(0.82 * first.limit_gb)
    assert steps(events) == list(range(1, 9))


def test_shorter_rows_say_how_many_they_affect(tiny_config: Make, fail_above) -> None:
    fail_above(150, 3)
    seen = []

    def answer(question: ev.OutOfMemory) -> cmd.Command:
        seen.append(next(r for r in question.rungs if r.id == "shorter"))
        return cmd.ApplyRecovery("shorter")

    events = train(tiny_config(train=BATCHED, data={"max_length": 60}), answer=answer)
    assert "affects 0 rows, 0.0 %" in seen[0].effect and seen[0].keeps_result
    assert of(ev.StateChanged, events)[-1].state == "finished"


def test_without_anybody_to_ask_it_saves_and_ends_with_what_to_try(tiny_config: Make, fail_above) -> None:
    fail_above(150, 3)
    config = tiny_config(train=BATCHED)
    events = train(config)
    (failed,) = of(ev.Failed, events)
    assert "train.per_device_train_batch_size=2" in failed.hint and failed.resume_step == 3
    assert of(ev.StateChanged, events)[-1].state == "out-of-memory"


def test_stop_answers_too(tiny_config: Make, fail_above) -> None:
    fail_above(150, 3)
    events = train(tiny_config(train=BATCHED), answer=lambda question: cmd.Stop(save=True))
    assert of(ev.Finished, events)[0].reason == "stopped" and of(ev.Finished, events)[0].adapter


@pytest.fixture
def evaluation_fails_above(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def arm(tokens: int) -> None:
        real = sft.loss_sum

        def limited(trained, batch):
            if not trained.model.training and batch.tokens > tokens:
                raise torch.OutOfMemoryError(CUDA_TEXT)
            return real(trained, batch)

        monkeypatch.setattr(evaluate, "loss_sum", limited)

    return arm


EVALUATED = {"train": {**BATCHED, "eval_steps": 4}, "data": {"eval_fraction": 0.4}}


def test_stop_answers_an_evaluation_that_does_not_fit(tiny_config: Make, evaluation_fails_above) -> None:
    evaluation_fails_above(70)
    events = train(tiny_config(**EVALUATED), answer=lambda question: cmd.Stop(save=True))
    assert of(ev.Finished, events)[0].reason == "stopped" and steps(events) == [1, 2, 3, 4]
    offered = [rung.id for rung in of(ev.OutOfMemory, events)[0].rungs]
    assert "recompute" not in offered and "batch" in offered


def test_a_lower_rank_answers_an_evaluation_and_begins_again(
    tiny_config: Make, evaluation_fails_above, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sft.loss_sum
    evaluation_fails_above(70)

    def answer(question: ev.OutOfMemory) -> cmd.Command:
        monkeypatch.setattr(evaluate, "loss_sum", real)
        return cmd.ApplyRecovery("rank")

    events = train(tiny_config(**EVALUATED, adapter={"r": 8}), answer=answer)
    assert steps(events) == [1, 2, 3, 4, *range(1, 9)]
    assert of(ev.ModelLoaded, events)[0].trainable == 2 * of(ev.ModelLoaded, events)[1].trainable


def test_with_nobody_to_ask_an_evaluation_that_does_not_fit_is_left_out(
    tiny_config: Make, evaluation_fails_above
) -> None:
    evaluation_fails_above(0)
    events = train(tiny_config(**EVALUATED))
    assert steps(events) == list(range(1, 9)) and not of(ev.Evaluated, events)
    assert of(ev.Finished, events)[0].reason == "complete"
    assert any("evaluation left out" in alert.message for alert in of(ev.Alert, events))


def test_evaluation_that_does_not_fit_is_answered_and_done(tiny_config: Make, evaluation_fails_above) -> None:
    evaluation_fails_above(70)
    config = tiny_config(train={**BATCHED, "eval_steps": 4, "on_oom": "recover"}, data={"eval_fraction": 0.4})
    events = train(config)
    assert {q.phase for q in of(ev.OutOfMemory, events)} == {"evaluation"}
    assert [e.step for e in of(ev.Evaluated, events)] == [4, 8]
    assert steps(events) == list(range(1, 9))


@pytest.mark.parametrize("part", ["load_base", "require_trainable"])
def test_a_model_that_does_not_fit_loads_in_four_bits(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    real = getattr(worker, part)

    def limited(model, *args, **kwargs):
        if model.quantization == "none":
            raise torch.OutOfMemoryError(CUDA_TEXT)
        return real(model, *args, **kwargs)

    monkeypatch.setattr(worker, part, limited)
    events = train(
        tiny_config(model={"quantization": "none"}),
        answer=lambda q: cmd.ApplyRecovery(q.rungs[0].id),
    )
    assert of(ev.OutOfMemory, events)[0].phase == "load"
    assert of(ev.ModelLoaded, events)[0].quantization == "nf4"
    assert steps(events) == list(range(1, 7))


def test_a_recovered_run_resumes_after_a_stop(tiny_config: Make, fail_above) -> None:
    fail_above(150, 3)
    config = tiny_config(name="recovered", train={**BATCHED, "on_oom": "recover", "max_steps": 6})
    events = train(config)
    assert steps(events) == list(range(1, 7))
    from evenfall.engine.run.find import find_run

    run = find_run("recovered", config.output_dir)
    run.write_config(run.config().with_overrides(["train.max_steps=9"]))
    again = Session(run, resume=True)
    again.start()
    assert again.wait(600)
    assert steps(again.events_since(0)) == list(range(1, 10))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(CUDA_TEXT), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_what_the_allocation_asked_for() -> None:
    assert requested_gb(torch.OutOfMemoryError(CUDA_TEXT)) == pytest.approx(2.684, abs=1e-3)
    assert requested_gb(RuntimeError("no figures")) is None


def test_rungs_come_in_order_and_only_where_they_help() -> None:
    config = RunConfig()
    shape = ModelSizes(layers=32, hidden=4096, logits=128256)
    rungs = rungs_for_step(config, [100, 2000, 900], shape, 6.0, 30.0)
    assert [rung.id for rung in rungs] == ["recompute", "shorter", "rank"]  # batch is 1 already
    recompute, shorter, rank = rungs
    assert recompute.peak_gb is not None and 6.0 < recompute.peak_gb < 36.0
    without_logits = rungs_for_step(config, [2000], replace(shape, logits=0), 6.0, 30.0)[0]
    assert without_logits.peak_gb is not None and without_logits.peak_gb < recompute.peak_gb
    assert "1 rows, 33.3 %" in shorter.effect and not shorter.keeps_result
    assert "restarts the adapter" in rank.effect
    odd = config.with_overrides(["train.per_device_train_batch_size=9"])
    batch = rungs_for_step(odd, [10], shape, 6.0, 30.0)[0]
    assert batch.changes == {
        "train.per_device_train_batch_size": 3, "train.gradient_accumulation_steps": 24
    }  # fmt: skip


def test_the_loss_head_never_holds_all_logits() -> None:
    arch = SimpleNamespace(num_hidden_layers=2, hidden_size=8, vocab_size=100)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: arch))
    trained: Any = SimpleNamespace(model=model, head=None)
    assert ModelSizes.of(trained) == ModelSizes(2, 8, 100)
    trained.head = object()
    assert ModelSizes.of(trained) == ModelSizes(2, 8, 0)


def test_freeing_is_done_outside_the_except_block() -> None:
    # An exception that is being handled keeps its frames; answer() must not be called inside.
    class Holder:
        pass

    reference = None
    error = None
    try:
        holder = Holder()
        reference = weakref.ref(holder)
        del holder
        raise torch.OutOfMemoryError(CUDA_TEXT)
    except torch.OutOfMemoryError as caught:
        error = caught
        drop_frames(caught)
    assert error is not None and error.__traceback__ is None
    assert reference is not None and reference() is None
