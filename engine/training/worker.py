"""What a session's thread does: load, patch, prepare, train, save; each part an event.

The worker holds no policy of its own: the loop is in train.py, what happens without memory in
recovery.py. It owns the order of things and the two places where a run begins again: loading under a
smaller plan, and a new adapter after a lower rank.
"""

import dataclasses
import importlib.metadata
import logging
import os
import shutil
from typing import Any

import orjson
import torch

from ..config.run_config import RunConfig
from ..config.steps import total_steps
from ..data.check import check_data, require_no_red
from ..data.prepare.prepare import PreparedData, prepare, with_date
from ..machine import wake
from ..machine.device import describe_device, pick_device
from ..machine.memory import read_memory
from ..machine.threads import most_threads, set_threads, training_threads, user_said
from ..memory import ladder, oom
from ..memory.plan import MARGIN
from ..model.adapter import adapted_tied_end, trainable_parameters
from ..model.base import base_of
from ..model.four_bit import four_bit_share
from ..model.load import LoadedModel, load_base, share_in_4bit
from ..model.tokenizer import load_tokenizer
from ..run import commands as cmd
from ..run import events as ev
from ..run.control import Control
from ..run.directory import RunDirectory
from ..run.progress import LOSS_STEPS, mean_loss
from . import recovery
from .build import build_run
from .checkpoint import load_checkpoint, save_final_adapter
from .commands import StoppedEarly, reporter
from .next_update import advance
from .state import OutOfMemoryEnd, Run
from .train import train
from .trial import require_trainable

log = logging.getLogger("evenfall")


def work(directory: RunDirectory, control: Control, *, resume: bool) -> None:
    """Train a run directory from its `run.yaml`, or go on from its newest checkpoint.

    Raises:
        ConfigError, LoadError, DataError, RunError, TrainingError: the run cannot go on; the message
            is for the user.
    """
    try:
        _work(directory, control, resume=resume)
    except StoppedEarly:
        before = directory.progress()  # of a run that was taken up again, earlier processes' steps
        control.emit(
            ev.Finished(
                reason="stopped",
                step=before.step,
                seconds=before.trained_seconds or 0.0,
                tokens=sum(step.tokens for step in before.steps),
                adapter=None,
                first_loss=mean_loss(step.loss for step in before.steps[:LOSS_STEPS]),
                last_loss=before.loss,
            )
        )
        control.set_state("finished", "stopped before training began")


def _work(directory: RunDirectory, control: Control, *, resume: bool) -> None:
    config = directory.config()
    steps = directory.checkpoints() if resume else []
    device = pick_device(config.train.device)
    control.emit(
        ev.RunStarted(
            run=directory.name,
            pid=os.getpid(),
            device=describe_device(device),
            versions=_versions(),
            resumed_from=steps[-1] if steps else (0 if resume else None),
        )
    )
    report = reporter(control)
    tokenizer = load_tokenizer(config)
    if (dated := with_date(config, tokenizer)) is not config:
        config = dated
        directory.write_config(config)  # resumed on another day, it has the same rows
    packed_length = _packed_length(directory, steps) or config.data.max_length
    config_of_data = _with_length(config, packed_length)
    data = prepare(config_of_data, tokenizer, report, begun=bool(steps))
    try:
        if not steps:
            _preflight(config_of_data, data, tokenizer, control)
        _load_and_train(directory, config, control, data, tokenizer, device, packed_length, steps)
    finally:
        data.train.close()


def _preflight(config: RunConfig, data: PreparedData, tokenizer: Any, control: Control) -> None:
    """Tell what is wrong with the data before anything is loaded for them.

    Raises:
        DataError: something is red, and data.keep does not name it.
    """
    check = check_data(config, data, tokenizer, near=False)
    control.emit(ev.DataChecked(check.problems(20)))
    require_no_red(check)


def _load_and_train(
    directory: RunDirectory,
    config: RunConfig,
    control: Control,
    data: PreparedData,
    tokenizer: Any,
    device: torch.device,
    packed_length: int,
    steps: list[int],
) -> None:
    loaded, config = _load(directory, config, device, control)
    wake.wait()
    threads = _settle_threads(directory, loaded.parameters) if device.type == "cpu" else None
    while True:
        run = build_run(directory, config, control, loaded, data, device, packed_length)
        if steps:
            now = run.state.data
            run.state = load_checkpoint(directory.checkpoint(steps[-1]), run.trained.model, run.optimizer)
            _compare_data(run, now)
            if run.state.memory_margin > MARGIN:
                run.fit_memory()  # with the margin that the run had come to
        _announce(run, loaded, data, threads)
        control.set_state("ready")
        outcome = train(run)
        if outcome != "restart":
            break
        config, steps = run.config, []
        _set_aside_checkpoints(directory, control)
        loaded.model = run.trained.model.unload()
        del run  # its optimiser and its layers' memory, before the next one's are planned
    adapter = None if outcome == "abandoned" else save_final_adapter(run, tokenizer)
    control.emit(
        ev.Finished(
            reason="complete" if outcome == "complete" else "stopped",
            step=run.state.step,
            seconds=run.state.seconds,
            tokens=run.state.tokens,
            adapter=adapter,
            first_loss=mean_loss(run.state.first_losses),
            last_loss=mean_loss(run.state.last_losses),
        )
    )
    control.set_state("finished", "complete" if outcome == "complete" else "stopped by request")


def _compare_data(run: Run, now: str) -> None:
    """Tell that a run goes on with other data than it was begun with, and find its place in them."""
    state = run.state
    if state.data not in ("", now):
        run.control.emit(
            ev.Alert(
                f"the data changed since step {state.step}: other rows, or rows of other tokens; the run goes on at "
                "the same place of their new order: some rows may be learnt twice in this epoch, some not at all"
            )
        )
    state.data = now
    advance(run.data.train, state, 0)  # where there are fewer rows now, the place may lie behind them


def _load(
    directory: RunDirectory, config: RunConfig, device: torch.device, control: Control
) -> tuple[LoadedModel, RunConfig]:
    """Load the base; where it does not fit, under the plan that is chosen then."""
    while True:
        trouble = None
        before_gb = read_memory(device).now_gb
        try:
            loaded = load_base(config.model, device, reporter(control))
            require_trainable(loaded, config.adapter)
            return loaded, config
        except (RuntimeError, MemoryError) as error:
            if not oom.is_out_of_memory(error):
                raise
            trouble = oom.take_down(error, "load", device, 0, before_gb)
        oom.free_memory(device)
        rungs = ladder.rungs_for_load(config)
        after_gb = read_memory(device).now_gb
        control.emit(dataclasses.replace(trouble, after_gb=after_gb, rungs=rungs))
        control.set_state("out-of-memory", "the model does not fit; nothing was trained yet")
        rung, automatic = recovery.choose(config.train.on_oom, rungs, control, 0)
        if isinstance(rung, cmd.Stop):
            raise OutOfMemoryEnd("stopped: the model does not fit", "take a smaller model")
        config = recovery.apply_changes(config, rung)
        directory.write_config(config)
        control.emit(ev.RecoveryApplied(step=0, rung=rung.id, title=rung.title, automatic=automatic))
        control.set_state("loading")


def _settle_threads(directory: RunDirectory, parameters: int) -> int:
    """Those that the run has had, or as many as it gains from. Earlier versions of Evenfall left torch its own."""
    before = directory.progress().model
    if before is None or user_said():
        count = training_threads(parameters)
    elif before.threads is None:
        return most_threads()
    else:
        count = min(before.threads, most_threads())
    set_threads(count)
    return count


def _announce(run: Run, loaded: LoadedModel, data: PreparedData, threads: int | None) -> None:
    control = run.control
    control.emit(
        ev.ModelLoaded(
            name=loaded.name,
            family=loaded.family,
            parameters=loaded.parameters,
            trainable=sum(p.numel() for p in trainable_parameters(run.trained.model).values()),
            quantization=loaded.quantization,
            compute_dtype=str(loaded.dtype).removeprefix("torch."),
            weights_gb=loaded.weights_gb,
            seconds=loaded.seconds,
            threads=threads,
            held=_held(run, loaded),
        )
    )
    steps = total_steps(run.config, data.train.bins_in_epoch, run.state.bins_per_update)
    control.emit(ev.DataPrepared(data.report, steps))
    if loaded.quantization == "nf4":
        share, largest = share_in_4bit(base_of(run.trained.model))
        if share < 0.5:
            kept = str(loaded.dtype).removeprefix("torch.")
            control.emit(
                ev.Alert(
                    f"nf4: only {share:.0%} of the layers' weights are 4-bit. The rest, most of it "
                    f"{largest}, is nothing that bitsandbytes packs and stays {kept}: "
                    f"{loaded.weights_gb:.1f} GB in all"
                )
            )
    if tied := adapted_tied_end(run.trained.model):
        control.emit(
            ev.Alert(
                f"adapter.target_modules: {tied} of this model is one weight with its other embedding (tied). The "
                "adapter changes the one alone; a merged export gives each a weight of its own, and is larger by that"
            )
        )
    if not loaded.packed:
        control.emit(
            ev.Alert(
                f"{loaded.family}: packed attention is not proven for this family; it trains with "
                "its own attention, one row at a time (slower)"
            )
        )


def _held(run: Run, loaded: LoadedModel) -> str:
    if loaded.quantization != "nf4":
        return ""
    share = four_bit_share(base_of(run.trained.model), loaded.dtype, kept=())
    return share.told(str(loaded.dtype).removeprefix("torch."))


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "bitsandbytes", "triton")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _packed_length(directory: RunDirectory, steps: list[int]) -> int | None:
    """The bin size that the run was packed at, where a recovery has lowered data.max_length."""
    if not steps:
        return None
    tree = orjson.loads((directory.checkpoint(steps[-1]) / "state.json").read_bytes())
    return int(tree["packed_length"])


def _with_length(config: RunConfig, max_length: int) -> RunConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"max_length": max_length})})


def _set_aside_checkpoints(directory: RunDirectory, control: Control) -> None:
    """Keep what the old adapter reached, where a resume will not take it for the new one's."""
    old = directory.path / "checkpoints"
    if not old.exists():
        return
    for n in range(1, 1000):
        aside = directory.path / f"checkpoints-before-{n}"
        if not aside.exists():
            shutil.move(old, aside)
            control.emit(ev.Alert(f"checkpoints of the adapter so far are in {aside.name}/"))
            return
