"""The draft as the screens speak of it: values by dotted key, texts of fields, presets applied.

A preset is a set of keys. Taking another one must not leave the first one's keys behind (60 steps of a
quick test in a night's run), so what a preset set goes back to its default when the next does not set
it, unless the user has changed it since.
"""

import json
from collections.abc import Mapping
from typing import Any

from ..engine.config import ConfigField, RunConfig, config_fields
from ..presets.load import model_presets, preset_overrides, recipe_presets

FIELDS: dict[str, ConfigField] = {field.key: field for field in config_fields()}


def value_of(config: RunConfig, key: str) -> Any:
    """The plain value of `section.key`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def field_text(value: Any) -> str:
    """A value as it is shown in a field: null as empty, a list without its brackets."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return short_number(value)
    return str(value)


def short_number(value: float) -> str:
    """0.0002 -> `2e-4`, 32.0 -> `32`."""
    if value and abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.10g}"


def override_of(key: str, text: str) -> str:
    """What was typed into the field of `key`, as an override that means just that.

    Free text is quoted, so that a path named `null` or with `: ` in it stays a path.
    """
    text, takes = text.strip(), FIELDS[key].takes
    if not text and "null" in takes:
        return f"{key}=null"
    if "list of" in takes and (text != "all-linear" and not text.startswith("[")):
        words = [word.strip() for word in text.split(",") if word.strip()]
        return f"{key}={json.dumps(words, ensure_ascii=False)}"
    if takes.startswith("text") or FIELDS[key].choices:
        return f"{key}={json.dumps(text, ensure_ascii=False)}"
    return f"{key}={text}"


def preset_settings(model: str | None, recipe: str | None) -> dict[str, Any]:
    """Keys and values that a model preset and a recipe amount to; the model's win."""
    pairs = (override.partition("=") for override in preset_overrides(model, recipe))
    return {key: json.loads(text) for key, _, text in pairs}


def overrides_between(
    draft: RunConfig, applied: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
    """Overrides that take `draft` from the preset `applied` to the preset `wanted`."""
    stale = {
        key: FIELDS[key].default
        for key, value in applied.items()
        if key not in wanted and value_of(draft, key) == value
    }
    return [
        f"{key}={json.dumps(value)}"
        for key, value in {**stale, **wanted}.items()
        if value_of(draft, key) != value
    ]


def model_in(draft: RunConfig) -> str | None:
    """Id of the model preset that the draft uses."""
    name = draft.model.name_or_path
    return next((preset.id for preset in model_presets() if preset.name_or_path == name), None)


def recipe_in(draft: RunConfig, preferred: str | None = None) -> str | None:
    """Id of the recipe all of whose settings hold in the draft (the model's own win over them)."""
    model = model_in(draft)
    ids = [recipe.id for recipe in recipe_presets()]
    for recipe in sorted(ids, key=lambda id: id != preferred):
        wanted = preset_settings(model, recipe)
        if all(value_of(draft, key) == value for key, value in wanted.items()):
            return recipe
    return None
