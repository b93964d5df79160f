"""Fixtures that train the tiny model through a real Session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenfall.engine.config.run_config import RunConfig, parse_config


@pytest.fixture
def tiny_config(tiny_model: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """Makes a RunConfig on the tiny model; keywords are sections with their keys."""

    def make(**sections: Any) -> RunConfig:
        tree: dict[str, Any] = {
            "output_dir": str(tmp_path / "runs"),
            "model": {"name_or_path": str(tiny_model)},
            "adapter": {"r": 4, "lora_alpha": 8},
            "data": {"path": str(tiny_data), "max_length": 64},
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

    return make
