"""What Export and Chat must know of a run before they load anything: read on a thread, without torch."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from ..config.run_config import ConfigError
from .directory import RunDirectory
from .find import list_runs
from .progress import ShownState

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class Kept:
    """An adapter that a run has saved."""

    step: int | None
    """Of the checkpoint; None for the final adapter."""
    megabytes: float


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run, as far as its files tell."""

    run: RunDirectory
    state: ShownState
    step: int
    model: str
    kept: tuple[Kept, ...]
    """What can be exported, the best first: the final adapter, then the newest checkpoint."""
    merged_mb: float | None
    """Expected size of the merged model; None where the run never loaded its base."""
    merged_dtype: str
    there: tuple[str, ...]
    """Names under `exports/`."""


def saved_key(run: RunDirectory) -> int | None:
    """Changes when the run saves an adapter or a checkpoint; None where it has saved nothing."""
    with contextlib.suppress(OSError):
        return (run.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    return next(reversed(run.checkpoints()), None)


def newest_usable(root: Path) -> RunDirectory | None:
    """The run that Export and Chat can work on, of several the one that was active last; none saved: just the last."""
    runs = list_runs(root)
    return next((run for run in runs if saved_key(run) is not None), next(iter(runs), None))


def read_facts(run: RunDirectory) -> RunFacts:
    """Read a run's configuration, events and saved files.

    Raises:
        ConfigError: its run.yaml cannot be used.
    """
    live = run.is_live()
    config, progress = run.config(), run.progress()
    kept = [Kept(step, _adapter_mb(run.checkpoint(step))) for step in reversed(run.checkpoints())]
    if run.adapter.is_dir():
        kept.insert(0, Kept(None, _adapter_mb(run.adapter)))
    loaded = progress.model
    exports = run.exports.iterdir() if run.exports.is_dir() else ()
    return RunFacts(
        run=run,
        state=progress.shown_state(live=live),
        step=progress.step,
        model=config.model.name_or_path,
        kept=tuple(kept),
        merged_mb=loaded.parameters * DTYPE_BYTES[config.export.dtype] / 1e6 if loaded else None,
        merged_dtype=config.export.dtype,
        there=tuple(sorted(path.name for path in exports if not path.name.startswith("."))),
    )


def short_state(run: RunDirectory) -> str:
    """What a run has saved, in a few words, from names of files alone."""
    if run.is_live():
        return "still going"
    if run.adapter.is_dir():
        return "final adapter"
    steps = run.checkpoints()
    return f"checkpoint of step {steps[-1]}" if steps else "nothing saved"


def base_name(run: RunDirectory) -> str:
    """The base model of a run; empty where its configuration cannot be read."""
    try:
        return run.config().model.name_or_path
    except ConfigError:
        return ""


def _adapter_mb(folder: Path) -> float:
    names = ("adapter_config.json", "adapter_model.safetensors")
    return sum((folder / n).stat().st_size for n in names if (folder / n).is_file()) / 1e6
