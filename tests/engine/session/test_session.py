"""A run through its Session: what it learns, what can be said to it, what survives a stop."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory, RunError
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session
from evenfall.engine.training import micro_step
from evenfall.engine.training import train as loop
from evenfall.engine.training.optimizer import FlatAdamW

Make = Callable[..., RunConfig]


def finish(session: Session, seconds: float = 120) -> list[ev.Event]:
    session.start()
    assert session.wait(seconds), "the run did not end"
    return session.events_since(0)


def run(config: RunConfig) -> tuple[RunDirectory, list[ev.Event]]:
    directory = create_run(config)
    return directory, finish(Session(directory))


def of(kind: type, events: list[ev.Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def losses(events: list[ev.Event]) -> dict[int, float]:
    """Loss of each step, as it stands after all events."""
    return {event.step: event.loss for event in of(ev.Step, events)}


class Script(Session):
    """A session that is told commands as soon as a step was reported."""

    def __init__(self, directory: RunDirectory, at: dict[int, list[cmd.Command]], **options) -> None:
        super().__init__(directory, **options)
        emit = self._control.emit

        def emit_and_answer(event: ev.Event) -> None:
            emit(event)
            if isinstance(event, ev.Step):
                for command in at.pop(event.step, []):
                    self.submit(command)

        self._control.emit = emit_and_answer  # type: ignore[method-assign]


def test_a_run_tells_its_story_learns_and_leaves_an_adapter(tiny_config: Make) -> None:
    config = tiny_config(
        adapter={"r": 32, "lora_alpha": 64},
        train={"max_steps": 30, "learning_rate": 1e-2, "eval_steps": 10},
        data={"eval_fraction": 0.1},
    )
    directory, events = run(config)
    states = [event.state for event in of(ev.StateChanged, events)]
    assert states == ["loading", "ready", "training", "finished"]
    assert [step.step for step in of(ev.Step, events)] == list(range(1, 31))
    (done,) = of(ev.Finished, events)
    assert done.reason == "complete" and done.last_loss < 0.9 * done.first_loss
    assert [evaluation.step for evaluation in of(ev.Evaluated, events)] == [10, 20, 30]
    assert directory.progress().steps == of(ev.Step, events)
    assert directory.config() == config.model_copy(update={"name": directory.name})


def test_steps_below_one_are_shares_of_the_run(tiny_config: Make) -> None:
    config = tiny_config(
        train={"max_steps": 10, "eval_steps": 0.3, "save_steps": 0.5, "warmup_steps": 0.2},
        data={"eval_fraction": 0.1},
    )
    _, events = run(config)
    assert [evaluation.step for evaluation in of(ev.Evaluated, events)] == [3, 6, 9, 10]
    assert [saved.step for saved in of(ev.CheckpointSaved, events)] == [5, 10]
    rates = [step.learning_rate for step in of(ev.Step, events)]
    assert rates.index(max(rates)) == 1  # the second step ends the warm-up


def test_nothing_is_learnt_at_rate_zero(tiny_config: Make) -> None:
    directory, events = run(tiny_config(train={"learning_rate": 0.0}))
    adapter = load_file(directory.adapter / "adapter_model.safetensors")
    assert all(not t.any() for name, t in adapter.items() if "lora_B" in name)
    assert len(losses(events)) == 6


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_the_adapter_loads_in_stock_peft_with_equal_logits(
    tiny_config: Make, tiny_model: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {}
    real = loop.train

    def keep_model(job):
        kept["model"] = job.trained.model
        return real(job)

    monkeypatch.setattr("evenfall.engine.training.worker.train", keep_model)
    directory, _ = run(tiny_config(model={"quantization": quantization}))
    live = kept["model"].eval()
    options = {}
    if quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )  # fmt: skip
    stock = AutoPeftModelForCausalLM.from_pretrained(str(directory.adapter), dtype=torch.float32, **options).eval()
    for module in stock.modules():  # its CPU kernel for evaluation computes in bfloat16
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ids = torch.arange(6, 26)[None]
    with torch.no_grad():
        got = live(input_ids=ids, use_cache=False).logits
        want = stock(input_ids=ids).logits
    b = [t for n, t in stock.named_parameters() if "lora_B" in n]
    assert b and all(t.abs().max() > 0 for t in b)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_accumulation_changes_nothing_but_rounding(tiny_config: Make) -> None:
    shapes = [(1, 4), (2, 2), (4, 1)]
    curves = []
    for batch, accumulation in shapes:
        _, events = run(
            tiny_config(
                train={
                    "per_device_train_batch_size": batch,
                    "gradient_accumulation_steps": accumulation,
                }
            )
        )
        curves.append([(s.loss, s.grad_norm) for s in of(ev.Step, events)])
    for curve in curves[1:]:
        torch.testing.assert_close(torch.tensor(curve), torch.tensor(curves[0]), rtol=1e-5, atol=1e-6)


def test_evaluating_changes_nothing(tiny_config: Make) -> None:
    held_out = {"data": {"eval_fraction": 0.2}}
    _, once = run(tiny_config(**held_out))
    _, often = run(tiny_config(**held_out, train={"eval_steps": 1}))
    assert len(of(ev.Evaluated, often)) == 6
    assert [(s.loss, s.grad_norm) for s in of(ev.Step, often)] == [(s.loss, s.grad_norm) for s in of(ev.Step, once)]


def test_recompute_changes_nothing(tiny_config: Make) -> None:
    _, kept = run(tiny_config())
    _, recomputed = run(tiny_config(train={"gradient_checkpointing": True}))
    torch.testing.assert_close(
        torch.tensor(list(losses(kept).values())),
        torch.tensor(list(losses(recomputed).values())),
        rtol=1e-6, atol=1e-7,
    )  # fmt: skip


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit"])
def test_stop_and_resume_repeat_the_uninterrupted_run_bit_for_bit(tiny_config: Make, optim: str) -> None:
    settings = {
        "train": {
            "max_steps": 12, "gradient_accumulation_steps": 3, "save_steps": 5, "optim": optim,
        },
        "adapter": {"lora_dropout": 0.2},
    }  # fmt: skip
    _, whole = run(tiny_config(name="whole", **settings))
    directory = create_run(tiny_config(name="parts", **settings))
    first = finish(Script(directory, {7: [cmd.Stop(save=True)]}))
    assert of(ev.Finished, first)[0].reason == "stopped" and max(losses(first)) < 12
    moments = load_file(str(directory.checkpoint(7) / "optimizer.safetensors"))
    assert any("codes" in name for name in moments) == (optim == "adamw_8bit")
    second = finish(Session(directory, resume=True))
    assert of(ev.Finished, second)[-1].reason == "complete"
    assert losses(second) == losses(whole)
    assert losses(second)[12] != losses(second)[11]


def test_a_checkpoint_of_the_other_optimiser_is_refused(tiny_config: Make) -> None:
    config = tiny_config(name="other")
    directory = create_run(config)
    finish(Script(directory, {2: [cmd.Stop(save=True)]}))
    directory.write_config(config.with_overrides(["train.optim=adamw_8bit"]))
    (failed,) = of(ev.Failed, finish(Session(directory, resume=True)))
    assert "another optimiser" in failed.message and "train.optim" in failed.message


def test_the_end_tells_the_loss_and_the_time_that_viewers_count(tiny_config: Make) -> None:
    directory = create_run(tiny_config(name="counted", train={"save_steps": 2}))
    stopped = Script(directory, {3: [cmd.Stop(save=False)]})
    for first in (stopped, None):
        session = first or Session(directory, resume=True)
        end = of(ev.Finished, finish(session))[-1]
        viewed = directory.progress()
        assert (end.step, end.last_loss) == (viewed.step, viewed.loss)
        assert end.seconds == viewed.trained_seconds == pytest.approx(
            sum(step.seconds for step in viewed.steps)
        )  # fmt: skip


def test_a_run_taken_up_and_stopped_before_it_trains_keeps_its_figures(tiny_config: Make) -> None:
    directory = create_run(tiny_config(name="brief"))
    finish(Script(directory, {2: [cmd.Stop(save=True)]}))
    before = directory.progress()
    again = Session(directory, resume=True)
    again.submit(cmd.Stop(save=True))
    end = of(ev.Finished, finish(again))[-1]
    assert (end.reason, end.step, end.adapter) == ("stopped", 2, None)
    assert (end.seconds, end.last_loss) == (before.trained_seconds, before.loss)
    assert end.tokens == sum(step.tokens for step in before.steps) > 0


def test_a_skipped_update_is_not_in_the_loss_of_the_run(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = micro_step.loss_sum, []

    def poisoned(*args):
        calls.append(None)
        return real(*args) * (float("nan") if len(calls) in (5, 6) else 1.0)

    monkeypatch.setattr(micro_step, "loss_sum", poisoned)
    directory, events = run(tiny_config())
    (end,) = of(ev.Finished, events)
    finite = [loss for step, loss in losses(events).items() if step in (2, 4, 5, 6)]
    assert end.last_loss == directory.progress().loss == sum(finite) / 4


def test_resume_without_a_checkpoint_begins_again(tiny_config: Make) -> None:
    directory = create_run(tiny_config(name="again"))
    finish(Script(directory, {2: [cmd.Stop(save=False)]}))
    assert not directory.checkpoints() and not directory.adapter.exists()
    events = finish(Session(directory, resume=True))
    assert directory.progress().step == 6
    assert of(ev.Finished, events)[-1].reason == "complete"


def test_a_stop_while_loading_ends_the_run_and_other_commands_are_refused(
    tiny_config: Make,
) -> None:
    directory = create_run(tiny_config())
    session = Session(directory)
    session.submit(cmd.SaveNow())
    session.submit(cmd.Stop())
    events = finish(session)
    assert session.state == "finished" and not of(ev.Step, events)
    assert of(ev.Finished, events)[0].adapter is None
    assert of(ev.CommandRefused, events)[0].why == "the run is not training yet"


def test_pause_waits_until_resumed_and_takes_commands_meanwhile(tiny_config: Make) -> None:
    directory = create_run(tiny_config())
    session = Script(directory, {2: [cmd.Pause()]})
    session.start()
    while session.state != "paused":
        assert not session.wait(0.02)
    held = len(of(ev.Step, session.events_since(0)))
    session.submit(cmd.SaveNow())
    session.submit(cmd.Pause())
    session.submit(cmd.SetLearningRate(1e-4, "hold"))
    assert not session.wait(0.5)
    assert len(of(ev.Step, session.events_since(0))) == held
    session.submit(cmd.Resume())
    assert session.wait(600)
    events = session.events_since(0)
    assert directory.checkpoints() and len(losses(events)) == 6
    assert [e.why for e in of(ev.CommandRefused, events)] == ["the run is paused already"]
    (paused,) = (event for event in of(ev.StateChanged, events) if event.state == "paused")
    assert paused.reason == ""  # there is no GPU whose memory could be kept
    rates = [step.learning_rate for step in of(ev.Step, events)]
    assert rates[held:] == [1e-4] * (6 - held)


def test_a_new_learning_rate_takes_effect_at_the_next_step_and_is_recorded(
    tiny_config: Make,
) -> None:
    config = tiny_config(train={"lr_scheduler_type": "constant"})
    _, events = run_with(config, {3: [cmd.SetLearningRate(1e-3)]})
    rates = {step.step: step.learning_rate for step in of(ev.Step, events)}
    (change,) = of(ev.LearningRateChanged, events)
    assert change.old == 5e-3 and change.new == 1e-3
    assert all(rate == (5e-3 if n <= change.step else 1e-3) for n, rate in rates.items())
    assert change.step < 6


def run_with(config: RunConfig, at: dict[int, list[cmd.Command]]) -> tuple[RunDirectory, list]:
    directory = create_run(config)
    return directory, finish(Script(directory, at))


def test_evaluate_now_needs_held_out_rows(tiny_config: Make) -> None:
    _, refused = run_with(tiny_config(), {1: [cmd.EvaluateNow()]})
    assert "data.eval_fraction" in of(ev.CommandRefused, refused)[0].why
    _, done = run_with(tiny_config(data={"eval_fraction": 0.1}), {1: [cmd.EvaluateNow()]})
    assert len(of(ev.Evaluated, done)) == 2  # asked for, and at the end


def test_a_gradient_that_is_not_finite_leaves_the_adapter_alone(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = micro_step.loss_sum, []

    def poisoned(*args):
        calls.append(None)
        value = real(*args)
        return value * float("nan") if len(calls) in (3, 4) else value

    monkeypatch.setattr(micro_step, "loss_sum", poisoned)
    directory, events = run(tiny_config())
    assert [step.skipped for step in of(ev.Step, events)] == [False, True, *[False] * 4]
    adapter = load_file(directory.adapter / "adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in adapter.values())
    assert any("not finite" in alert.message for alert in of(ev.Alert, events))


def test_losses_are_summed_in_the_backward_and_divided_in_float32(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Divided by the update's tokens before it, gradients vanish where layers compute in float16."""
    seen = []
    real = FlatAdamW.step

    def step(self, rate, *, divisor):
        seen.append((float(self._grad.abs().max()), divisor))
        return real(self, rate, divisor=divisor)

    monkeypatch.setattr(FlatAdamW, "step", step)
    monkeypatch.setattr(micro_step, "loss_sum", lambda trained, _: sum_of(trained.model))
    recipe = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 3}
    _, events = run(tiny_config(train=recipe))
    (done,) = of(ev.Step, events)
    assert seen == [(3.0, done.trained_tokens)]


def test_gradients_that_stay_not_finite_end_the_run_with_the_adapter_saved(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_step, "loss_sum", lambda trained, _: sum_of(trained.model) * float("inf"))
    directory, events = run(tiny_config(train={"max_steps": 20}))
    (failed,) = of(ev.Failed, events)
    assert "not finite" in failed.message and "learning_rate" in failed.hint
    adapter = load_file(directory.checkpoint(5) / "adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in adapter.values())


def sum_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.stack([p.sum() for p in model.parameters() if p.requires_grad]).sum()


def test_a_model_that_is_not_there_fails_with_a_message_not_a_traceback(tiny_config: Make) -> None:
    _, events = run(tiny_config(model={"name_or_path": "/no/such/model"}))
    (failed,) = of(ev.Failed, events)
    assert "/no/such/model does not exist" in failed.message
    assert of(ev.StateChanged, events)[-1].state == "failed"


def test_a_target_that_fits_nothing_names_the_modules_there_are(tiny_config: Make) -> None:
    _, events = run(tiny_config(adapter={"target_modules": ["query"]}))
    (failed,) = of(ev.Failed, events)
    assert "query" in failed.message and "q_proj" in failed.hint


def test_a_run_that_is_being_trained_refuses_a_second_process(tiny_config: Make) -> None:
    directory = create_run(tiny_config())
    with directory.lock(), pytest.raises(RunError, match="is being trained by process"):
        Session(directory)
    assert not directory.events_file.exists()  # it belongs to the process that trains


# The check of the data


def endless(path: Path) -> str:
    """Rows whose answers end with no token that ends a turn."""
    question = {"text": "what is next ", "label": False}
    answer = {"text": "after what is next", "label": True}
    path.write_text("\n".join([json.dumps({"segments": [question, answer]})] * 30))
    return str(path)


def test_data_that_are_red_end_a_run_before_anything_is_loaded(tiny_config: Make, tmp_path: Path) -> None:
    config = tiny_config(data={"path": endless(tmp_path / "rows.jsonl")})
    _, events = run(config)
    (failed,) = of(ev.Failed, events)
    assert "do not learn to end the answer: 30" in failed.message
    assert "data.keep=[end_untrained]" in failed.message
    assert not of(ev.ModelLoaded, events)
    assert all("weights" not in event.stage for event in of(ev.Progress, events))
    (checked,) = of(ev.DataChecked, events)
    assert [place.number for place in checked.findings[0].places] == list(range(1, 21))
    _, events = run(config.with_overrides(["data.keep=[end_untrained]"]))  # as the message says
    assert not of(ev.Failed, events) and of(ev.Finished, events)[0].reason == "complete"
    (checked,) = of(ev.DataChecked, events)
    levels = {one.code: one.level for one in checked.findings}
    assert levels["end_untrained"] == "green"


def test_rows_in_question_do_not_hold_a_run_up_and_are_on_record(tiny_config: Make, tmp_path: Path) -> None:
    rows = [{"prompt": "what is next", "completion": "after"}] * 2
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, events = run(tiny_config(data={"path": str(tmp_path / "rows.jsonl")}))
    (checked,) = of(ev.DataChecked, events)
    duplicate = next(one for one in checked.findings if one.code == "duplicate")
    assert (duplicate.level, duplicate.places[0].number) == ("amber", 2)
    assert of(ev.Finished, events)[0].reason == "complete"
