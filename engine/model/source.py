"""Where transformers finds a model, and what its files tell before it is loaded. Light: no torch."""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers.utils.hub import cached_file

from ..config.run_config import ModelConfig
from .folder import MOVED, LoadError, model_folder

_POSITIONS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx",
    "max_target_positions",
)  # fmt: skip
"""Where configurations keep the length of their context: GPT-2's, MPT's, ChatGLM's and Whisper's have names of their
own."""
_LEARNT_POSITIONS = {"gpt2", "openai-gpt", "gpt_neo", "gpt_bigcode", "opt", "biogpt", "bart", "mbart", "blenderbot"}


def model_source(config: ModelConfig) -> str:
    """Where transformers finds the model: a folder, or the hub id itself.

    Raises:
        LoadError: a local path without config.json or without whole safetensors.
    """
    return str(model_folder(config.name_or_path) or config.name_or_path)


def ends_of_generation(config: ModelConfig) -> set[int]:
    """The token ids at which the model's own generation_config.json has generation stop; empty where it
    says nothing."""
    ends = told_by(config, "generation_config.json").get("eos_token_id")
    return {end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)}


def context_length(config: ModelConfig) -> int | None:
    """The positions that the model was made for, in tokens; None where its config.json does not say."""
    return _first_number(_of_text(config), _POSITIONS)


def learnt_positions(config: ModelConfig) -> bool:
    """Whether the model has learnt a vector for each position and none for those beyond: it cannot compute them."""
    return _of_text(config).get("model_type") in _LEARNT_POSITIONS


def embedded_tokens(config: ModelConfig) -> int | None:
    """How many token ids the model has embeddings for; None where its config.json does not say."""
    return _first_number(_of_text(config), ("vocab_size",))


def _of_text(config: ModelConfig) -> dict[str, Any]:
    """The model's config.json; of a model that sees pictures too, the part of its language model."""
    told = told_by(config, "config.json")
    text = told.get("text_config")
    return text if isinstance(text, dict) else told


def _first_number(told: dict[str, Any], keys: Sequence[str]) -> int | None:
    numbers = (told.get(key) for key in keys)
    return next((number for number in numbers if type(number) is int and number > 0), None)


def told_by(config: ModelConfig, name: str) -> dict[str, Any]:
    """A JSON file of the model; empty where there is none, or it holds no object."""
    try:
        path = cached_file(
            model_source(config),
            name,
            revision=config.revision,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        told = json.loads(Path(path).read_bytes()) if path else None
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


@contextlib.contextmanager
def readable_errors(name: str):
    """Turn the hub's and transformers' errors into one that says what to do."""
    try:
        yield
    except ImportError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        packages = " ".join(dict.fromkeys(re.findall(r"pip install ([\w-]+)", str(error))))
        raise LoadError(
            f"{name}: needs a package that is not installed: {lines[0].partition('. ')[0]}",
            f"install what it needs: pip install {packages}" if packages else "",
        ) from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        text = str(error)
        low = text.lower()
        if isinstance(error, SafetensorError):
            fix = "a weight file is damaged or not whole: fetch it again"
        elif "gated" in low or "401" in low or "403" in low:
            fix = "accept its licence on its hub page, then `hf auth login` (or set HF_TOKEN)"
        elif "trust_remote_code" in low:
            fix = "it brings its own Python code: read it, then set model.trust_remote_code=true"
        elif "safetensors" in low:
            fix = "it has no safetensors weights; Evenfall reads no pickle files"
        elif not Path(name).expanduser().is_dir() and any(
            word in low for word in ("connect", "offline", "resolve", "couldn't")
        ):
            fix = f"no such folder here, and the hub cannot be reached or has no such model; {MOVED}"
        elif "does not recognize this architecture" in low:
            fix = "this transformers does not know the architecture: upgrade transformers"
        else:
            fix = "transformers says"
        raise LoadError(f"{name}: cannot be loaded: {fix}\n{text}") from error
