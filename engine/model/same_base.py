"""Whether an adapter was trained on a model, told from the sizes in their files: before anything is loaded or written.

A base that moved is named anew (`model.name_or_path=`), and another one may be named by mistake. What the files cannot
tell (a hub id, weights in 4 bits, names that transformers changes while it loads) is left to the loading.

Light: no torch.
"""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from .folder import LoadError, model_folder

_BEFORE, _BEHIND = "base_model.model.", ".lora_A.weight"
_LOOKED_AT = 4  # of the adapter's weights


def check_same_base(adapter: Path, name_or_path: str) -> None:
    """See that the layers of a local model have the sizes of those that an adapter lies on.

    Args:
        adapter: a folder with adapter_model.safetensors.

    Raises:
        LoadError: one has not.
    """
    folder = model_folder(name_or_path)
    if folder is None:
        return
    wanted = _shapes([adapter / "adapter_model.safetensors"])
    inputs = {
        f"{name.removeprefix(_BEFORE).removesuffix(_BEHIND)}.weight": shape[1]
        for name, shape in wanted.items()
        if name.endswith(_BEHIND) and len(shape) == 2
    }
    there = _shapes(sorted(folder.glob("*.safetensors")))
    for name, size in list(inputs.items())[:_LOOKED_AT]:
        shape = there.get(name)
        if shape is not None and len(shape) == 2 and shape[1] not in (1, size):  # 1: packed in 4 bits
            raise LoadError(
                f"model.name_or_path: {name_or_path} is another model than the adapter was trained on: its {name} "
                f"takes {shape[1]:,} inputs, the adapter's {size:,}",
                "name the run's own base, where it is now",
            )


def _shapes(files: list[Path]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file in files:
        try:
            with safe_open(str(file), "np") as opened:
                names = opened.keys()
                found |= {name: opened.get_slice(name).get_shape() for name in names}
        except (OSError, SafetensorError):
            continue  # its reader will tell
    return found
