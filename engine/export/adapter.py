"""The adapter alone, in PEFT's format, with the tokenizer that it was trained with."""

import json
import shutil
from pathlib import Path

from peft import PeftConfig

from ..config.run_config import RunConfig
from ..data.render.turn_end import learnt_turn_end
from ..machine.jobs import TellStage
from ..model.same_base import check_same_base
from ..model.source import model_source
from ..model.tokenizer import load_tokenizer
from ..model.tokenizer_files import tokenizer_files
from ..run.files import atomic_folder
from .form import ExportError
from .token_ids import compare_token_ids

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(config: RunConfig, source: Path, target: Path, chats: bool, report: TellStage) -> str:
    """Write the adapter.

    Args:
        chats: the run learnt conversations.

    Raises:
        ExportError: what was written is not what was trained. LoadError: the base named is another model.
    """
    check_same_base(source, config.model.name_or_path)
    report("reading the tokenizer", None)
    tokenizer = load_tokenizer(config)
    files = tokenizer_files(config, tokenizer, learnt_turn_end(config.model, tokenizer, chats), alone=True)
    report("copying the adapter", None)
    with atomic_folder(target) as folder:
        told = json.loads((source / _CONFIG).read_bytes())
        told["base_model_name_or_path"] = model_source(config.model)
        (folder / _CONFIG).write_text(json.dumps(told, indent=2), encoding="utf-8")
        shutil.copyfile(source / _WEIGHTS, folder / _WEIGHTS)
        files.write(folder)
        opened = PeftConfig.from_pretrained(str(folder))
        if (folder / _WEIGHTS).read_bytes() != (source / _WEIGHTS).read_bytes():
            raise ExportError(f"{target}: the copy differs from the trained adapter")
        same_ids = compare_token_ids(tokenizer, folder, trust_remote_code=config.model.trust_remote_code)
    return f"opens in PEFT as {opened.peft_type}; bytes equal the trained adapter's; {same_ids}"
