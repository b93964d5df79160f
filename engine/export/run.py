"""What a run leaves behind: the adapter in PEFT's format, or the model with the adapter merged in.

Merging goes onto the original 16-bit weights where the model has them: folding an update into weights
that were rounded to 4 bits throws part of it away. A checkpoint that exists only in 4 bits is
dequantised first. Beside either lies the base's own tokenizer, with what the run changed in it. What was
written is opened again with the stock library and compared, logits with base plus adapter and token ids
with the base's, before it is called done; an export that fails that check, or is cancelled, leaves nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from ..config.run_config import RunConfig
from ..machine.jobs import TellStage
from ..run.directory import RunDirectory, adapter_folder
from .adapter import export_adapter
from .form import Exported, ExportError
from .merged import export_merged


def export_run(
    run: RunDirectory,
    forms: Sequence[str] = (),
    *,
    checkpoint: int | None = None,
    overrides: Sequence[str] = (),
    report: TellStage,
) -> list[Exported]:
    """Export a run into `exports/`, in each of `forms` (`adapter`, `merged`; none: as configured).

    Args:
        overrides: of its configuration, for this export alone, such as where its base is now.

    Raises:
        ConfigError: an override does not fit.
        RunError: there is no adapter to export, or another export of this run is being written.
        ExportError: a form is unknown, the disk is too small, or a check failed.
    """
    config = run.config().with_overrides(overrides).with_whole_paths()
    data = run.progress().data
    chats = data is None or data.has_chats
    source = adapter_folder(run, checkpoint)
    label = "" if checkpoint is None else f"-step-{checkpoint}"
    with run.export_lock():
        return [
            _export_form(config, form, source, run.exports / f"{form}{label}", chats, report)
            for form in forms or config.export.forms
        ]


def _export_form(config: RunConfig, form: str, source: Path, target: Path, chats: bool, report: TellStage) -> Exported:
    if form == "adapter":
        check = export_adapter(config, source, target, chats, report)
    elif form == "merged":
        check = export_merged(config, source, target, chats, report)
    else:
        raise ExportError(f"{form}: no such form; there are adapter and merged")
    megabytes = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    return Exported(form=form, path=target, megabytes=megabytes, check=check)
