"""What Data says: the account of the data, a row's place and what is wrong with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from ...engine.data.problems.codes import in_words
from ..safe_text import safe_str, safe_text
from ..value_text import how_read, share_text
from .pairs import MUTED, pair_lines

if TYPE_CHECKING:
    from ...engine.data.inspector.inspect import InspectedRow
    from ...engine.data.report.findings import DataCheck
    from ...engine.data.report.report import DataReport, SourceReport


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
    return pair_lines(pairs)


def _check(check: "DataCheck") -> Content:
    red, amber = (check.of_level(level) for level in ("red", "amber"))
    if not red and not amber:
        return Content.styled("✓ nothing is wrong", "$success")
    counts = [Content.styled(f"✗ {len(red)} red", "bold $error")] if red else []
    counts += [Content.styled(f"! {len(amber)} amber", "$warning")] if amber else []
    return Content(" · ").join(counts) + Content.assemble("   ", ("c", "$accent bold"), " shows them")


def inspected(row: "InspectedRow", before: int, count: int, between: "Sequence[str]" = ()) -> Content:
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
    parts += [Content.styled(f"! {in_words(code)}", "$warning") for code in (*row.problems, *between)]
    return Content(" · ").join(parts)


_FEW = 4


def _source(source: "SourceReport", several: bool) -> Content:
    what = Content.styled(safe_str(source.format, 40), "bold")
    if several:
        weight = f" × {source.weight:g}" if source.weight != 1 else ""
        return what + safe_text(f" · {source.path}, {source.kept:,} of {source.rows:,} rows{weight}", 200)
    if source.reason:
        what += Content(" · ") + safe_text(source.reason, 200)
    if how := how_read(source):
        style = "$warning" if source.confidence != "certain" else "$text-muted"
        what += Content(" · ") + safe_text(how, 200, style=style)
    return what
