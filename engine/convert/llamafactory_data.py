"""LLaMA-Factory's data sets: names that dataset_info.json explains.

The file is looked for in `dataset_dir`, from the configuration's folder and from the working
directory (where LLaMA-Factory itself is started), else beside the configuration.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from .draft import Draft, is_empty
from .handlers import ROLES, is_off, number, word
from .report import setting

_MEDIA = ("images", "videos", "audios")
_PREFERENCES = ("chosen", "rejected", "kto_tag", "ranking")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {
    "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool",
    "function_tag": "call", "system_tag": "system",
}  # fmt: skip


class _NotTaken(Exception):
    """Why a data set cannot be taken over as it is; `refused`: no answer changes that."""

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


@dataclass(frozen=True)
class _Registry:
    folder: Path
    entries: dict[str, Any]


def dataset(draft: Draft, key: str, value: Any) -> None:
    """The training data: one data set becomes data.path and its keys, several data.datasets."""
    sets = _resolve_all(draft, key, value, "data.path=FILE", "data.datasets=[{path: FILE}]")
    if not sets:
        return
    limit = number(draft.given.get("max_samples"))
    if limit is not None and limit >= 1 and limit == int(limit):
        sets = [{**one, "max_rows": _fewer(one.get("max_rows"), int(limit))} for one in sets]
    if len(sets) == 1:
        for name, part in sets[0].items():
            draft.tree[f"data.{name}"] = part
        draft.belongs(key, value, f"data.path={sets[0]['path']}", _in_words(sets[0]))
    else:
        draft.mapped(key, value, "data.datasets", sets)


def eval_dataset(draft: Draft, key: str, value: Any) -> None:
    """One held-out file."""
    sets = _resolve_all(draft, key, value, "data.eval_path=FILE")
    if not sets:
        return
    if len(sets) > 1:
        draft.asked(key, value, "one held-out file is taken", "data.eval_path=FILE")
    else:
        draft.mapped(key, value, "data.eval_path", sets[0]["path"], "read as the training rows are")


def dataset_dir(draft: Draft, key: str, value: Any) -> None:
    """Where the data sets are explained."""
    found = _registry(draft)
    where = f"read from {found.folder}" if isinstance(found, _Registry) else "see dataset"
    draft.belongs(key, value, "data.path", where)


def max_samples(draft: Draft, key: str, value: Any) -> None:
    """The first rows of each data set; `dataset` has taken it over."""
    limit = number(value)
    if limit is None or limit < 1 or limit != int(limit):
        draft.refused(key, value, "expected a number of rows")
    else:
        draft.belongs(key, value, f"data.max_rows={int(limit)}", "of each data set")


def evaluates(draft: Draft) -> bool:
    """Whether the file holds rows out."""
    given = draft.given
    held_out = not is_off(given.get("val_size", 0)) or "eval_dataset" in given
    return held_out or draft.answered("data.eval_fraction") or draft.answered("data.eval_path")


def _resolve_all(draft: Draft, key: str, value: Any, *answers: str) -> list[dict[str, Any]]:
    """The data sets of a comma list, or an empty list after saying why not."""
    names = value if isinstance(value, list) else str(value).split(",")
    names = [name.strip() for name in names if isinstance(name, str) and name.strip()]
    registry = _registry(draft)
    try:
        if not names:
            raise _NotTaken("expected names with commas between")
        if not isinstance(registry, _Registry):
            raise _NotTaken(registry)
        return [_resolve(draft, name, registry) for name in names]
    except _NotTaken as error:
        if error.refused:
            draft.refused(key, value, str(error))
        else:
            draft.asked(key, value, str(error), *answers)
        return []


def _registry(draft: Draft) -> _Registry | str:
    """dataset_info.json, or why there is none."""
    folder = draft.given.get("dataset_dir", "data")
    if not isinstance(folder, str) or "\0" in folder:
        return "dataset_dir: expected a folder"
    if folder == "ONLINE" or folder.startswith("REMOTE:"):
        return f"dataset_dir is {folder}: its data sets are explained elsewhere"
    beside = draft.file.parent
    for place in (beside / folder, Path(folder), beside):
        file = place / "dataset_info.json"
        try:
            entries = orjson.loads(file.read_bytes())
        except OSError:
            continue
        except orjson.JSONDecodeError as error:
            return f"{file}: is not JSON: {error}"
        if not isinstance(entries, dict):
            return f"{file}: expected an object of data sets"
        return _Registry(place, entries)
    return f"no dataset_info.json in {folder}, nor beside the file"


def _resolve(draft: Draft, name: str, registry: _Registry) -> dict[str, Any]:
    """A DatasetConfig's keys for one entry."""
    entry = registry.entries.get(name)
    if not isinstance(entry, dict):
        raise _NotTaken(f"{name} is not in {registry.folder / 'dataset_info.json'}")
    columns = _texts(entry, "columns", name)
    tags = _texts(entry, "tags", name)
    if any(not is_off(entry.get(key, False)) or key in columns for key in _PREFERENCES):
        raise _NotTaken(f"{name} is preference data; such training is not there yet", refused=True)
    if media := [key for key in _MEDIA if key in columns]:
        raise _NotTaken(f"{name} has {media[0]}; only text can be learnt", refused=True)
    one: dict[str, Any] = {"path": _place(entry, name, registry)}
    for theirs, ours in (("subset", "name"), ("split", "split"), ("num_samples", "max_rows")):
        if not is_empty(entry.get(theirs)):
            one[ours] = entry[theirs]
    formatting = word(entry.get("formatting", "alpaca"))
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise _NotTaken(f"{name}: formatting {formatting} is not known")
    if word(draft.given.get("stage")) == "pt":
        column = columns.get("prompt", "instruction")
        format, ours = "text", {"text": column} if formatting == "alpaca" else {}
        if formatting != "alpaca":
            raise _NotTaken(f"{name} is a chat; stage pt reads a column of text")
    elif formatting == "alpaca":
        format, ours = _pairs_of(columns)
    else:
        format, ours = _chat(name, formatting, columns, tags)
    one["format"] = format
    if ours := {key: column for key, column in ours.items() if key != column}:
        one["columns"] = ours
    return one


def _texts(entry: dict[str, Any], key: str, name: str) -> dict[str, str]:
    part = entry.get(key) or {}
    if not isinstance(part, dict) or not all(isinstance(item, str) for item in part.values()):
        raise _NotTaken(f"{name}: {key}: expected names of columns")
    return part


def _place(entry: dict[str, Any], name: str, registry: _Registry) -> str:
    if isinstance(file := entry.get("file_name"), str) and file:
        return str(registry.folder / file)
    if isinstance(hub := entry.get("hf_hub_url"), str) and hub:
        return hub
    raise _NotTaken(f"{name} has neither file_name nor hf_hub_url")


def _pairs_of(columns: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Alpaca rows. Where `columns` is given, LLaMA-Factory reads the columns in it and no others,
    so without `query` an `input` column is left out: that is prompt and completion."""
    if columns and "query" not in columns and "history" not in columns:
        named = {"prompt": columns.get("prompt", "prompt")}
        named["completion"] = columns.get("response", "completion")
        if "system" in columns:
            named["system"] = columns["system"]
        return "prompt_completion", named
    return "alpaca", {_ALPACA.get(key, key): column for key, column in columns.items()}


def _chat(name: str, formatting: str, columns: dict[str, str], tags: dict[str, str]) -> tuple[str, dict[str, str]]:
    sharegpt = formatting == "sharegpt"
    for tag, meaning in _TAGS.items():
        if ROLES.get(tags.get(tag, "").lower(), meaning) != meaning or (tag in tags and tags[tag].lower() not in ROLES):
            raise _NotTaken(f"{name}: {tag} {tags[tag]}: no role of that name is known")
    role = tags.get("role_tag", "from" if sharegpt else "role")
    content = tags.get("content_tag", "value" if sharegpt else "content")
    column = columns.get("messages", "conversations" if sharegpt else "messages")
    named = {key: columns[key] for key in ("system", "tools") if key in columns}
    if column not in ("messages", "conversations"):
        named["messages"] = column
    if (role, content) == ("from", "value"):
        return "sharegpt", named
    return "messages", {**named, "role": role, "content": content}


def _fewer(rows: Any, limit: int) -> int:
    """An entry's own `num_samples` and the file's `max_samples`: both hold."""
    own = number(rows)
    return limit if own is None else min(int(own), limit)


def _in_words(one: dict[str, Any]) -> str:
    """What else is taken over with a single data set."""
    return ", ".join(setting(f"data.{key}", part) for key, part in one.items() if key != "path")
