"""Fixtures that train the tiny model through a real Session."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenfall.engine.config.run_config import RunConfig, parse_config
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run


def _config(model: Path, data: Path, runs: Path, sections: dict[str, Any]) -> RunConfig:
    tree: dict[str, Any] = {
        "output_dir": str(runs),
        "model": {"name_or_path": str(model)},
        "adapter": {"r": 4, "lora_alpha": 8},
        "data": {"path": str(data), "max_length": 64},
        "train": {
            "max_steps": 6, "gradient_accumulation_steps": 2, "learning_rate": 5e-3,
            "warmup_steps": 0, "device": "cpu", "save_steps": 1000,
        },
    }  # fmt: skip
    for name, values in sections.items():
        if isinstance(values, dict):
            tree.setdefault(name, {}).update(values)
        else:
            tree[name] = values
    return parse_config(tree)


@pytest.fixture
def tiny_config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a RunConfig on the tiny model; keywords are sections with their keys."""
    return lambda **sections: _config(tiny_model, tiny_data, tmp_path / "runs", sections)


@pytest.fixture(scope="session")
def _trained_once(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    from evenfall.engine.session.session import Session

    sections = {
        "adapter": {"r": 32, "lora_alpha": 64},
        "train": {"max_steps": 20, "learning_rate": 1e-2, "save_steps": 10},
    }
    run = create_run(_config(tiny_model, tiny_data, tmp_path_factory.mktemp("trained"), sections))
    session = Session(run)
    session.start()
    assert session.wait(600) and session.state == "finished"
    return run


@pytest.fixture
def trained(_trained_once: RunDirectory, tmp_path: Path) -> RunDirectory:
    """A run of 20 steps with checkpoints at 10 and 20 and an adapter that answers otherwise than the base."""
    return RunDirectory(Path(shutil.copytree(_trained_once.path, tmp_path / "runs" / _trained_once.path.name)))
