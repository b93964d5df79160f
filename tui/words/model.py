"""Plain words for models, recipes, the machine and what the next run will do."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from ...engine.data.problems.codes import in_words
from ...presets.load import RecipePreset
from ..safe_text import safe_str, safe_text
from ..state.machine import Machine
from ..state.model_catalog import ModelEntry
from ..value_text import field_text, how_read, share_text, short_count, short_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...engine.config.run_config import RunConfig
    from ...engine.data.inspector.inspect import InspectedRow
    from ...engine.data.report.findings import DataCheck
    from ...engine.data.report.report import DataReport, SourceReport
    from ...engine.export.run import Exported
    from ...engine.inference.chat import Chat
    from ...engine.run.directory import RunDirectory
    from ...engine.run.facts import Kept, RunFacts

MUTED = "$text-muted"


def _pairs(pairs: list[tuple[str, Content]]) -> Content:
    return Content("\n").join(Content.styled(f"{name:<11}", MUTED) + text for name, text in pairs)


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
    length = (
        f"{train.max_steps} steps" if train.max_steps else f"{train.num_train_epochs:g} × the data"
    )
    bins = f"{train.per_device_train_batch_size} × {train.gradient_accumulation_steps}"
    rate = f"rate {short_number(train.learning_rate)} {train.lr_scheduler_type}"
    how = Content(f"{length} · {bins} bins of {data.max_length:,} tokens an update · {rate}")
    return _pairs(
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


def model(entry: ModelEntry) -> Content:
    """The detail pane of a model."""
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
        pairs.append(
            ("weights", Content(f"{short_count(entry.parameters)} ({entry.parameters:,})"))
        )
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
    return Content.styled(safe_str(entry.name, 80), "bold") + Content("\n\n") + _pairs(pairs) + note


def recipe(preset: RecipePreset) -> Content:
    """The detail pane of a recipe: what it is for, and the reason of every setting."""
    parts = [
        Content.styled(preset.title, "bold"),
        Content(f"\n{' '.join(preset.purpose.split())}\n"),
    ]
    for key, value in preset.settings.items():
        parts.append(Content.assemble((f"\n{key} ", "$accent"), f"{field_text(value)}\n"))
        parts.append(Content.styled(" ".join(preset.reasons[key].split()) + "\n", MUTED))
    return Content("").join(parts)


def machine(facts: Machine | None) -> Content:
    """The machine card: two lines, of which the first stands alone on small screens."""
    if facts is None:
        return _pairs([("machine", Content.styled("reading…", MUTED))])
    disk = f"{facts.disk_free_gb:,.0f} GB disk free"
    here = "in tmux or screen" if facts.multiplexer else "no tmux: a run survives a dropped link"
    follow = "" if facts.multiplexer else " (evenfall watch follows it)"
    cpu = f"{facts.cpus} CPU threads, {facts.memory_gb:.0f} GB memory"
    if facts.gpus:
        first = facts.gpus[0]
        more = f" (and {len(facts.gpus) - 1} more)" if len(facts.gpus) > 1 else ""
        free = f"{first.free_gb:.0f} of {first.total_gb:.0f} GB free"
        gpu = Content(f"{safe_str(first.name, 40)}{more}, {free} · {disk}")
    else:
        banner = "no GPU: the demo and small models train on CPU"
        gpu = Content.styled(banner, "$warning") + Content(f" · {disk}")
    return _pairs([("machine", gpu), ("", Content(f"{cpu} · {here}{follow}"))])


def machine_line(text: Content) -> Content:
    """The machine card where something is wrong with it."""
    return _pairs([("machine", text)])


def failure(message: str, hint: str = "") -> Content:
    """An error in place of what it kept from being shown."""
    text = Content.styled("✗ ", "$error") + safe_text(message, 2000, lines=True)
    return text + Content.styled(f"\n{hint}", MUTED) if hint else text


def preview(found: "DataReport", check: "DataCheck") -> Content:
    """The account of the data: format, rows and tokens, what was left out and why, and how many problems were found."""
    first = "the first " if any(source.only_first for source in found.sources) else ""
    rows = [f"{first}{found.rows:,} read", f"{found.kept:,} to learn from"]
    if found.evaluation is not None:
        rows.append(f"{found.eval_rows:,} of {found.evaluation.rows:,} to evaluate on")
    elif found.eval_rows:
        rows.append(f"{found.eval_rows:,} held out")
    if found.cut:
        rows.append(f"{found.cut:,} cut short")
    share = 100 * found.trained_tokens / found.tokens if found.tokens else 0
    tokens = (
        f"{found.tokens:,}, of which {found.trained_tokens:,} are learnt ({share:.0f} %)"
        f" · {found.bins:,} bins of {found.max_length:,}"
    )
    pairs = [("check", _check(check))]
    pairs += [("found", _source(source, len(found.sources) > 1)) for source in found.sources[:_FEW]]
    if len(found.sources) > _FEW:
        pairs.append(("", Content(f"and {len(found.sources) - _FEW} data sets more")))
    limit = Content.styled("   data.max_rows leaves the others alone", "$warning") if first else ""
    pairs.append(("rows", Content(" · ".join(rows)) + limit))
    if found.share < 1:
        pairs.append(
            (
                "stream",
                Content(f"the first {share_text(found.share)}; the rest is read while it trains"),
            )
        )
    pairs.append(("tokens", Content(tokens)))
    if found.dropped:
        total = sum(found.dropped.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found.dropped.items())
        text = f"{total:,}: {reasons}" if len(found.dropped) > 1 else reasons
        pairs.append(("! dropped", safe_text(text, 300, style="$warning")))
    if found.notes:
        notes = ", ".join(f"{note} ({count:,} rows)" for note, count in found.notes.items())
        pairs.append(("! note", safe_text(notes, 300, style="$warning")))
    return _pairs(pairs)


def _check(check: "DataCheck") -> Content:
    red, amber = (check.of_level(level) for level in ("red", "amber"))
    if not red and not amber:
        return Content.styled("✓ nothing is wrong", "$success")
    counts = [Content.styled(f"✗ {len(red)} red", "bold $error")] if red else []
    counts += [Content.styled(f"! {len(amber)} amber", "$warning")] if amber else []
    return Content(" · ").join(counts) + Content.assemble(
        "   ", ("c", "$accent bold"), " shows them"
    )


def inspected(
    row: "InspectedRow", before: int, count: int, between: "Sequence[str]" = ()
) -> Content:
    """A row's number, its tokens, what is wrong with it, and where it stands among the rows trained on.

    Args:
        between: codes of what is wrong with it beside other rows.
        before: rows that come before it.
        count: rows in all.
    """
    parts = [Content.styled(f"row {row.place.number:,}", "bold")]
    if not row.left_out:
        parts[0] += Content.styled(f" ({before + 1:,} of {count:,})", "$text-muted")
    if row.left_out:
        parts.append(safe_text(f"left out: {row.left_out}", 300, style="$warning"))
    else:
        share = 100 * row.trained / row.length if row.length else 0
        parts.append(Content(f"{row.length:,} tokens, {row.trained:,} learnt ({share:.0f} %)"))
    if len(row.starts) > 1:
        parts.append(Content(f"{len(row.starts):,} documents"))
    parts += [
        Content.styled(f"! {in_words(code)}", "$warning") for code in (*row.problems, *between)
    ]
    return Content(" · ").join(parts)


_FEW = 4


def _source(source: "SourceReport", several: bool) -> Content:
    what = Content.styled(safe_str(source.format, 40), "bold")
    if several:
        weight = f" × {source.weight:g}" if source.weight != 1 else ""
        return what + safe_text(
            f" · {source.path}, {source.kept:,} of {source.rows:,} rows{weight}", 200
        )
    if source.reason:
        what += Content(" · ") + safe_text(source.reason, 200)
    if how := how_read(source):
        style = "$warning" if source.confidence != "certain" else "$text-muted"
        what += Content(" · ") + safe_text(how, 200, style=style)
    return what


def no_run(purpose: str) -> Content:
    """Export and Chat before there is any run."""
    return Content.assemble(
        (f"There is no run {purpose} yet.\n\n", "bold"),
        ("3", "$accent bold"), " goes to training: the demo takes about a minute.\n",
    )  # fmt: skip


def run_line(facts: "RunFacts") -> Content:
    """A run in a line, and what to do where it has saved nothing."""
    line = Content.styled(safe_str(facts.run.name, 60), "bold")
    line += safe_text(f" · {facts.state} at step {facts.step:,} · base {facts.model}", 120)
    lines = _pairs([("run", line)])
    if not facts.kept:
        lines += Content.styled(
            "\n\nIt has saved nothing yet: its first checkpoint can be exported (on 3, s saves now).",
            "$warning",
        )
    return lines


def megabytes(size: float) -> str:
    """5.2 -> `5.2 MB`, 16100 -> `16.1 GB`."""
    return f"{size / 1000:.1f} GB" if size >= 1000 else f"{size:.1f} MB"


def export_sizes(facts: "RunFacts", kept: "Kept") -> dict[str, tuple[float | None, str]]:
    """Form -> (expected MB, what it is for)."""
    label = "" if kept.step is None else f"-step-{kept.step}"
    words = {
        "adapter": (kept.megabytes, "what was learnt (PEFT); used with its base"),
        "merged": (facts.merged_mb, f"one whole model, {facts.merged_dtype}, adapter folded in"),
    }
    again = {form: " · replaces the one there" for form in words if f"{form}{label}" in facts.there}
    return {form: (size, text + again.get(form, "")) for form, (size, text) in words.items()}


def form_line(size: float | None, words: str, *, ticked: bool) -> Content:
    """An export form's expected size and purpose."""
    shown = megabytes(size) if size is not None else "size ?"
    return Content.styled(f"{shown:>8}  {words}", "" if ticked else MUTED)


def disk_line(free_gb: float, needed_mb: float, folder: Path) -> Content:
    """Whether the disk takes what is ticked, and where it will lie."""
    disk = f"{free_gb:,.1f} GB free, about {megabytes(needed_mb)} needed"
    short = needed_mb / 1000 > free_gb
    shown = Content.styled(f"! {disk}", "$error") if short else Content(disk)
    return _pairs([("disk", shown), ("into", safe_text(folder, 300))])


def export_hint(facts: "RunFacts") -> Content:
    """The next key, before anything was exported."""
    there = f"There already: {', '.join(facts.there)}.\n" if facts.there else ""
    return safe_text(there, 300, lines=True, style=MUTED) + Content.assemble(
        ("x", "$accent bold"), " writes what is ticked (space ticks), and checks what it wrote."
    )


def exported(done: "Sequence[Exported]") -> Content:
    """What was written, where, and how it was checked."""
    parts = []
    for item in done:
        parts.append(Content.styled(f"✓ {item.form}", "$success bold"))
        parts.append(Content(f"  {megabytes(item.megabytes)}\n"))
        parts.append(safe_text(f"  {item.path}\n", 400, lines=True))
        parts.append(safe_text(f"  {item.check}\n\n", 400, lines=True, style=MUTED))
    parts.append(Content.assemble(("5", "$accent bold"), " chats with the run"))
    return Content("").join(parts)


def chat_line(
    run: "RunDirectory | None", chat: "Chat | None", *, loading: bool, loadable: bool
) -> Content:
    """Which run is talked with, and where it runs."""
    if run is None:
        return Content("")
    where = "loading" if loading else "not loaded"
    if loadable and not loading:
        where += " (i loads it)"
    if chat is not None:
        where = f"on {chat.device}"
    name = Content.styled(safe_str(run.name, 60), "bold")
    return _pairs([("run", name + safe_text(f" · {where}", 80))])


def chat_mode(mode: str) -> Content:
    """Who answers: tuned, base, or both."""
    words = []
    for name in ("tuned", "base", "both"):
        mark, style = ("● ", "$accent bold") if name == mode else ("○ ", MUTED)
        words.append(Content.styled(f"{mark}{name}", style))
    return _pairs([("answers", Content("  ").join(words))])


def chat_hint() -> Content:
    """What to do before the first prompt."""
    return Content.assemble(
        ("Write below and press enter.\n\n", "bold"),
        ("ctrl+t", "$accent bold"), " switches between the base model and the tuned one\n",
        ("ctrl+o", "$accent bold"), " lets both answer the same prompt\n",
        ("esc", "$accent bold"), "    leaves the prompt; then the keys below work",
    )  # fmt: skip
