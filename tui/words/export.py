"""What Export says: what can be written, how large it is, and what was."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from ..safe_text import safe_str, safe_text
from .pairs import MUTED, megabytes, pair_lines
from .run_figures import state_word

if TYPE_CHECKING:
    from ...engine.export.form import Exported
    from ...engine.run.facts import Kept, RunFacts


def no_run(purpose: str) -> Content:
    """Export and Chat before there is any run."""
    return Content.assemble(
        (f"There is no run {purpose} yet.\n\n", "bold"),
        ("3", "$accent bold"), " goes to training: the demo takes about a minute.\n",
    )  # fmt: skip


def run_line(facts: "RunFacts") -> Content:
    """A run in a line, and what to do where it has saved nothing."""
    line = Content.styled(safe_str(facts.run.name, 60), "bold")
    line += safe_text(f" · {state_word(facts.state)} at step {facts.step:,} · base {facts.model}", 120)
    lines = pair_lines([("run", line)])
    if not facts.kept:
        lines += Content.styled(
            "\n\nIt has saved nothing yet: its first checkpoint can be exported (on 3, s saves now).",
            "$warning",
        )
    return lines


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
    return pair_lines([("disk", shown), ("into", safe_text(folder, 300))])


def export_hint(facts: "RunFacts") -> Content:
    """The next key, before anything was exported."""
    there = f"There already: {', '.join(facts.there)}.\n" if facts.there else ""
    return safe_text(there, 300, lines=True, style=MUTED) + Content.assemble(
        ("x", "$accent bold"), " writes what is ticked (space ticks), and checks what it wrote."
    )


def kept_name(kept: "Kept", facts: "RunFacts") -> str:
    """An adapter that can be exported."""
    return f"final, step {facts.step}" if kept.step is None else f"checkpoint of step {kept.step}"


def newer(kept: "Kept", facts: "RunFacts") -> Content:
    """Where an older adapter is chosen: which is the newest."""
    best = facts.kept[0]
    if kept == best:
        return Content("")
    return Content.styled(f"  ! not the newest, which is: {kept_name(best, facts)}", "$warning")


def exported(done: "Sequence[Exported]", source: str) -> Content:
    """What was written, from which adapter, where, and how it was checked."""
    parts = []
    for item in done:
        parts.append(Content.styled(f"✓ {item.form}", "$success bold"))
        parts.append(Content(f"  {megabytes(item.megabytes)} · {source}\n"))
        parts.append(safe_text(f"  {item.path}\n", 400, lines=True))
        parts.append(safe_text(f"  {item.check}\n\n", 400, lines=True, style=MUTED))
    parts.append(Content.assemble(("5", "$accent bold"), " chats with the run"))
    return Content("").join(parts)
