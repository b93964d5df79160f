"""config.json and generation_config.json of a merged model: the base's own, with what the merge changed.

transformers 5 writes keys that transformers 4 passes over without a word: the base of the rotary positions only within
`rope_parameters`, so that 4 computes with 10,000; the number of experts under another name. Servers and converters of
that age read the older keys. So the base's own keys stay, and where it has only the newer ones, the older are written
beside them; both ages read both.
"""

import json
from pathlib import Path
from typing import Any

from ..config.run_config import ModelConfig
from ..model.source import told_by

_CONFIG, _GENERATION = "config.json", "generation_config.json"


def complete_model_config(base: ModelConfig, folder: Path, dtype: str, end: int | None) -> None:
    """Complete what transformers wrote into a merged model's folder.

    Args:
        end: a token that ends answers besides those that the base stops at.
    """
    written = _read(folder / _CONFIG)
    told = _with_base_keys(written, told_by(base, _CONFIG))
    told["dtype"] = told["torch_dtype"] = dtype
    for part in (told, told.get("text_config")):
        if isinstance(part, dict):
            _add_older_keys(part)
    generation = told_by(base, _GENERATION) or _read(folder / _GENERATION)
    if end is not None:
        known = generation.get("eos_token_id", told.get("eos_token_id"))
        ends = [*(known if isinstance(known, list) else [] if known is None else [known]), end]
        generation["eos_token_id"] = told["eos_token_id"] = ends
    _write(folder / _CONFIG, told)
    if generation:
        _write(folder / _GENERATION, generation)


def _with_base_keys(written: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The base's own keys; those that transformers wrote where the merged model is of another type (the text part of
    a model that sees pictures too)."""
    if written.get("model_type") != own.get("model_type"):
        return written
    told = {key: value for key, value in own.items() if key != "quantization_config" or key in written}
    for key in ("architectures", "tie_word_embeddings", "auto_map"):
        if key in written:
            told[key] = written[key]
    text, written_text = told.get("text_config"), written.get("text_config")
    if isinstance(text, dict) and isinstance(written_text, dict) and "tie_word_embeddings" in written_text:
        told["text_config"] = {**text, "tie_word_embeddings": written_text["tie_word_embeddings"]}
    return told


def _add_older_keys(told: dict[str, Any]) -> None:
    """Beside `rope_parameters`: `rope_theta`, `rope_scaling` and `partial_rotary_factor`; those of layers with a window
    of their own, as Gemma 3 has them, in `rope_local_base_freq`. Beside `num_local_experts`: `num_experts`, as
    transformers 4 calls it in some mixtures (Qwen 3's)."""
    if "num_local_experts" in told:
        told.setdefault("num_experts", told["num_local_experts"])
    rope = told.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    by_layer = {kind: value for kind, value in rope.items() if isinstance(value, dict)}
    if "full_attention" in by_layer:
        rope = by_layer["full_attention"]
        if "sliding_attention" in by_layer:
            told.setdefault("rope_local_base_freq", by_layer["sliding_attention"].get("rope_theta"))
    scaling = dict(rope)
    for key in ("rope_theta", "partial_rotary_factor"):
        if (value := scaling.pop(key, None)) is not None:
            told.setdefault(key, value)
    kind = scaling.get("rope_type", "default")
    if kind == "longrope":  # Phi-3's reader takes these three keys and no other
        told.setdefault("original_max_position_embeddings", scaling.get("original_max_position_embeddings"))
        factors = {key: scaling[key] for key in ("short_factor", "long_factor") if key in scaling}
        scaling = {"type": kind, **factors}
    if kind != "default":
        told.setdefault("rope_scaling", scaling)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes()) if file.is_file() else {}


def _write(file: Path, told: dict[str, Any]) -> None:
    file.write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
