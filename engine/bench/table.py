"""A report as plain aligned text."""

from collections.abc import Iterator, Sequence

from .report import BenchReport, Speed
from .work import StackResult, StepProfile


def format_report(report: BenchReport) -> str:
    """Text that is not yet safe for a terminal: notes and messages are other programs'."""
    parts = [_heading(report), _speeds(report)]
    parts += _verdicts(report)
    for result in report.results:
        if result.profile is not None:
            parts.append(_profile(report, result.profile))
    parts.append(_starts(report))
    for failure in report.failures:
        lines = [f"{failure.stack}: {failure.message}", *(f"    {x}" for x in failure.last_lines)]
        parts.append("\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def _heading(report: BenchReport) -> str:
    work = report.work
    if work.real:
        what = (
            f"real rows in {work.bins} bins of {work.bin_tokens:,} tokens a step: {report.tokens:,.0f} "
            f"tokens, {report.trained:,.0f} trained"
        )
    else:
        what = f"{work.bins} rows of {work.bin_tokens:,} random tokens a step, all trained"
    recompute = "recompute on" if work.recompute else "recompute off"
    how = f"LoRA rank {work.rank} on all projections, AdamW at {work.learning_rate:g}, {recompute}"
    lines = [f"{work.shape}, NF4, {what}", f"{how}; {work.steps} steps after {work.warmup}"]
    if report.results:
        lines.append(report.results[0].device)
    if report.matmul_tflops and report.floor_ms:
        lines.append(
            f"matmuls run at {_figure(report.matmul_tflops)} TFLOP/s here; a step needs "
            f"{_figure(report.needed.total / 1e12)} TFLOP: {_figure(report.floor_ms)} ms, "
            f"{1e3 * report.tokens / report.floor_ms:,.0f} tokens/s"
        )
    return "\n".join(lines)


def _speeds(report: BenchReport) -> str:
    head = ["stack", "tokens/s", "ms/step", "MFU", "peak GB", "reserved", "loss", "grad norm"]
    if report.work.real:
        head.insert(2, "trained/s")
    if len(report.results) > 1:
        head.append("Evenfall is")
    rows: list[list[str] | tuple[str, str]] = []
    for result in report.results:
        speed = report.speeds.get(result.stack)
        if speed is None:
            rows.append((result.stack, report.verdicts[result.stack].reason))
            continue
        row = _speed_row(result, speed)
        if report.work.real:
            row.insert(2, f"{speed.trained_per_second:,.0f}")
        rows.append(row)
    rows += [(failure.stack, failure.message) for failure in report.failures]
    return _aligned(head, rows)


def _speed_row(result: StackResult, speed: Speed) -> list[str]:
    reserved = result.reserved_gb
    norms = result.grad_norms
    row = [
        result.stack,
        f"{speed.tokens_per_second:,.0f}",
        f"{speed.step_ms:,.1f}",
        f"{speed.mfu:.1%}" if speed.mfu is not None else "-",
        f"{result.peak_gb:.2f}",
        f"{reserved:.2f}" if reserved is not None else "-",
        f"{result.losses[0]:.4f} > {result.losses[-1]:.4f}",
        f"{norms[0]:.3f} > {norms[-1]:.3f}" if norms else "-",
    ]
    if speed.evenfall_is is not None:
        row.append(f"{speed.evenfall_is:.2f}x as fast")
    return row


def _verdicts(report: BenchReport) -> Iterator[str]:
    lines = []
    for verdict in report.verdicts.values():
        against = f" against {verdict.against}" if verdict.against else ""
        lines.append(f"{verdict.stack}{against}: {verdict.reason}")
    yield "\n".join(lines)


def _profile(report: BenchReport, profile: StepProfile) -> str:
    waits = ", ".join(f"{count} {name}" for name, count in profile.syncs.items()) or "none"
    floors = {
        "matmuls": report.milliseconds(report.needed.layers + report.needed.head),
        "attention": report.milliseconds(report.needed.attention),
    }
    rows: list[list[str] | tuple[str, str]] = []
    for phase, ms in profile.phases_ms.items():
        floor = floors.get(phase)
        row = [phase, f"{ms:,.2f}"]
        if floor:
            row += [f"{floor:,.2f}", f"{floor / ms:.1%}"]
        rows.append(row)
    busy = sum(profile.phases_ms.values())
    rows.append(["kernels", f"{busy:,.2f}"])
    rows.append(["between kernels", f"{profile.idle_ms:,.2f}"])
    if speed := report.speeds.get("evenfall"):
        rows.append(["step", f"{speed.step_ms:,.2f}", f"{report.floor_ms or 0:,.2f}"])
    text = _aligned(["one step of evenfall", "ms", "floor ms", "of floor"], rows)
    return (
        f"{text}\n{profile.launches:,} launches, {profile.kernels:,} kernels; the host waits for the "
        f"GPU: {waits} (one reads the loss of the step before)"
    )


def _starts(report: BenchReport) -> str:
    """When each stack's first step was done, with what, and what it said of itself."""
    lines = []
    for result in report.results:
        versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        lines.append(
            f"{result.stack}: first step done {result.seconds_to_first_step:.1f} s after its start "
            f"(import {result.import_seconds:.1f}, load {result.load_seconds:.1f}, then "
            f"{result.first_step_seconds:.1f}); {versions}"
        )
        lines += [f"    {note}" for note in result.notes]
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the others to the right. A tuple is a name and a sentence."""
    whole = [row for row in [head, *rows] if not isinstance(row, tuple)]
    count = max(map(len, whole))
    padded = [[*row, *[""] * (count - len(row))] for row in whole]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    widths[0] = max(len(row[0]) for row in [head, *rows])

    lines = []
    for row in [head, *rows]:
        cells = [f"{row[0]:{widths[0]}}"]
        if isinstance(row, tuple):
            cells.append(row[1])
        else:
            cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
