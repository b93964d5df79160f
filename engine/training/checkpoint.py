"""Checkpoints: all that decides the next step, and nothing else.

    checkpoints/step-N/adapter_model.safetensors, adapter_config.json   PEFT's format, float32
                       optimizer.safetensors                           AdamW moments by parameter name
                       rng.safetensors                                 generator states
                       state.json                                      step, data position, schedule

A run taken up from a checkpoint repeats the uninterrupted one bit for bit (same machine, same number of
threads). The folder appears whole or not at all, and older ones go only after the new one is
there. No pickle: tensors are safetensors, the rest is JSON.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..data.render.turn_end import learnt_turn_end
from ..errors import UserError
from ..model.adapter import save_adapter
from ..model.tokenizer_files import TokenizerFiles, tokenizer_files
from ..run import commands as cmd
from ..run import events as ev
from ..run.directory import RunDirectory, RunError
from ..run.files import atomic_folder
from .optimizer import FlatAdamW
from .schedule import RateChange
from .state import LoopState, Run


def save_checkpoint(
    run: RunDirectory,
    state: LoopState,
    model: PeftModel,
    optimizer: FlatAdamW,
    keep: int,
) -> tuple[Path, float]:
    """Write `checkpoints/step-N` and delete the oldest beyond `keep`.

    Returns:
        The folder and its size in MB (1e6 bytes).

    Raises:
        OSError: the disk took it not; what was there before is as it was.
    """
    target = run.checkpoint(state.step)
    target.parent.mkdir(exist_ok=True)
    with atomic_folder(target) as scratch:
        save_adapter(model, scratch)
        moments = {name: value.cpu().contiguous() for name, value in optimizer.moments().items()}
        save_file(moments, str(scratch / "optimizer.safetensors"))
        save_file(rng_state(), str(scratch / "rng.safetensors"))
        (scratch / "state.json").write_bytes(orjson.dumps(dataclasses.asdict(state), option=orjson.OPT_INDENT_2))
        megabytes = sum(file.stat().st_size for file in scratch.iterdir()) / 1e6
    for step in run.checkpoints()[:-keep]:
        if step != state.step:
            shutil.rmtree(run.checkpoint(step))
    return target, megabytes


def load_checkpoint(folder: Path, model: PeftModel, optimizer: FlatAdamW) -> LoopState:
    """Put a checkpoint's adapter, optimiser and generators back; return where the loop was.

    Raises:
        RunError: the checkpoint belongs to another adapter, or a file of it is missing or damaged.
    """
    try:
        tree = orjson.loads((folder / "state.json").read_bytes())
        adapter = load_file(str(folder / "adapter_model.safetensors"))
        moments = load_file(str(folder / "optimizer.safetensors"))
        generators = load_file(str(folder / "rng.safetensors"))
    except Exception as error:
        # safetensors raises its own kinds for damage; whatever it is, the checkpoint is unusable
        raise RunError(f"{folder}: cannot be read: {error}; delete it to use an older one") from error
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    shapes = {name: tensor.shape for name, tensor in expected.items()}
    if shapes != {name: tensor.shape for name, tensor in adapter.items()}:
        raise RunError(f"{folder}: was saved with another adapter (rank or targets differ from run.yaml)")
    if moments.keys() != optimizer.moments().keys():
        raise RunError(f"{folder}: was saved with another optimiser (train.optim differs from run.yaml)")
    set_peft_model_state_dict(model, adapter)
    for name, value in optimizer.moments().items():
        value.copy_(moments[name])
    set_rng_state(generators)
    changes = [RateChange(**change) for change in tree.pop("rate_changes")]
    return LoopState(**tree, rate_changes=changes)


def rng_state() -> dict[str, torch.Tensor]:
    """States of the generators that dropout draws from (uint8 tensors)."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_state(states: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"])


def save_now(run: Run) -> str:
    """Write a checkpoint and say so; a disk that refuses it does not end the run.

    Returns:
        Why it was not written; empty where it was.
    """
    start = time.perf_counter()
    keep = run.config.train.save_total_limit
    try:
        folder, megabytes = save_checkpoint(run.directory, run.state, run.trained.model, run.optimizer, keep)
    except (OSError, SafetensorError) as error:
        run.control.emit(
            ev.Alert(
                f"the checkpoint of step {run.state.step} could not be written: {error}; training "
                "goes on and older checkpoints stay",
                "error",
            )
        )
        return f"the checkpoint could not be written: {error}"
    path = str(folder.relative_to(run.directory.path))
    seconds = time.perf_counter() - start
    run.control.emit(ev.CheckpointSaved(step=run.state.step, path=path, megabytes=megabytes, seconds=seconds))
    return ""


def save_final_adapter(run: Run, tokenizer: Any) -> str | None:
    """Write `adapter/` with its tokenizer, and wait for room where the disk has none: hours of work hang on it.

    Returns:
        The folder, relative to the run; None where a Stop ended the waiting.
    """
    files = _tokenizer_files(run, tokenizer)
    while True:
        try:
            with atomic_folder(run.directory.adapter) as folder:
                save_adapter(run.trained.model, folder)
                files.write(folder)
            return run.directory.adapter.name
        except (OSError, SafetensorError) as error:
            run.control.emit(
                ev.Alert(
                    f"the adapter could not be written: {error}; free some space: it is tried "
                    "again every 30 s, and at once when you save",
                    "error",
                )
            )
        asked = run.control.next_command(30.0)
        if asked is None:
            continue
        if isinstance(asked.command, cmd.Stop | cmd.SaveNow):
            run.control.applied(asked, run.state.step)
        else:
            run.control.refuse(asked, "the run is over, its adapter waits for room: save tries again, stop gives it up")
        if isinstance(asked.command, cmd.Stop):
            return None


def _tokenizer_files(run: Run, tokenizer: Any) -> TokenizerFiles:
    """The tokenizer's files, with the run's chat template; none where they cannot be read: no adapter is lost for
    them."""
    config = run.config
    try:
        end = learnt_turn_end(config.model, tokenizer, run.data.report.has_chats)
        return tokenizer_files(config, tokenizer, end, alone=True)
    except (UserError, OSError, ValueError) as error:
        run.control.emit(ev.Alert(f"no tokenizer is written beside the adapter: {error}"))
        return TokenizerFiles()
