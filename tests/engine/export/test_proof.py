"""The check of a merged model: its bound goes by what was learnt and by what rounding really does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from evenfall.engine.export.form import ExportError
from evenfall.engine.export.proof import compare_with_live

ADAPTED = {"model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"}


@pytest.fixture
def written(tiny_model: Path, tmp_path: Path) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """A folder in float32, ids, and its logits."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.save_pretrained(str(tmp_path / "merged"))
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
    with torch.no_grad():
        return tmp_path / "merged", ids, model(input_ids=ids, use_cache=False).logits.float()


def change_of(logits: torch.Tensor, size: float) -> torch.Tensor:
    """Another direction, of this RMS size beside the logits."""
    other = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    return other * (size * logits.pow(2).mean().sqrt() / other.pow(2).mean().sqrt())


def compare(written: tuple[Path, torch.Tensor, torch.Tensor], error: float, learnt: float) -> str:
    folder, ids, logits = written
    return compare_with_live(
        folder, ids, logits + change_of(logits, error), change_of(logits, learnt), ADAPTED, "float32"
    )


def test_an_error_small_beside_what_was_learnt_passes(written) -> None:
    assert "the adapter changes them by 8.0e-01" in compare(written, 5e-5, 0.8)


def test_a_merge_that_lost_what_was_learnt_is_refused_however_small_that_is(written) -> None:
    with pytest.raises(ExportError, match=r"by 100% of what was learnt .*nothing was kept"):
        compare(written, 5e-5, 5e-5)


def test_an_error_that_rounding_explains_passes_and_is_told(written) -> None:
    assert "rounding to float32 is" in compare(written, 1e-7, 2e-7)


def test_an_error_beyond_all_rounding_is_refused_whatever_was_learnt(written) -> None:
    with pytest.raises(ExportError, match=r"float32 explains 1e-04"):
        compare(written, 2e-4, 10.0)
