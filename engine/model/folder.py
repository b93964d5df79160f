"""Whether a folder is a model, told from its files alone.

Light: the standard library only. The screens ask before a model is chosen and the command line before a run is made,
so that a folder without weights is refused then, and not by a run that has begun.
"""

import json
from pathlib import Path

from ...presets.load import demo_folder
from ..errors import UserError

_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_TOKENIZERS = ("tokenizer*", "*.model", "*vocab*", "tekken*.json")
"""Names that files of tokenizers have."""


MOVED = "where it moved, say its place now: model.name_or_path=PLACE, behind the command or in the run's run.yaml"
"""What to do for a folder that is not there."""


class LoadError(UserError):
    """A model that cannot be loaded; the message says which and the fix."""


def model_folder(name_or_path: str) -> Path | None:
    """The folder of a model on this disk; None where the name means the hub.

    Raises:
        LoadError: a local path that is no folder, or one that `check_model_folder` refuses.
    """
    if name_or_path == "demo":
        return demo_folder() / "model"
    folder = Path(name_or_path).expanduser()
    if not folder.exists():
        if name_or_path.startswith(("/", ".", "~")) or name_or_path.count("/") > 1:
            raise LoadError(f"model.name_or_path: {name_or_path} does not exist", MOVED)
        return None
    check_model_folder(folder, f"model.name_or_path: {name_or_path}")
    return folder


def check_model_folder(folder: Path, name: str) -> None:
    """See that a folder holds a model as transformers will look for it.

    Args:
        name: what errors call the folder.

    Raises:
        LoadError: no config.json or one that is not JSON, no safetensors, or a shard that its index names is missing.
    """
    _check_config(folder / "config.json", name)
    _check_weights(folder, name)


def check_tokenizer_folder(folder: Path, name: str) -> None:
    """See that a folder holds files of a tokenizer, of any kind.

    Args:
        name: what errors call the folder.

    Raises:
        LoadError: it holds none.
    """
    if not any(file for pattern in _TOKENIZERS for file in folder.glob(pattern)):
        raise LoadError(
            f"{name} holds no tokenizer (tokenizer.json)",
            "copy the tokenizer's files of the model that it was made from into the folder",
        )


def _check_config(file: Path, name: str) -> None:
    if not file.is_file():
        raise LoadError(f"{name} holds no config.json: not a model folder")
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{name}: config.json cannot be read: {error}", "fetch the model again") from error
    if not isinstance(config, dict):
        raise LoadError(f"{name}: config.json holds no keys with values", "fetch the model again")


def _check_weights(folder: Path, name: str) -> None:
    if (folder / _WEIGHTS).is_file():
        return
    if not (folder / _INDEX).is_file():
        # Weights of other names are left to transformers: config.json may name them.
        if not any(folder.glob("*.safetensors")):
            raise LoadError(
                f"{name} holds no *.safetensors. Evenfall reads no pickle files "
                "(.bin, .pt): convert them with transformers' save_pretrained first"
            )
        return
    shards = _shards(folder / _INDEX, name)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise LoadError(
            f"{name} lacks {missing[0]}, which {_INDEX} names ({len(missing)} of {len(shards)} "
            "weight files are missing)",
            "fetch the model again, or copy the missing files into the folder",
        )


def _shards(index: Path, name: str) -> list[str]:
    """Weight files that an index names, in order."""
    try:
        return sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(f"{name}: {index.name} cannot be read: {error!r}") from error
