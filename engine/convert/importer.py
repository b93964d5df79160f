"""From a file of another tool to a report and, where nothing stands in the way, a RunConfig.

Which tool wrote a file is told from its keys, not from its name: axolotl's and LLaMA-Factory's
files are passed round under any.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml

from ..config.run_config import config_fields
from ..config.yaml12 import load_yaml
from . import axolotl, llamafactory, mlx_lm, studio
from .draft import Draft
from .report import ConvertError, ImportReport

_ACCEPTED = "axolotl, LLaMA-Factory (its command line or Board), Unsloth Studio and mlx-lm are known"
_OURS = ("model", "adapter", "data", "train", "export")


def import_config(path: str | Path, overrides: Sequence[str] = (), ignore: Collection[str] = ()) -> ImportReport:
    """Read another tool's configuration.

    Args:
        overrides: `section.key=value` of ours; they answer what is asked, and win.
        ignore: keys of the file to leave out, of those that are asked about.

    Raises:
        ConvertError: the file cannot be read or is none of the tools', or an override or a key to
            ignore does not fit.
    """
    path = Path(path)
    tree = _read(path)
    if llamafactory.recognise_board(tree):
        given, names = llamafactory.from_board(tree)
        draft = Draft(llamafactory.BOARD, path, given, overrides, ignore, names)
        llamafactory.convert(draft)
        return draft.report()
    if _is_ours(tree) and not studio.recognise(tree):
        raise ConvertError(f"{path}: is a run.yaml already: `evenfall train {path}`")
    if studio.recognise(tree):
        tree = studio.flatten(tree)
        tool, convert = studio.TOOL, studio.convert
    elif axolotl.recognise(tree):
        tool, convert = axolotl.TOOL, axolotl.convert
    elif llamafactory.recognise(tree):
        tool, convert = llamafactory.TOOL, llamafactory.convert
    elif mlx_lm.recognise(tree):
        tool, convert = mlx_lm.TOOL, mlx_lm.convert
    else:
        keys = ", ".join(list(tree)[:6]) or "none"
        raise ConvertError(f"{path}: no known tool has these keys: {keys}; {_ACCEPTED}")
    draft = Draft(tool, path, tree, overrides, ignore)
    convert(draft)
    return draft.report()


def _is_ours(tree: dict[str, Any]) -> bool:
    """Whether a file is a run.yaml: two sections of that name, and most of their keys."""
    sections = {name: tree[name] for name in _OURS if isinstance(tree.get(name), dict)}
    known = {field.key for field in config_fields()}
    keys = [f"{name}.{key}" for name, section in sections.items() for key in section]
    return len(sections) > 1 and 2 * sum(key in known for key in keys) > len(keys)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConvertError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path}: is not UTF-8 text: {error.reason}; save it as UTF-8") from None
    except IsADirectoryError:
        raise ConvertError(f"{path}: is a folder; name the configuration file in it") from None
    except (OSError, ValueError) as error:
        raise ConvertError(f"{path}: cannot be read: {error}") from error
    try:
        tree = orjson.loads(text) if path.suffix.lower() == ".json" else load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
        raise ConvertError(f"{path}: is not {kind}: {error}") from error
    if not isinstance(tree, dict):
        got = "is empty" if tree is None else f"holds {'a list' if isinstance(tree, list) else 'one value'}"
        raise ConvertError(f"{path}: {got}; expected the keys and values of a configuration")
    if odd := [key for key in tree if not isinstance(key, str)]:
        raise ConvertError(f"{path}: {odd[0]!r}: a key must be a word; write it in quotes")
    return tree
