"""What a run leaves behind: the adapter in PEFT's format, or the model with the adapter merged in.

Merging goes onto the original 16-bit weights where the model has them: folding an update into weights
that were rounded to 4 bits throws part of it away. A checkpoint that exists only in 4 bits is
dequantised first. What was written is opened again with the stock library and compared with base plus
adapter before it is called done; an export that fails that check, or is cancelled, leaves nothing.
"""

import gc
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from transformers import AutoModelForCausalLM

from ..config.run_config import ExportConfig, ModelConfig, RunConfig
from ..inference.chat import adapter_folder
from ..model.load import load_adapter, load_base
from ..model.tokenizer import load_tokenizer
from ..run.directory import RunDirectory, atomic_folder

Report = Callable[[str, float | None], None]

_PROBE = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3; what comes next?"


class ExportError(RuntimeError):
    """An export that could not be written or failed its check; nothing of it was left."""


@dataclass(frozen=True)
class Exported:
    """One thing that was written and checked."""

    form: str
    path: Path
    megabytes: float
    check: str
    """What the check compared, with its number."""


def export_run(
    run: RunDirectory,
    forms: Sequence[str] = (),
    *,
    checkpoint: int | None = None,
    report: Report,
) -> list[Exported]:
    """Export a run into `exports/`, in each of `forms` (`adapter`, `merged`; none: as configured).

    Raises:
        RunError: there is no adapter to export, or another export of this run is being written.
        ExportError: a form is unknown, the disk is too small, or a check failed.
    """
    config = run.config()
    source = adapter_folder(run, checkpoint)
    label = "" if checkpoint is None else f"-step-{checkpoint}"
    with run.export_lock():
        return [
            _export_form(config, form, source, run.exports / f"{form}{label}", report)
            for form in forms or config.export.forms
        ]


def _export_form(
    config: RunConfig, form: str, source: Path, target: Path, report: Report
) -> Exported:
    if form == "adapter":
        check = _export_adapter(source, target, report)
    elif form == "merged":
        check = _export_merged(config, source, target, report)
    else:
        raise ExportError(f"{form}: no such form; there are adapter and merged")
    megabytes = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    return Exported(form, target, megabytes, check)


def _export_adapter(source: Path, target: Path, report: Report) -> str:
    report("copying the adapter", None)
    names = ("adapter_config.json", "adapter_model.safetensors")
    with atomic_folder(target) as folder:
        for name in names:
            shutil.copyfile(source / name, folder / name)
        config = PeftConfig.from_pretrained(str(folder))
    same = (target / names[1]).read_bytes() == (source / names[1]).read_bytes()
    if not same:
        shutil.rmtree(target)
        raise ExportError(f"{target}: the copy differs from the trained adapter")
    return f"opens in PEFT as {config.peft_type}; bytes equal the trained adapter's"


def _export_merged(config: RunConfig, source: Path, target: Path, report: Report) -> str:
    tokenizer = load_tokenizer(config)
    ids = torch.tensor([tokenizer(_PROBE).input_ids])
    model = _sixteen_bit_base(config.model, config.export, report)
    _check_room(target, sum(p.numel() * p.element_size() for p in model.parameters()))
    model = load_adapter(model, source)
    model.eval()
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits.float()
    report("merging", 0.3)
    model = model.merge_and_unload()
    with atomic_folder(target) as folder:
        report("writing the merged model", 0.5)
        model.config.use_cache = True
        shard = f"{config.export.max_shard_size_gb}GB"
        model.save_pretrained(str(folder), max_shard_size=shard)
        tokenizer.save_pretrained(str(folder))
        del model
        gc.collect()
        report("opening what was written and comparing", 0.8)
        return _compare(folder, ids, expected, config.export.dtype)


def _sixteen_bit_base(model: ModelConfig, export: ExportConfig, report: Report) -> Any:
    """The base on the CPU in the export's dtype, from its original weights or dequantised."""
    plain = model.model_copy(update={"quantization": "none", "dtype": export.dtype})
    cpu = torch.device("cpu")
    try:
        return load_base(plain, cpu, report, packed=False).model
    except Exception as error:
        if "is a 4-bit checkpoint" not in str(error):
            raise
    four_bit = model.model_copy(update={"quantization": "nf4", "dtype": export.dtype})
    loaded = load_base(four_bit, cpu, report, packed=False).model
    report("dequantising the 4-bit base: it has no 16-bit original", 0.2)
    return loaded.dequantize().to(getattr(torch, export.dtype))


def _compare(folder: Path, ids: torch.Tensor, expected: torch.Tensor, dtype: str) -> str:
    """Logits of the written model against base plus adapter.

    Raises:
        ExportError: they differ by more than the dtype's rounding can explain.
    """
    written = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=getattr(torch, dtype), use_safetensors=True
    )
    written.eval()
    with torch.inference_mode():
        got = written(input_ids=ids, use_cache=False).logits.float()
    error = ((got - expected).pow(2).mean() / expected.pow(2).mean()).sqrt().item()
    allowed = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}[dtype]
    if not error <= allowed:  # NaN fails too
        raise ExportError(
            f"the merged model's logits differ from base plus adapter by {error:.2e} "
            f"(relative RMS; {dtype} explains {allowed:.0e}): nothing was kept"
        )
    return f"logits against base + adapter: relative RMS error {error:.1e} ({dtype})"


def _check_room(target: Path, needed: int) -> None:
    parent = target
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed * 1.05:
        raise ExportError(
            f"{parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        )
