"""The draft as the screens speak of it: values by dotted key, fields of the form, presets applied.

A preset is a set of keys. Taking another one must not leave the first one's keys behind (60 steps of a
quick test in a night's run), so what a preset set goes back to its default when the next does not set
it, unless the user has changed it since. The model itself is always among the keys that are wanted: it
is what was chosen, and no key of a preset that could go back to the demo.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...engine.config.run_config import ConfigField, RunConfig, config_fields, parse_config
from ...presets.load import model_preset, model_presets, preset_overrides, recipe_presets
from ..value_text import field_text
from ..widgets.form import FormRow
from .model_catalog import ModelEntry
from .refused import DraftField, Refusal, value_of

if TYPE_CHECKING:
    from .desk import Desk

FIELDS: dict[str, ConfigField] = {field.key: field for field in config_fields()}
_SETTINGS = (
    ("model.quantization", "base weights"),
    ("adapter.r", "rank r"),
    ("adapter.lora_alpha", "lora_alpha"),
    ("adapter.target_modules", "target_modules"),
    ("train.learning_rate", "learning rate"),
    ("train.per_device_train_batch_size", "batch (bins)"),
    ("train.gradient_accumulation_steps", "accumulation"),
    ("train.max_steps", "max_steps"),
    ("train.num_train_epochs", "epochs"),
    ("data.max_length", "max_length"),
    ("train.gradient_checkpointing", "grad checkpointing"),
    ("data.eval_fraction", "held out"),
    ("train.eval_steps", "evaluate every"),
    ("train.save_steps", "save every"),
    ("train.seed", "seed"),
)
"""Keys of the settings form, and what the form calls them."""


_OF_ONE_MODEL = ("model.revision", "model.trust_remote_code")
"""Keys that were said of one model: neither its branch nor the trust in its author goes over to another."""

_FIND_FIELD = DraftField(screen="model", key="model.name_or_path", title="Model", where="1, then /")
"""The field for a hub id or a folder, above the list of models."""


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


def overrides_between(draft: RunConfig, applied: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Overrides that take `draft` from the preset `applied` to the preset `wanted`."""
    stale = {
        key: FIELDS[key].default
        for key, value in applied.items()
        if key not in wanted and value_of(draft, key) == value
    }
    return [
        # As in `override_of`: YAML would read JSON's escape of an emoji as two halves of a character.
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in {**stale, **wanted}.items()
        if value_of(draft, key) != value
    ]


def preset_of(name_or_path: str) -> str | None:
    """Id of the preset of a model; None where no preset knows it."""
    known = (preset.id for preset in model_presets() if preset.name_or_path == name_or_path)
    return next(known, None)


def recipe_in(draft: RunConfig, preferred: str | None = None) -> str | None:
    """Id of the recipe all of whose settings hold in the draft (the model's own win over them)."""
    model = preset_of(draft.model.name_or_path)
    ids = [recipe.id for recipe in recipe_presets()]
    for recipe in sorted(ids, key=lambda id: id != preferred):
        wanted = preset_settings(model, recipe)
        if all(value_of(draft, key) == value for key, value in wanted.items()):
            return recipe
    return None


class DraftEditor:
    """Edits the draft on the desk by presets and by single keys; says which keys each edit changed.

    Taking a preset raises ConfigError, and changes nothing, where one of its values does not fit.
    """

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk
        self._applied: dict[str, Any] = {}
        self._preferred: str | None = None

    def begin(self) -> None:
        """A draft that says nothing yet becomes the demo's."""
        draft = self._desk.draft
        if draft == parse_config({"output_dir": draft.output_dir}):
            self._apply("demo", model_preset("demo").recipe)

    @property
    def recipe(self) -> str | None:
        """The recipe that the draft follows."""
        return recipe_in(self._desk.draft, self._preferred)

    def take_model(self, entry: ModelEntry) -> list[str]:
        """Use a model, by its preset where it has one."""
        if entry.preset:
            own = self._preferred if entry.preset.id != "demo" else None
            return self._apply(entry.name_or_path, own or entry.preset.recipe)
        return self._apply(entry.name_or_path, self._preferred or self.recipe)

    def take_recipe(self, id: str) -> list[str]:
        """Follow a recipe, as far as the model's preset does not say otherwise."""
        self._preferred = id
        return self._apply(self._desk.draft.model.name_or_path, id)

    def _apply(self, model: str, recipe: str | None) -> list[str]:
        wanted = {"model.name_or_path": model, **preset_settings(preset_of(model), recipe)}
        if model != self._desk.draft.model.name_or_path:
            wanted = {key: FIELDS[key].default for key in _OF_ONE_MODEL} | wanted
        overrides = overrides_between(self._desk.draft, self._applied, wanted)
        self._desk.update_draft(overrides)
        self._applied = wanted
        return [override.partition("=")[0] for override in overrides]

    def set(self, key: str, text: str) -> str:
        """Set one key to what was typed into the form.

        Returns:
            Why it was refused; empty where it was taken.
        """
        return self._desk.offer(_form_field(key), [override_of(key, text)])

    def refuse_model(self, why: str) -> None:
        """What was entered above the list is no model."""
        self._desk.refuse(Refusal(_FIND_FIELD, why))

    def drop_model(self) -> None:
        """The field above the list holds nothing that was refused."""
        self._desk.refused.drop(_FIND_FIELD)

    def give_up(self, key: str) -> None:
        """The form's field of `key` holds what stands again."""
        self._desk.refused.drop(_form_field(key))

    @staticmethod
    def rows() -> list[FormRow]:
        """The rows of the settings form, made from the configuration's own description."""
        rows = []
        for key, title in _SETTINGS:
            field = FIELDS[key]
            choices = tuple((word, word) for word in field.choices)
            if field.takes == "true | false":
                choices = (("false", "off"), ("true", "on"))
            help = f"{key}: {field.description or title}"
            if not choices:
                help += f" (takes {field.takes})"
            empty = "empty: by epochs" if key == "train.max_steps" else ""
            rows.append(FormRow(key=key, title=title, help=help, choices=choices, placeholder=empty))
        return rows

    def values(self) -> dict[str, str]:
        """Texts of the form's fields."""
        draft = self._desk.draft
        return {key: field_text(value_of(draft, key)) for key, _ in _SETTINGS}


def _form_field(key: str) -> DraftField:
    return DraftField(screen="model", key=key, title=dict(_SETTINGS)[key], where="1, then a")
