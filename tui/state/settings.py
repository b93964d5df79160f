"""The draft as the screens speak of it: values by dotted key, fields of the form, presets applied.

A preset is a set of keys. Taking another one must not leave the first one's keys behind (60 steps of a
quick test in a night's run), so what a preset set goes back to its default when the next does not set
it, unless the user has changed it since. The model itself is always among the keys that are wanted: it
is what was chosen, and no key of a preset that could go back to the demo.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...engine.config.run_config import ConfigField, RunConfig, config_fields, parse_config
from ...presets.load import model_preset, model_presets, preset_overrides, recipe_preset, recipe_presets
from ..value_text import field_text
from ..widgets.form import FormRow
from .model_catalog import ModelEntry
from .refused import DraftField, Refusal, value_of

if TYPE_CHECKING:
    from .desk import Desk

FIELDS: dict[str, ConfigField] = {field.key: field for field in config_fields()}
_SECTIONS = ("adapter", "train", "model", "data", "export", "")
"""Sections of run.yaml in the form's order; the last one is that of keys outside them."""
_FIRST = (
    "adapter.r", "adapter.lora_alpha", "adapter.lora_dropout", "adapter.target_modules",
    "train.learning_rate", "train.num_train_epochs", "train.max_steps", "train.per_device_train_batch_size",
    "train.gradient_accumulation_steps", "train.warmup_steps", "train.lr_scheduler_type", "train.weight_decay",
    "train.eval_steps", "train.save_steps", "train.seed", "train.gradient_checkpointing",
    "model.quantization", "data.max_length", "data.eval_fraction", "data.max_rows",
)  # fmt: skip
"""What is set most comes first in its section, the rest as in run.yaml."""
_ELSEWHERE = {
    "model.name_or_path": "/ chooses",
    "data.path": "2 Data",
    "data.format": "2 Data",
    "data.datasets": "2 Data",
}
"""Keys whose choice takes more than a field, and where it is made."""


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
    if takes.startswith("pairs") and not text.startswith("{"):
        return f"{key}={{{text}}}"
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


@dataclass(frozen=True)
class Change:
    """A key of the draft, what it is and what it becomes."""

    key: str
    old: Any
    new: Any


def changes_between(draft: RunConfig, applied: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[Change]:
    """What takes `draft` from the preset `applied` to the preset `wanted`."""
    stale = {
        key: FIELDS[key].default
        for key, value in applied.items()
        if key not in wanted and value_of(draft, key) == value
    }
    pairs = {key: (value_of(draft, key), new) for key, new in {**stale, **wanted}.items()}
    return [Change(key, old, new) for key, (old, new) in pairs.items() if old != new]


def _set_to(key: str, value: Any) -> str:
    # As in `override_of`: YAML would read JSON's escape of an emoji as two halves of a character.
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


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


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """A model or recipe that was taken, and what there was before."""

    what: str
    changes: tuple[Change, ...]
    applied: dict[str, Any]
    preferred: str | None


@dataclass(frozen=True, kw_only=True)
class Undone:
    """What was taken back."""

    what: str
    back: tuple[Change, ...]
    """Keys and what they are again: `old`."""
    kept: tuple[str, ...]
    """Keys that were set to something else since, and stay."""


class DraftEditor:
    """Edits the draft on the desk by presets and by single keys; says which keys each edit changed.

    Taking a preset raises ConfigError, and changes nothing, where one of its values does not fit. It can be undone, the
    last one first, until another draft takes the place of this one.
    """

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk
        self._applied: dict[str, Any] = {}
        self._preferred: str | None = None
        self._taken: list[_Taken] = []
        self._origin = desk.draft_origin

    def begin(self) -> None:
        """A draft that says nothing yet becomes the demo's."""
        draft = self._desk.draft
        if draft == parse_config({"output_dir": draft.output_dir}):
            self._apply("demo", model_preset("demo").recipe)
            self._taken.clear()

    @property
    def recipe(self) -> str | None:
        """The recipe that the draft follows."""
        return recipe_in(self._desk.draft, self._preferred)

    def changes_of_model(self, entry: ModelEntry) -> list[Change]:
        """What taking a model would change."""
        return self._planned(entry.name_or_path, self._recipe_for(entry))[1]

    def changes_of_recipe(self, id: str) -> list[Change]:
        """What following a recipe would change."""
        return self._planned(self._desk.draft.model.name_or_path, id)[1]

    def take_model(self, entry: ModelEntry) -> list[str]:
        """Use a model, by its preset where it has one."""
        return self._apply(entry.name_or_path, self._recipe_for(entry), entry.name)

    def take_recipe(self, id: str) -> list[str]:
        """Follow a recipe, as far as the model's preset does not say otherwise."""
        return self._apply(self._desk.draft.model.name_or_path, id, recipe_preset(id).title, preferred=id)

    @property
    def can_undo(self) -> bool:
        """Whether a model or recipe was taken that can be taken back."""
        self._follow_desk()
        return bool(self._taken)

    def undo(self) -> Undone:
        """Take back the model or recipe that was taken last; what was set by hand since stays.

        Raises:
            ConfigError: the values from before no longer fit those that were set since; nothing is changed.
        """
        last = self._taken[-1]
        back = tuple(one for one in last.changes if value_of(self._desk.draft, one.key) == one.new)
        self._desk.update_draft([_set_to(one.key, one.old) for one in back])
        self._taken.pop()
        self._applied, self._preferred = last.applied, last.preferred
        kept = tuple(one.key for one in last.changes if one not in back)
        return Undone(what=last.what, back=back, kept=kept)

    def _recipe_for(self, entry: ModelEntry) -> str | None:
        if entry.preset:
            own = self._preferred if entry.preset.id != "demo" else None
            return own or entry.preset.recipe
        return self._preferred or self.recipe

    def _planned(self, model: str, recipe: str | None) -> tuple[dict[str, Any], list[Change]]:
        """Keys and values that are wanted, and what they change."""
        self._follow_desk()
        wanted = {"model.name_or_path": model, **preset_settings(preset_of(model), recipe)}
        if model != self._desk.draft.model.name_or_path:
            wanted = {key: FIELDS[key].default for key in _OF_ONE_MODEL} | wanted
        return wanted, changes_between(self._desk.draft, self._applied, wanted)

    def _apply(self, model: str, recipe: str | None, what: str = "", preferred: str | None = None) -> list[str]:
        wanted, changes = self._planned(model, recipe)
        self._desk.update_draft([_set_to(one.key, one.new) for one in changes])
        if changes:
            before = _Taken(what=what, changes=tuple(changes), applied=self._applied, preferred=self._preferred)
            self._taken.append(before)
        self._applied, self._preferred = wanted, preferred or self._preferred
        return [one.key for one in changes]

    def _follow_desk(self) -> None:
        """Forget what was taken into a draft that is not on the desk any more."""
        if self._origin != self._desk.draft_origin:
            self._origin = self._desk.draft_origin
            self._applied = {}
            self._taken.clear()

    def set(self, key: str, text: str) -> str:
        """Set one key to what was typed into the form.

        Returns:
            Why it was refused; empty where it was taken.
        """
        return self._desk.offer(_form_field(key), [override_of(key, text)])

    def reset(self, key: str) -> str:
        """Set one key back to its default.

        Returns:
            Why it was refused; empty where it was taken.
        """
        return self._desk.offer(_form_field(key), [_set_to(key, FIELDS[key].default)])

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
        """The rows of the settings form, made from the configuration's own description: every key, by sections."""
        first = {key: place for place, key in enumerate(_FIRST)}
        keys = sorted(FIELDS, key=lambda key: (_SECTIONS.index(_section(key)), first.get(key, len(first))))
        return [_form_row(FIELDS[key]) for key in keys]

    def values(self) -> dict[str, str]:
        """Texts of the form's fields."""
        draft = self._desk.draft
        texts = {key: field_text(value_of(draft, key)) for key in FIELDS if key != "data.datasets"}
        return texts | {"data.datasets": ", ".join(source.path for source in draft.data.datasets)}


def _section(key: str) -> str:
    return key.partition(".")[0] if "." in key else ""


def _form_row(field: ConfigField) -> FormRow:
    choices = tuple((word, word) for word in field.choices)
    if field.takes.startswith("true | false"):
        choices = tuple((word, word) for word in ("true", "false"))
    if choices and "null" in field.takes:
        choices = (("", "null"), *choices)
    section = _section(field.key)
    default = json.dumps(field.default, ensure_ascii=False) if not field.default else field_text(field.default)
    return FormRow(
        key=field.key,
        section=f"{section}:" if section else "run.yaml, outside of sections:",
        title=field.key.rpartition(".")[2],
        help=f"{field.key}: {field.description}\ntakes {field.takes} · default {default}",
        choices=choices,
        default=field_text(field.default),
        elsewhere=_ELSEWHERE.get(field.key, ""),
    )


def _form_field(key: str) -> DraftField:
    return DraftField(screen="model", key=key, title=key.rpartition(".")[2], where="1, then a")
