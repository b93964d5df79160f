"""Plain words for models, recipes, the machine and what the next run will do."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from ...presets.load import RecipePreset
from ..safe_text import safe_str, safe_text
from ..state.machine import Machine
from ..state.model_catalog import ModelEntry
from ..value_text import field_text, short_count, short_number
from .pairs import MUTED, megabytes, pair_lines

if TYPE_CHECKING:
    from ...engine.config.run_config import RunConfig
    from ..state.settings import Change, Undone


def plan(draft: "RunConfig", recipe: str | None) -> Content:
    """What will be trained, and the keys that go on: four lines."""
    adapter, data, train = draft.adapter, draft.data, draft.train
    targets = field_text(adapter.target_modules)
    weights = "4-bit NF4" if draft.model.quantization == "nf4" else "16-bit"
    base = f"{safe_str(draft.model.name_or_path, 48)} in {weights}"
    lora = f" · LoRA r {adapter.r}, α {short_number(adapter.lora_alpha)}, {safe_str(targets, 24)}"
    names = ", ".join(source.path for source in data.sources)
    rows = f" · first {data.max_rows:,} rows" if data.max_rows else ""
    held = f" · {100 * data.eval_fraction:g} % held out" if data.eval_fraction else ""
    length = f"{train.max_steps} steps" if train.max_steps else f"{train.num_train_epochs:g} × the data"
    bins = f"{train.per_device_train_batch_size} × {train.gradient_accumulation_steps}"
    rate = f"rate {short_number(train.learning_rate)} {train.lr_scheduler_type}"
    how = Content(f"{length} · {bins} bins of {data.max_length:,} tokens an update · {rate}")
    return pair_lines(
        [
            ("will train", Content.styled(base, "bold") + Content(lora)),
            ("on", Content.styled(safe_str(names, 48), "bold") + Content(rows + held)),
            ("how", how if recipe else how + Content.styled(" · own settings", MUTED)),
            (
                "next",
                Content.assemble(
                    ("2", "$accent bold"),
                    " look at the data   ",
                    ("3", "$accent bold"),
                    " train",
                ),
            ),
        ]
    )


def short_note(entry: ModelEntry) -> str:
    """A few words for the list."""
    if entry.name_or_path == "demo":
        return "start here · 1 min on CPU"
    if entry.preset and entry.preset.gated and entry.where == "hub":
        return "gated: needs a login"
    if entry.where == "local":
        return entry.name_or_path
    return ""


def tagline(entry: ModelEntry) -> str:
    """One sentence on a model."""
    if entry.name_or_path == "demo":
        return "Demo: tiny model, trains in about a minute, works on CPU"
    return " ".join(entry.preset.note.split()) if entry.preset else one_line(entry)


def first_clause(text: str) -> str:
    """The beginning of a sentence, up to its first colon, stop or bracket."""
    return re.split(r"[:.(]", " ".join(text.split()), maxsplit=1)[0].strip()


def one_line(entry: ModelEntry) -> str:
    """A model in a few facts."""
    if entry.where == "hub" and not entry.preset:
        return f"{entry.name_or_path} from the hub (it is downloaded when the run starts)"
    facts = [entry.family, f"{entry.size} parameters" if entry.size else "",
             megabytes(1000 * entry.gigabytes) if entry.gigabytes else "",
             f"{entry.context:,} tokens" if entry.context else "", entry.where]  # fmt: skip
    return f"{entry.name}: {', '.join(fact for fact in facts if fact)}"


def model(entry: ModelEntry, changes: Sequence["Change"] = ()) -> Content:
    """The detail pane of a model; `changes` are what taking it would do to the next run."""
    preset = entry.preset
    size = f" ({megabytes(1000 * entry.gigabytes)})" if entry.gigabytes else ""
    if entry.where == "hub" and entry.parameters:
        size = f", about {2 * entry.parameters / 1e9:.1f} GB to download"
    where = {
        "bundled": f"ships with Evenfall{size}",
        "cached": f"on this disk, in the hub's cache{size}",
        "local": f"a folder on this disk{size}",
        "hub": f"on the hub{size or ': downloaded when the run starts'}",
    }[entry.where]
    pairs = [("id", safe_text(entry.name_or_path, 200))]
    if entry.parameters:
        pairs.append(("weights", Content(f"{short_count(entry.parameters)} ({entry.parameters:,})")))
    if entry.family:
        pairs.append(("family", safe_text(entry.family, 60)))
    if entry.context:
        pairs.append(("context", Content(f"{entry.context:,} tokens")))
    pairs.append(("where", Content(where)))
    note = Content("")
    if entry.name_or_path == "demo":
        note = Content.styled("\n\nTiny model, trains in about a minute, works on CPU.", "$accent")
    if preset:
        pairs.append(("licence", safe_text(preset.licence, 60)))
        if preset.gated:
            pairs.append(("gated", Content("yes: `hf auth login`, then accept its terms")))
        if preset.recipe:
            pairs.append(("recipe", Content(preset.recipe)))
        note += Content("\n\n") + safe_text(" ".join(preset.note.split()), 600)
    elif entry.where != "hub":
        note = Content("\n\nNo preset knows this model: it takes the settings shown below.")
    if others := [one for one in changes if one.key != "model.name_or_path"]:
        note += Content.styled("\n\nTaking it sets", MUTED) + Content("").join(_change(one) for one in others)
    return Content.styled(safe_str(entry.name, 80), "bold") + Content("\n\n") + pair_lines(pairs) + note


def recipe(preset: RecipePreset, changes: Sequence["Change"]) -> Content:
    """The detail pane of a recipe: what it is for, what taking it would change, and the reason of every setting."""
    parts = [
        Content.styled(preset.title, "bold"),
        Content(f"\n{' '.join(preset.purpose.split())}\n"),
        Content.styled("\nTaking it sets" if changes else "\nThe next run follows it already", MUTED),
    ]
    parts += map(_change, changes)
    changed = [one.key for one in changes if one.key in preset.reasons]
    for key in [*changed, *(key for key in preset.settings if key not in changed)]:
        parts.append(Content.assemble((f"\n\n{key} ", "$accent"), shown_value(preset.settings[key])))
        parts.append(Content.styled(f"\n{' '.join(preset.reasons[key].split())}", MUTED))
    return Content("").join(parts)


def _change(one: "Change") -> Content:
    """`adapter.r 16 → 8`, on a line of its own."""
    values = safe_str(f"{shown_value(one.old)} → {shown_value(one.new)}", 120)
    return Content.assemble((f"\n{one.key} ", "$accent"), values)


def shown_value(value: object) -> str:
    """A value as run.yaml has it, on one line."""
    return "null" if value is None else field_text(value) or "[]"


def what_it_sets(changes: Sequence["Change"]) -> str:
    """What taking something would change, in a sentence."""
    pairs = [f"{one.key} {shown_value(one.old)} → {shown_value(one.new)}" for one in changes]
    return f"enter sets {', '.join(pairs)}" if pairs else "the next run follows it already"


def undone(undone: "Undone") -> str:
    """What came back."""
    back = ", ".join(f"{one.key} {shown_value(one.old)}" for one in undone.back)
    text = f"{undone.what} taken back: {back}" if back else f"{undone.what}: nothing of it is left to take back"
    return text + (f" · set since, so they stay: {', '.join(undone.kept)}" if undone.kept else "")


def machine(facts: Machine | None) -> Content:
    """The machine card: two lines, of which the first stands alone on small screens."""
    if facts is None:
        return pair_lines([("machine", Content.styled("reading…", MUTED))])
    disk = f"{facts.disk_free_gb:,.0f} GB disk free"
    here = "in tmux or screen" if facts.multiplexer else "no tmux: a run survives a dropped link"
    follow = "" if facts.multiplexer else " (evenfall opens it again)"
    cpu = f"{facts.cpus} CPU threads, {facts.memory_gb:.0f} GB memory"
    if facts.gpus:
        first = facts.gpus[0]
        more = f" (and {len(facts.gpus) - 1} more)" if len(facts.gpus) > 1 else ""
        free = f"{first.free_gb:.0f} of {first.total_gb:.0f} GB free"
        gpu = Content(f"{safe_str(first.name, 40)}{more}, {free} · {disk}")
    else:
        banner = "no GPU: the demo and small models train on CPU"
        gpu = Content.styled(banner, "$warning") + Content(f" · {disk}")
    return pair_lines([("machine", gpu), ("", Content(f"{cpu} · {here}{follow}"))])


def machine_line(text: Content) -> Content:
    """The machine card where something is wrong with it."""
    return pair_lines([("machine", text)])
