"""The adapter alone, in PEFT's format."""

import shutil
from pathlib import Path

from peft import PeftConfig

from ..machine.jobs import TellStage
from ..run.files import atomic_folder
from .form import ExportError


def export_adapter(source: Path, target: Path, report: TellStage) -> str:
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
