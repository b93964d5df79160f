"""axolotl's `type` as a mapping: a prompt written in the file, over columns that the file names.

The prompt becomes a chat template, so that rows are written as the file says. A run has one
template, so data sets with other prompts beside it are a question.
"""

import re
from typing import Any

from .draft import Draft, is_empty

_COLUMNS = {"field_instruction": "instruction", "field_input": "input", "field_output": "output"}
_WRITTEN = ("format", "no_input_format", "system_format", "system_prompt", "field_system")


def own_prompt(
    draft: Draft, at: str, value: dict[str, Any], items: list[dict[str, Any]], answer: str
) -> dict[str, Any]:
    """A DatasetConfig's keys for a type that is a mapping, with one line said for each of its keys."""
    given = {key: part for key, part in value.items() if not is_empty(part)}
    if any(_prompt_of(item) != _prompt_of({"type": value}) for item in items):
        draft.asked(at, value, "one prompt serves all rows, and other data sets have another", answer)
        return {}
    if odd := [key for key, part in given.items() if not isinstance(part, str)]:
        draft.refused(at, value, f"{odd[0]}: expected text")
        return {}
    if not {"field_instruction", "field_output", "format"} <= given.keys():
        draft.asked(at, value, "needs field_instruction, field_output and format", answer)
        return {}
    names = {ours: given[theirs] for theirs, ours in _COLUMNS.items() if theirs in given}
    if "input" not in names:  # an alpaca row's `input` would be read all the same
        names = {"prompt": names["instruction"], "completion": names["output"]}
    if "field_system" in given:
        names["system"] = given["field_system"]
    else:
        draft.tree["data.drop_system"] = True
    columns = {ours: theirs for ours, theirs in names.items() if ours != theirs}
    for key, part in given.items():
        if key in _COLUMNS or key == "field_system":
            draft.belongs(f"{at}.{key}", part, "data.columns", "")
        elif key == "format":
            said = "as a chat template"
            draft.mapped(f"{at}.{key}", part, "data.chat_template", _template(given), said)
        elif key in _WRITTEN:
            draft.belongs(f"{at}.{key}", part, "data.chat_template", "see format")
        else:
            draft.unknown(f"{at}.{key}", part)
    format = "alpaca" if "input" in names else "prompt_completion"
    return {"format": format, **({"columns": columns} if columns else {})}


def _prompt_of(item: dict[str, Any]) -> dict[str, Any] | None:
    kind = item.get("type")
    if not isinstance(kind, dict):
        return None
    return {key: part for key, part in kind.items() if key in _WRITTEN and not is_empty(part)}


def _template(given: dict[str, str]) -> str:
    """The prompt as jinja. axolotl writes `system_prompt` only where no column holds the system text."""
    system = given.get("system_format", "")
    if "field_system" in given:
        head = _written(system, {"system": "messages[0].content"})
        head = f"{{%- if messages[0].role == 'system' -%}}{{{{- {head} -}}}}{{%- endif -%}}"
    elif "system_prompt" in given:
        head = f"{{{{- {system.replace('{system}', given['system_prompt'])!r} -}}}}"
    else:
        head = ""
    alone = given.get("no_input_format", given["format"])
    fields = {"instruction": "message.instruction", "input": "message.input"}
    both = _written(given["format"], fields)
    one = _written(alone, {"instruction": "message.content", "input": "''"})
    return (
        f"{head}{{%- for message in messages -%}}{{%- if message.role == 'user' -%}}"
        f"{{%- if message.input -%}}{{{{- {both} -}}}}{{%- else -%}}{{{{- {one} -}}}}{{%- endif -%}}"
        "{%- elif message.role == 'assistant' -%}{{- message.content + eos_token -}}{%- endif -%}"
        "{%- endfor -%}"
    )


def _written(text: str, fields: dict[str, str]) -> str:
    """A format of Python's as a jinja expression."""
    parts = re.split(rf"\{{({'|'.join(fields)})\}}", text)
    # Every other part is a field's name. jinja reads escapes in a literal as Python does.
    terms = [fields[part] if place % 2 else repr(part) for place, part in enumerate(parts)]
    return " + ".join(term for term in terms if term != "''") or "''"
