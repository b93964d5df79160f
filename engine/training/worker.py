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
import time
from typing import Any

import orjson
import torch

from ...kernels.adamw import AdamWSettings
from ..config.run_config import RunConfig
from ..data.check import check_data, require_no_red
from ..data.prepare.prepare import PreparedData, prepare
from ..machine import wake
from ..machine.device import describe_device, pick_device, read_memory
from ..memory.plan import fit_memory
from ..model.families.fast_layer import fast_states
from ..model.layers.loss_head import read_head
from ..model.layers.packed_attention import STOCK_WAYS
from ..model.load import LoadedModel, add_adapter, load_base, trainable_parameters
from ..model.patch.attention import patch_attention
from ..model.patch.layers import patch_layers
from ..model.patch.matmuls import patch_matmuls
from ..model.patch.norms_and_mlps import PatchedPart, no_kernels_on, patch_model
from ..model.tokenizer import load_tokenizer
from ..run import events as ev
from ..run.control import Control
from ..run.directory import RunDirectory
from . import recovery
from .checkpoint import load_checkpoint, save_final_adapter
from .optimizer import FlatAdamW
from .schedule import total_steps
from .state import LoopState, OutOfMemoryEnd, Run
from .train import train
from .updates import micro_batches

log = logging.getLogger("evenfall")


class _StoppedEarly(Exception):
    """A Stop came before there was anything to train."""


def work(directory: RunDirectory, control: Control, *, resume: bool) -> None:
    """Train a run directory from its `run.yaml`, or go on from its newest checkpoint.

    Raises:
        ConfigError, LoadError, DataError, RunError, TrainingError: the run cannot go on; the message
            is for the user.
    """
    try:
        _work(directory, control, resume=resume)
    except _StoppedEarly:
        step = directory.progress().step
        control.emit(ev.Finished("stopped", step, 0.0, 0, None, None, None))
        control.set_state("finished", "stopped before training began")


def _work(directory: RunDirectory, control: Control, *, resume: bool) -> None:
    config = directory.config()
    steps = directory.checkpoints() if resume else []
    device = pick_device(config.train.device)
    control.emit(
        ev.RunStarted(
            directory.name,
            os.getpid(),
            describe_device(device),
            _versions(),
            steps[-1] if steps else (0 if resume else None),
        )
    )
    report = _reporter(control)
    tokenizer = load_tokenizer(config)
    packed_length = _packed_length(directory, steps) or config.data.max_length
    config_of_data = _with_length(config, packed_length)
    data = prepare(config_of_data, tokenizer, report)
    try:
        if not steps:
            _preflight(config_of_data, data, tokenizer, control)
        _load_and_train(directory, config, control, data, device, packed_length, steps)
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
    device: torch.device,
    packed_length: int,
    steps: list[int],
) -> None:
    loaded, config = _load(directory, config, device, control)
    wake.wait()
    while True:
        run = build_run(directory, config, control, loaded, data, device, packed_length)
        if steps:
            run.state = load_checkpoint(directory.checkpoint(steps[-1]), run.model, run.optimizer)
            if run.state.memory_margin > LoopState.memory_margin:
                fit_memory(run)  # with the margin that the run had come to
        _announce(run, loaded, data)
        control.set_state("ready")
        outcome = train(run)
        if outcome != "restart":
            break
        config, steps = run.config, []
        _set_aside_checkpoints(directory, control)
        loaded.model = run.model.unload()
        del run  # its optimiser and its layers' memory, before the next one's are planned
    adapter = None if outcome == "abandoned" else save_final_adapter(run)
    first, last = run.state.first_losses, run.state.last_losses
    control.emit(
        ev.Finished(
            "complete" if outcome == "complete" else "stopped",
            run.state.step,
            run.state.seconds,
            run.state.tokens,
            adapter,
            sum(first) / len(first) if first else None,
            sum(last) / len(last) if last else None,
        )
    )
    control.set_state("finished", "complete" if outcome == "complete" else "stopped by request")


def _load(
    directory: RunDirectory, config: RunConfig, device: torch.device, control: Control
) -> tuple[LoadedModel, RunConfig]:
    """Load the base; where it does not fit, under the plan that is chosen then."""
    while True:
        trouble = None
        before_gb = read_memory(device).now_gb
        try:
            return load_base(config.model, device, _reporter(control)), config
        except (RuntimeError, MemoryError) as error:
            if not recovery.is_out_of_memory(error):
                raise
            trouble = recovery.take_down(error, "load", device, 0, before_gb)
        recovery.free_memory(device)
        rungs = recovery.rungs_for_load(config)
        after_gb = read_memory(device).now_gb
        control.emit(dataclasses.replace(trouble, after_gb=after_gb, rungs=rungs))
        control.set_state("out-of-memory", "the model does not fit; nothing was trained yet")
        rung, automatic = recovery.choose(config.train.on_oom, rungs, control, 0)
        if isinstance(rung, ev.Stop):
            raise OutOfMemoryEnd("stopped: the model does not fit", "take a smaller model")
        config = recovery.apply_changes(config, rung)
        directory.write_config(config)
        control.emit(ev.RecoveryApplied(0, rung.id, rung.title, automatic))
        control.set_state("loading")


def build_run(
    directory: RunDirectory,
    config: RunConfig,
    control: Control,
    loaded: LoadedModel,
    data: PreparedData,
    device: torch.device,
    packed_length: int,
) -> Run:
    """Adapter, kernels and optimiser on the loaded base, at step 0."""
    recipe = config.train
    control.emit(ev.Progress("adding the adapter"))
    model = add_adapter(loaded.model, config.adapter, recipe.seed)
    head, ways = None, STOCK_WAYS
    if recipe.kernels == "auto":
        if not no_kernels_on(device):
            control.emit(ev.Progress("proving the kernels on this device"))
        ways, attention = patch_attention(model, device, _first_lengths(config, data))
        parts = [*patch_model(model, device).parts, *patch_layers(model, device, ways)]
        parts += [] if attention is None else [attention]
        if not no_kernels_on(device):
            head, reason = read_head(model)
            parts.append(PatchedPart("loss head", "loss head", 1, head is not None, reason))
            tokens = recipe.per_device_train_batch_size * packed_length
            matmuls = patch_matmuls(model, head, tokens, device, _reporter(control))
            parts += [] if matmuls is None else [matmuls]
        control.emit(ev.PartsPatched([dataclasses.asdict(part) for part in parts]))
    bins = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    state = LoopState(packed_length=packed_length, bins_per_update=bins)
    settings = AdamWSettings(
        recipe.adam_beta1, recipe.adam_beta2, recipe.adam_epsilon, recipe.weight_decay,
        recipe.max_grad_norm,
    )  # fmt: skip
    optimizer = FlatAdamW(trainable_parameters(model), settings, recipe.optim)
    for layer in fast_states(model):
        layer.accumulate = True  # into the optimiser's buffer
    run = Run(
        directory, config, control, model, optimizer, data, state, device, loaded.packed,
        ways, head,
    )  # fmt: skip
    fit_memory(run)
    return run


def _first_lengths(config: RunConfig, data: PreparedData) -> tuple[int, ...]:
    """Of the documents of a micro-batch like those of the run."""
    bins = data.train.window(0, 0)
    assert bins is not None
    count = min(len(bins), config.train.per_device_train_batch_size)
    batches = micro_batches([bins.rows(index) for index in range(count)], config, packed=True)
    return batches[0].lengths if batches else ()


def _announce(run: Run, loaded: LoadedModel, data: PreparedData) -> None:
    control = run.control
    control.emit(
        ev.ModelLoaded(
            loaded.name,
            loaded.family,
            loaded.parameters,
            sum(p.numel() for p in trainable_parameters(run.model).values()),
            loaded.quantization,
            str(loaded.dtype).removeprefix("torch."),
            loaded.weights_gb,
            loaded.seconds,
        )
    )
    steps = total_steps(run.config, data.train.bins_in_epoch, run.state.bins_per_update)
    control.emit(ev.DataPrepared(data.report, steps))
    if not loaded.packed:
        control.emit(
            ev.Alert(
                f"{loaded.family}: packed attention is not proven for this family; it trains with "
                "its own attention, one row at a time (slower)"
            )
        )


def _reporter(control: Control):
    last = 0.0

    def report(stage: str, fraction: float | None = None) -> None:
        nonlocal last
        while (command := control.next_command()) is not None:
            if isinstance(command, ev.Stop):
                control.emit(ev.CommandApplied("Stop", 0, "before training began"))
                raise _StoppedEarly
            name = type(command).__name__
            control.emit(ev.CommandRefused(name, "the run is not training yet"))
        now = time.monotonic()
        if fraction is None or fraction >= 1.0 or now - last > 0.5:
            last = now
            control.emit(ev.Progress(stage, fraction=fraction))

    return report


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
    return config.model_copy(
        update={"data": config.data.model_copy(update={"max_length": max_length})}
    )


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
