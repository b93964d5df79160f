"""What was chosen last, model, data and settings: kept in the user's state folder until the app is started again.

A run's name and folder are not kept: they belong to one run, and to where the app is started.
"""

import contextlib
from pathlib import Path

from ...engine.config.run_config import RunConfig, load_config
from ...engine.machine.user_folders import private_folder, state_folder
from ...engine.run.files import write_atomic


def last_draft_file() -> Path:
    """Where it is kept."""
    return state_folder() / "draft.yaml"


def read_last_draft(root: Path) -> RunConfig | None:
    """What was chosen last, for runs in the folder `root`; None where nothing was.

    Raises:
        ConfigError: what was kept cannot be read, or says what this version does not know.
    """
    file = last_draft_file()
    return load_config(file, [f"output_dir={root}"]) if file.is_file() else None


def keep_draft(draft: RunConfig) -> None:
    """Keep what is chosen now. A disk that refuses it costs no more than that."""
    kept = draft.with_whole_paths().model_copy(update={"name": None, "output_dir": RunConfig().output_dir})
    with contextlib.suppress(OSError):
        private_folder(last_draft_file().parent)
        write_atomic(last_draft_file(), kept.to_yaml().encode())
