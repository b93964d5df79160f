"""A base that is named anew: another model is told before anything is loaded or written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.export.run import export_run
from evenfall.engine.model.folder import LoadError
from evenfall.engine.model.same_base import check_same_base
from evenfall.engine.run.directory import RunDirectory

Make = Callable[..., RunConfig]


@pytest.fixture
def other(trained: RunDirectory, tmp_path: Path) -> Path:
    """The run's base with layers of another width."""
    base = Path(trained.config().model.name_or_path)
    folder = Path(shutil.copytree(base, tmp_path / "other"))
    for file in folder.glob("*.safetensors"):
        weights = {
            name: np.pad(value, [(0, 0), (0, 8)]) if value.ndim == 2 else value
            for name, value in load_file(file).items()
        }
        save_file(weights, file, {"format": "pt"})
    return folder


def test_the_runs_own_base_and_what_files_cannot_tell_pass(trained: RunDirectory, tmp_path: Path) -> None:
    base = trained.config().model.name_or_path
    check_same_base(trained.adapter, base)
    check_same_base(trained.adapter, "some/model-of-the-hub")
    packed = Path(shutil.copytree(base, tmp_path / "packed"))
    for file in packed.glob("*.safetensors"):
        save_file({name: np.zeros((64, 1), np.uint8) for name in load_file(file)}, file, {"format": "pt"})
    check_same_base(trained.adapter, str(packed))


def test_another_model_is_told_with_both_sizes(trained: RunDirectory, other: Path) -> None:
    with pytest.raises(LoadError, match=r"is another model than the adapter was trained on: .*inputs, the adapter's"):
        check_same_base(trained.adapter, str(other))


def test_an_adapter_is_not_exported_with_another_base(trained: RunDirectory, other: Path) -> None:
    trained.write_config(trained.config().with_overrides([f"model.name_or_path={json.dumps(str(other))}"]))
    with pytest.raises(LoadError, match="another model"):
        export_run(trained, ["adapter"], report=lambda message, fraction: None)
    assert not (trained.exports / "adapter").exists()
