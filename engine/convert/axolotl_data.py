"""axolotl's `datasets`, `test_datasets` and the prompt that they are written in.

In axolotl a data set chooses its prompt: `type: alpaca` writes Alpaca's plain prompt whatever the
model's template, `type: chat_template` writes the template. Here one template serves a run, so a
mix of the two is a question.
"""

from collections.abc import Callable
from typing import Any

from ..config.run_config import DatasetConfig
from .axolotl_prompt import own_prompt
from .draft import Draft, is_empty
from .handlers import ROLES, is_off, is_on, word
from .rows_seen import FLAGS
from .templates import of_axolotl

ALPACA = {
    "alpaca": {},
    "gpteacher": {"output": "response"},
    "oasst": {"instruction": "INSTRUCTION", "output": "RESPONSE"},
}
"""Types that write Alpaca's prompt -> where their columns are not alpaca's."""
_CHAT = ("chat_template", "chat_template.default", "sharegpt")
_FORMAT = "data.format=messages (or alpaca, sharegpt, prompt_completion, text, segments, tokens)"
_FILE_KINDS = ("json", "jsonl", "csv", "parquet", "text")
_CHAT_COLUMNS = ("messages", "conversations", "conversation")
_OF_CHAT = {
    "field_messages", "message_field_role", "message_field_content", "message_property_mappings",
    "roles", "roles_to_train", "train_on_eos", "train_on_eot", "drop_system_message", "field_tools",
    "message_field_training", "chat_template", "chat_template_jinja",
}  # fmt: skip
_NO_EFFECT = {
    "ds_type": "what a file is, is told by its bytes",
    "trust_remote_code": "no code of a data set is run",
    "preprocess_shards": "all rows are prepared at once",
    "field_chosen": "belongs to preference training",
    "field_rejected": "belongs to preference training",
}


def datasets(draft: Draft, key: str, value: Any) -> None:
    """One data set becomes data.path and its keys, several become data.datasets."""
    items = _items(draft, key, value)
    if items is None:
        return
    alone = len(items) == 1
    sets = [_one(draft, f"{key}[{n}]", item, items) for n, item in enumerate(items)]
    if alone:
        defaults = {name: field.default for name, field in DatasetConfig.model_fields.items()}
        for name, part in sets[0].items():
            if part != defaults.get(name):
                draft.tree[f"data.{name}"] = part
    elif all("path" in one for one in sets):
        draft.tree["data.datasets"] = sets
    if any(word(item.get("type")) in ALPACA for item in items):
        _alpaca_prompt(draft, key, items)


def test_datasets(draft: Draft, key: str, value: Any) -> None:
    """One held-out file that reads as the training rows do."""
    items = _items(draft, key, value)
    if items is None:
        return
    first = draft.given.get("datasets")
    like = first[0] if isinstance(first, list) and isinstance(first[0], dict) else {}
    for n, item in enumerate(items):
        for name, part in item.items():
            at = f"{key}[{n}].{name}"
            if is_empty(part):
                continue
            if len(items) > 1:
                draft.asked(at, part, "one held-out file is taken", "data.eval_path=FILE")
            elif name == "path" and word(part) not in _FILE_KINDS:
                draft.mapped(at, part, "data.eval_path", part)
            elif name == "data_files" and (file := _one_file(part)):
                draft.mapped(at, part, "data.eval_path", file)
            elif name in _NO_EFFECT or like.get(name) == part:
                draft.ignored(at, part, _NO_EFFECT.get(name, "read as the training rows are"))
            else:
                draft.asked(
                    at, part, "held-out rows are read as the training rows are",
                    "data.eval_path=FILE",
                )  # fmt: skip


def chat_template(draft: Draft, key: str, value: Any) -> None:
    """A template by its name."""
    if all_of(draft, *ALPACA):
        draft.ignored(key, value, "rows of type alpaca are written in Alpaca's plain prompt")
    else:
        of_axolotl(draft, key, value)


def chat_template_jinja(draft: Draft, key: str, value: Any) -> None:
    """The template's text."""
    if all_of(draft, *ALPACA):
        draft.ignored(key, value, "rows of type alpaca are written in Alpaca's plain prompt")
    else:
        draft.mapped(key, value, "data.chat_template", value)


def evaluates(draft: Draft) -> bool:
    """Whether the file holds rows out."""
    given = draft.given
    held_out = not is_off(given.get("val_set_size", 0)) or "test_datasets" in given
    return held_out or draft.answered("data.eval_fraction") or draft.answered("data.eval_path")


def all_of(draft: Draft, *types: str) -> bool:
    """Whether all data sets are of these types."""
    items = draft.given.get("datasets")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return False
    return all(word(item.get("type")) in types for item in items)


def _items(draft: Draft, key: str, value: Any) -> list[dict[str, Any]] | None:
    items = value if isinstance(value, list) else [value]
    if all(isinstance(item, dict) and any(not is_empty(part) for part in item.values())
           for item in items):  # fmt: skip
        return items
    draft.refused(key, value, "expected a list of data sets, each with path and type")
    return None


def _one(draft: Draft, at: str, item: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
    """A DatasetConfig's keys, with one line said for each key that is given."""
    one: dict[str, Any] = {}
    alone = len(items) == 1
    answer = _FORMAT if alone else "data.datasets=[{path: FILE, format: FORMAT}]"
    where = "data.path=FILE" if alone else "data.datasets=[{path: FILE}]"
    if "type" not in item:
        draft.asked(f"{at}.type", None, "the rows' format is needed", answer)
    said_by: dict[str, Callable[[str, Any], None]] = {
        "path": lambda key, value: _path(draft, key, value, item, one, where),
        "data_files": lambda key, value: _data_files(draft, key, value, item, one, where),
        "name": lambda key, value: _text(draft, key, value, one, "name"),
        "split": lambda key, value: _split(draft, key, value, one, alone),
        "type": lambda key, value: (
            one.update(own_prompt(draft, key, value, items, answer))
            if isinstance(value, dict)
            else _type(draft, key, value, item, one, answer)
        ),
        "field": lambda key, value: _field(draft, key, value, item),
    }
    for name, value in item.items():
        key = f"{at}.{name}"
        if is_empty(value) and name == "type":
            one["format"] = "tokens"
            said = "is empty: rows are tokens already, as input_ids, attention_mask and labels"
            draft.belongs(key, None, "data.format=tokens", said)
        if is_empty(value):
            continue
        if name in said_by:
            said_by[name](key, value)
        elif name in _NO_EFFECT:
            draft.ignored(key, value, _NO_EFFECT[name])
        elif name in _OF_CHAT and word(item.get("type")) not in _CHAT:
            draft.ignored(key, value, "belongs to type chat_template")
        elif name in _OF_CHAT:
            _chat_key(draft, key, name, value)
        else:
            draft.unknown(key, value)
    return one


def _text(draft: Draft, key: str, value: Any, one: dict[str, Any], name: str) -> None:
    if isinstance(value, str):
        one[name] = value
        draft.belongs(key, value, f"data.{name}={value}", "")
    else:
        draft.refused(key, value, "expected text")


def _path(draft: Draft, key: str, value: Any, item: dict[str, Any], one: dict[str, Any], answer: str) -> None:
    if word(value) not in _FILE_KINDS:
        _text(draft, key, value, one, "path")
    elif _one_file(item.get("data_files")):
        draft.ignored(key, value, "what a file is, is told by its bytes")
    else:
        draft.asked(key, value, "names a kind of file, and data_files no single file", answer)


def _data_files(draft: Draft, key: str, value: Any, item: dict[str, Any], one: dict[str, Any], answer: str) -> None:
    file = _one_file(value)
    if file and word(item.get("path")) in _FILE_KINDS:
        one["path"] = file
        draft.belongs(key, value, "data.path", "")
    else:
        draft.asked(key, value, "one file is taken, and none inside a hub data set", answer)


def _one_file(value: Any) -> str | None:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and value else None


def _split(draft: Draft, key: str, value: Any, one: dict[str, Any], alone: bool) -> None:
    if isinstance(value, str) and not value.isidentifier():
        answers = ("data.split=train",) if alone else ()
        draft.asked(key, value, "a split's name is taken, no slice of one", *answers)
    else:
        _text(draft, key, value, one, "split")


def _type(draft: Draft, key: str, value: Any, item: dict[str, Any], one: dict[str, Any], answer: str) -> None:
    name = word(value)
    columns: dict[str, str] = {}
    said = ""
    if name in ALPACA:
        format, columns = "alpaca", dict(ALPACA[name])
        said = "with data.chat_template=alpaca, its plain prompt"
    elif name in _CHAT:
        found = _chat_format(item)
        if found is None:
            draft.refused(key, value, "field_messages and message_property_mappings take names")
            return
        format, columns = found
    elif name == "completion":
        field = item.get("field")
        format = "text"
        columns = {"text": field} if isinstance(field, str) and field not in ("", "text") else {}
        lost = "its end is cut off" if all_of(draft, "completion") else "it is left out"
        said = f"a text over sequence_len is split into several rows in axolotl; here {lost}"
    elif name == "input_output" and is_on(draft.given.get("train_on_inputs")):
        draft.asked(key, value, "train_on_inputs learns every segment; here their labels decide")
        return
    elif name == "input_output":
        format = "segments"
        said = "tokens are made of all segments together, in axolotl of each alone: they can differ where two meet"
    else:
        draft.asked(key, value, "not known; name the rows' format", answer)
        return
    one["format"] = format
    if columns:
        one["columns"] = columns
        pairs = ", ".join(f"{ours}: {theirs}" for ours, theirs in columns.items())
        said = "; ".join([f"data.columns={{{pairs}}}", *([said] if said else [])])
    draft.belongs(key, value, f"data.format={format}", said)


def _field(draft: Draft, key: str, value: Any, item: dict[str, Any]) -> None:
    if word(item.get("type")) == "completion" and isinstance(value, str):
        draft.belongs(key, value, "data.columns", "the column that holds the text")
    else:
        draft.asked(key, value, "the column of the text is taken for type completion only")


def _chat_format(item: dict[str, Any]) -> tuple[str, dict[str, str]] | None:
    """The format of a chat data set and the columns that are not where it has them."""
    mapping = item.get("message_property_mappings") or {}
    if not isinstance(mapping, dict):
        return None
    sharegpt = word(item.get("type")) == "sharegpt"
    role = mapping.get("role") or item.get("message_field_role") or ("from" if sharegpt else "role")
    content = (
        mapping.get("content") or item.get("message_field_content")
        or ("value" if sharegpt else "content")
    )  # fmt: skip
    column = item.get("field_messages") or ("conversations" if sharegpt else "messages")
    if not all(isinstance(name, str) for name in (role, content, column)):
        return None
    columns = {} if column in _CHAT_COLUMNS else {"messages": column}
    if isinstance(tools := item.get("field_tools"), str) and tools not in ("", "tools"):
        columns["tools"] = tools
    if (role, content) == ("from", "value"):
        return "sharegpt", columns
    columns |= {} if role == "role" else {"role": role}
    columns |= {} if content == "content" else {"content": content}
    return "messages", columns


def _chat_key(draft: Draft, key: str, name: str, value: Any) -> None:
    if name == "drop_system_message":
        _drop_system(draft, key, value)
    elif name == "chat_template":
        of_axolotl(draft, key, value)
    elif name == "chat_template_jinja":
        draft.mapped(key, value, "data.chat_template", value)
    elif name == "message_field_training" and value in FLAGS:
        draft.ignored(key, value, "flags of that name are read as they are")
    elif name == "message_field_training":
        draft.asked(key, value, f"flags are read under the names {', '.join(FLAGS)} only")
    elif name == "roles":
        _roles(draft, key, value)
    elif name == "roles_to_train":
        names = value if isinstance(value, list) else [value]
        if all(ROLES.get(word(role)) == "assistant" for role in names):
            draft.ignored(key, value, "answers are what is learnt")
        else:
            draft.refused(key, value, "only the assistant's turns can be learnt")
    elif name in ("train_on_eos", "train_on_eot"):
        if word(value) in ("turn", "true"):
            draft.ignored(key, value, "the end of each learnt turn is learnt")
        else:
            draft.asked(key, value, "here the end of each learnt turn is learnt, and no other")
    else:
        extra = []
        if name == "message_property_mappings" and isinstance(value, dict):
            extra = [other for other in value if other not in ("role", "content")]
        if extra:
            draft.asked(key, value, f"only role and content can be mapped, not {extra[0]}")
        else:
            draft.belongs(key, value, "data.format, data.columns", "see type")


def _drop_system(draft: Draft, key: str, value: Any) -> None:
    said = "for all data sets"
    if "data.drop_system" in draft.tree and draft.tree["data.drop_system"] != is_on(value):
        draft.asked(key, value, "data sets differ", "data.drop_system=true")
    else:
        draft.mapped(key, value, "data.drop_system", is_on(value), said)


def _roles(draft: Draft, key: str, value: Any) -> None:
    known = isinstance(value, dict) and all(
        ROLES.get(word(name)) == ROLES.get(word(role), "?")
        for role, names in value.items()
        for name in (names if isinstance(names, list) else [names])
    )
    if known:
        draft.ignored(key, value, "these role names are read as they are")
    else:
        draft.asked(key, value, "role names are not renamed: rename them in the rows")


def _alpaca_prompt(draft: Draft, key: str, items: list[dict[str, Any]]) -> None:
    others = [item for item in items if word(item.get("type")) in _CHAT]
    if others:
        draft.asked(
            f"{key}[].type", None,
            "alpaca writes its own prompt and chat_template the model's; here one serves all rows",
            "data.chat_template=alpaca", "data.chat_template=null",
        )  # fmt: skip
    else:
        draft.tree["data.chat_template"] = "alpaca"
