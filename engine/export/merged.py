"""The merged 16-bit model: base plus adapter, for anything that reads safetensors."""

import gc
import shutil
from pathlib import Path
from typing import Any

import torch

from ..config.run_config import ExportConfig, ModelConfig, RunConfig
from ..data.render.turn_end import learnt_turn_end
from ..machine.jobs import TellStage
from ..model.adapter import adapted_weights, load_adapter, untie
from ..model.load import load_base
from ..model.tokenizer import load_tokenizer
from ..model.tokenizer_files import tokenizer_files
from ..run.files import atomic_folder
from .form import ExportError
from .model_config import complete_model_config
from .proof import compare_with_live
from .token_ids import compare_token_ids

_PROBE = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3; what comes next?"


def export_merged(config: RunConfig, source: Path, target: Path, chats: bool, report: TellStage) -> str:
    """Write the merged model.

    Args:
        chats: the run learnt conversations.

    Raises:
        LoadError: the base cannot be loaded.
        ExportError: the disk is too small, or what was written says other than base plus adapter.
    """
    tokenizer = load_tokenizer(config)
    end = learnt_turn_end(config.model, tokenizer, chats)
    files = tokenizer_files(config, tokenizer, end)
    ids = torch.tensor([tokenizer(_PROBE).input_ids])
    model = _sixteen_bit_base(config.model, config.export, report)
    _check_room(target, sum(p.numel() * p.element_size() for p in model.parameters()))
    model = load_adapter(model, source)
    model.eval()
    untie(model)
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits.float()
        with model.disable_adapter():
            learnt = expected - model(input_ids=ids, use_cache=False).logits.float()
    adapted = adapted_weights(model)
    report("merging", 0.3)
    model = model.merge_and_unload()
    with atomic_folder(target) as folder:
        report("writing the merged model", 0.5)
        model.config.use_cache = True
        shard = f"{config.export.max_shard_size_gb}GB"
        model.save_pretrained(str(folder), max_shard_size=shard)
        complete_model_config(config.model, folder, config.export.dtype, end)
        files.write(folder)
        del model
        gc.collect()
        report("opening what was written and comparing", 0.8)
        same_ids = compare_token_ids(tokenizer, folder, trust_remote_code=config.model.trust_remote_code)
        same_logits = compare_with_live(folder, ids, expected, learnt, adapted, config.export.dtype)
        return f"{same_logits}; {same_ids}"


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
