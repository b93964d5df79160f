"""Which base models can be chosen, and what can be said of one without loading it.

Presets, the models that already lie in the Hugging Face cache, and local folders, in one list. It reads
folder names and `config.json` only: no torch, no network, so it is done before the first paint.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...engine.model.folder import LoadError, check_model_folder, check_tokenizer_folder
from ...presets.load import ModelPreset, model_presets
from ..value_text import short_count

Where = Literal["bundled", "cached", "local", "hub"]


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A row of the Model screen."""

    name: str
    """What the list shows."""
    name_or_path: str
    where: Where
    parameters: int | None = None
    context: int | None = None
    family: str = ""
    preset: ModelPreset | None = None
    gigabytes: float | None = None
    """Size of the weight files, where they are on this disk."""

    @property
    def size(self) -> str:
        return short_count(self.parameters) if self.parameters else ""


def hub_cache() -> Path:
    """The hub's cache folder, found as huggingface_hub finds it."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("HF_HOME")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(home or f"{cache}/huggingface").expanduser() / "hub"


def cached_models() -> dict[str, Path]:
    """Hub id -> the folder of a snapshot that has a `config.json`."""
    found = {}
    for folder in sorted(hub_cache().glob("models--*")):
        for config in sorted(folder.glob("snapshots/*/config.json")):
            found[folder.name.removeprefix("models--").replace("--", "/")] = config.parent
    return found


def catalogue(current: str | None = None) -> list[ModelEntry]:
    """Presets first, then other causal models in the cache; `current` where it is none of them."""
    cached = cached_models()
    entries = [_of_preset(preset, cached) for preset in model_presets()]
    known = {entry.name_or_path for entry in entries}
    for hub_id, folder in cached.items():
        if hub_id not in known and _is_causal(folder):
            entries.append(_of_folder(hub_id, hub_id, folder, "cached"))
            known.add(hub_id)
    if current and current not in known:
        try:
            entries.insert(0, look_up(current, entries))
        except LoadError:
            entries.insert(0, ModelEntry(name=current, name_or_path=current, where="hub"))
    return entries


def look_up(text: str, entries: Sequence[ModelEntry]) -> ModelEntry:
    """The model that a typed path or hub id means.

    Raises:
        LoadError: a folder without `config.json`, whole weights or a tokenizer; an adapter; or no possible hub id.
    """
    text = text.strip()
    for entry in entries:
        if text in (entry.name, entry.name_or_path):
            return entry
    if len(text) > 1000 or "\0" in text:
        raise LoadError("this is no path and no hub id: too long, or not text")
    folder = Path(text).expanduser()
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise LoadError(f"{text}: {error.strerror}") from error
    if is_folder:
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise LoadError(f"{text}: is an adapter", "give the base model that it was trained on")
        check_model_folder(folder, text)
        check_tokenizer_folder(folder, text)
        return _of_folder(folder.name, str(folder), folder, "local")
    if folder.is_file():
        raise LoadError(f"{text}: is a file", "give the folder that holds config.json and weights")
    if text.startswith(("/", "./", "../", "~")) or text.count("/") > 1:
        raise LoadError(f"{text}: no such folder")
    parts = text.split("/")
    if not all(part and part.replace("-", "").replace("_", "").replace(".", "").isalnum()
               and part.isascii() for part in parts):  # fmt: skip
        raise LoadError(f"{text}: is no folder here and no hub id (such as Qwen/Qwen2.5-0.5B)")
    return ModelEntry(name=text, name_or_path=text, where="hub")


def _of_preset(preset: ModelPreset, cached: dict[str, Path]) -> ModelEntry:
    where: Where = "cached" if preset.name_or_path in cached else "hub"
    folder = cached.get(preset.name_or_path)
    if preset.name_or_path == "demo":
        where = "bundled"
    return ModelEntry(
        name=preset.id,
        name_or_path=preset.name_or_path,
        where=where,
        parameters=preset.parameters,
        context=preset.context,
        family=preset.family,
        preset=preset,
        gigabytes=_weights_gb(folder) if folder else None,
    )


def _of_folder(name: str, name_or_path: str, folder: Path, where: Where) -> ModelEntry:
    config = read_config(folder)
    context = config.get("max_position_embeddings")
    return ModelEntry(
        name=name, name_or_path=name_or_path, where=where,
        context=context if isinstance(context, int) else None,
        family=str(config.get("model_type", "")),
        gigabytes=_weights_gb(folder),
    )  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """A model's `config.json`; empty where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _is_causal(folder: Path) -> bool:
    names = read_config(folder).get("architectures")
    return isinstance(names, list) and any("CausalLM" in str(name) for name in names)


def _weights_gb(folder: Path) -> float | None:
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors") if file.exists())
    return size / 1e9 if size else None
