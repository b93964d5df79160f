"""The merged 16-bit model: base plus adapter, for anything that reads safetensors."""

import gc
import shutil
from pathlib import Path
from typing import Any

import torch

from ..config.run_config import ExportConfig, ModelConfig, RunConfig
from ..machine.jobs import TellStage
from ..model.adapter import load_adapter
from ..model.load import load_base
from ..model.tokenizer import load_tokenizer
from ..run.files import atomic_folder
from .form import ExportError
from .proof import compare_with_live

_PROBE = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3; what comes next?"


def export_merged(config: RunConfig, source: Path, target: Path, report: TellStage) -> str:
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
        return compare_with_live(folder, ids, expected, config.export.dtype)


def _sixteen_bit_base(model: ModelConfig, export: ExportConfig, report: TellStage) -> Any:
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


def _check_room(target: Path, needed: int) -> None:
    parent = target
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed * 1.05:
        raise ExportError(f"{parent}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
