"""What a check of the data found, as lines of text: `evenfall data check` prints them.

A level has a glyph and a word, so that a log without colour reads as well.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ...engine.data.report.findings import DataCheck, Finding, Statistics
from ...engine.data.report.report import DataReport
from ..state.story import seconds_text
from ..value_text import LEVELS, counted, how_read, only_path, places_text, share_text, short_count
from ..widgets.histogram import length_plot, length_title
from ..widgets.plot import draw_plot

if TYPE_CHECKING:
    from ...engine.data.inspector.first_row import FirstRow

_INDENT = " " * 9
_MOST_PARTS = 8
_PART_ENDS = 150  # characters of a part's beginning, and of its end
_PLOT_SIZE = 80, 8
_COLOR = "#ffffff"  # taken off again: these lines have none


def first_row_lines(row: "FirstRow", width: int = 100) -> Iterator[str]:
    """The first row: what is read of it and what is learnt, long parts without their middle."""
    where = f"{row.place.file}: row {row.place.number:,}"
    yield f"first row   {where}: {counted(row.tokens, 'token')}, {row.trained:,} of them learnt"
    for text, learnt in row.parts[:_MOST_PARTS]:
        if len(text) > 2 * _PART_ENDS:
            text = f"{text[:_PART_ENDS]} ... {text[-_PART_ENDS:]}"
        text = text.replace("\n", "↵")
        name = "learnt" if learnt else "read"
        yield from textwrap.wrap(
            text, width, initial_indent=f"  {name:<10}", subsequent_indent=" " * 12, break_on_hyphens=False
        )
    if len(row.parts) > _MOST_PARTS:
        yield f"{' ' * 12}and {counted(len(row.parts) - _MOST_PARTS, 'part')} more"


def check_lines(check: DataCheck, width: int = 100) -> Iterator[str]:
    """The whole of a check: the account, every finding with what settles it, and the figures."""
    report, figures = check.report, check.statistics
    yield from data_lines(report, figures.steps)
    yield ""
    for finding in check.findings:
        yield from _finding_lines(finding, check.report, width)
    if check.drop_all:
        yield f"·        what can be left out, all at once: {check.drop_all}"
    for note in check.notes:
        yield from _wrapped(f"·        {note}", width)
    yield ""
    yield from _length_lines(report.lengths, report.max_length, figures.percentiles)
    yield ""
    yield from statistics_lines(figures, report.max_length)


def _finding_lines(finding: Finding, report: DataReport, width: int) -> Iterator[str]:
    glyph, word = LEVELS[finding.level]
    rows = report.rows
    share = f" ({share_text(finding.count / rows)})" if finding.places and rows else ""
    yield from _wrapped(f"{glyph} {word:<7}{finding.text}{share}", width)
    if finding.places:
        where = places_text(finding.places, finding.count, only_path(report))
        yield from _wrapped(_INDENT + where, width)
    if finding.meaning:
        yield from _wrapped(_INDENT + finding.meaning, width)
    wide = max((len(fix.override) for fix in finding.fixes), default=0)
    for fix in finding.fixes:
        yield f"{_INDENT}{fix.override:<{wide}}  {fix.meaning}"


def _length_lines(lengths: Sequence[int], limit: int, percentiles: Mapping[str, int]) -> Iterator[str]:
    plot = length_plot(lengths, limit, _COLOR, _COLOR)
    drawn = draw_plot(plot, *_PLOT_SIZE, _COLOR) if plot else None
    if drawn:
        yield length_title(lengths, limit, percentiles)
        yield from ("".join(text for text, _ in line).rstrip() for line in drawn)


def statistics_lines(figures: Statistics, max_length: int) -> Iterator[str]:
    """Lengths, what an epoch holds, what the run takes."""
    each = [f"{name} {length:,}" for name, length in figures.percentiles.items()]
    yield f"lengths     {' · '.join(each)}"
    yield f"recommended {recommendation(figures, max_length)}"
    yield (
        f"an epoch    {short_count(figures.tokens)} tokens, {share_text(figures.trained_share)} learnt, "
        f"in {counted(figures.bins, 'bin')} {100 * figures.packing:.1f} % full"
    )
    took = f", {seconds_text(figures.seconds)} at the last run's pace" if figures.seconds else ""
    yield f"the run     {counted(figures.steps, 'step')}{took}"


def recommendation(figures: Statistics, max_length: int) -> str:
    """The length that holds 95 of 100 rows, and what it costs."""
    if figures.documents:
        return f"any data.max_length: documents become pieces of it, now of {max_length:,}"
    length, over = figures.recommended_length, figures.over_recommended
    rest = f"{over:,} longer" if over else "all of them fit"
    text = f"data.max_length={length} holds 95 % of the rows ({rest})"
    if over and length == figures.context:
        text = f"data.max_length={length}, the model's whole context ({rest})"
    if figures.context is not None and length > figures.context:
        return f"{text}, but the model's context is {figures.context:,}"
    if length == max_length:
        return f"{text}: it is set"
    return f"{text}; {length / max_length:.2g} x the activations of {max_length:,}"


def _wrapped(text: str, width: int) -> Iterator[str]:
    yield from textwrap.wrap(
        text, width, subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True,
    )  # fmt: skip


def data_lines(data: DataReport, steps: int) -> list[str]:
    """The account of the data: where each was told from, what became of its rows, what an epoch holds."""
    share = 100 * data.trained_tokens / max(1, data.tokens)
    filled = 100 * data.tokens / max(1, data.bins * data.max_length)
    lines = []
    for source in data.sources:
        first = "the first " if source.only_first else ""
        times = f", {source.weight:g} times" if source.weight != 1 else ""
        lines.append(
            f"data: {source.format} ({source.reason}); {source.path}: {source.kept:,} of "
            f"{first}{counted(source.rows, 'row')}{times}"
        )
        if how := how_read(source):
            lines.append(f"      {how}")
    sizes = (
        f"{data.tokens:,} tokens, {share:.0f} % trained, {counted(data.bins, 'bin')} {filled:.0f} % "
        f"full, {counted(steps, 'step')}"
    )
    more = [sizes]
    more += [f"{counted(n, 'row')} dropped: {reason}" for reason, n in data.dropped.items()]
    more += [f"{counted(n, 'row')}: {note}" for note, n in data.notes.items()]
    if data.cut:
        more.append(f"{counted(data.cut, 'row')} cut at {data.max_length:,} tokens")
    if data.share < 1:
        more.append(f"of the first {share_text(data.share)}: the rest is read while it trains")
    if (own := data.evaluation) is not None:
        dropped = ", ".join(f"{n:,} dropped: {reason}" for reason, n in own.dropped.items())
        kept = f"{own.kept:,} of {counted(own.rows, 'row')} of {own.path} to evaluate on"
        more.append(f"{kept} ({dropped})" if dropped else kept)
    elif data.eval_rows:
        more.append(f"{counted(data.eval_rows, 'row')} held out for evaluation")
    return [*lines, *(f"      {text}" for text in more)]
