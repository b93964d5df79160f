"""How fast a model trained here the last time, to tell beforehand how long a run takes."""

from ..config.run_config import ConfigError, RunConfig
from .find import list_runs
from .progress import RunProgress
from .summary import read_outline

_LOOKED_AT = 30  # runs


def last_pace(config: RunConfig) -> float | None:
    """Tokens/s of the last run of the same model that took a few steps; None where there is none."""
    for run in list_runs(config.output_dir)[:_LOOKED_AT]:
        try:
            if run.config().model.name_or_path != config.model.name_or_path:
                continue
        except ConfigError:
            continue
        progress = RunProgress()
        progress.apply_all(read_outline(run.events_file))
        if progress.tokens_per_second and len(progress.steps) > 2:
            return progress.tokens_per_second
    return None
