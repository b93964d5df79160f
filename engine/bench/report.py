"""What a benchmark found: for each stack its speed, or why none is told.

Times are medians over the timed steps. MFU is needed operations (`shapes.needed_flops`) over what the GPU could
have done in that time at the rate of the shape's largest matmul, measured in the same run: so it does not
credit work that another stack does without, such as recompute, padding or logits of untrained tokens.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .compare import Verdict
from .rows import StepSize
from .shapes import SHAPES, Flops, needed_flops
from .work import StackFailure, StackResult, Work


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Figures of a stack whose losses are right."""

    tokens_per_second: float
    """Of documents; padding does not count."""
    trained_per_second: float
    step_ms: float
    mfu: float | None
    """None where the matmul rate is not known."""
    evenfall_is: float | None
    """Evenfall's tokens per second over this stack's."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    work: Work
    tokens: float
    """Of a step, mean."""
    trained: float
    needed: Flops
    """Of a step, mean."""
    matmul_tflops: float | None
    results: list[StackResult]
    """In the order in which they ran. Where losses are wrong there are no times in them."""
    failures: list[StackFailure]
    verdicts: dict[str, Verdict]
    speeds: dict[str, Speed]
    """Of the stacks whose losses are right."""

    @property
    def exit_code(self) -> int:
        """0 where every stack that was asked for has a speed."""
        return int(bool(self.failures) or len(self.speeds) < len(self.results))

    @property
    def floor_ms(self) -> float | None:
        """What a step would take if all that it needs ran at the matmul rate."""
        return self.milliseconds(self.needed.total)

    def milliseconds(self, flops: float) -> float | None:
        """What operations take at the matmul rate."""
        return flops / self.matmul_tflops / 1e9 if self.matmul_tflops else None


def make_report(
    work: Work,
    sizes: Sequence[StepSize],
    results: Sequence[StackResult],
    failures: Sequence[StackFailure],
    verdicts: dict[str, Verdict],
) -> BenchReport:
    shape = SHAPES[work.shape]
    needs = [needed_flops(shape, size.lengths, size.trained) for size in sizes]
    needed = Flops(*(statistics.fmean(column) for column in zip(*map(dataclasses.astuple, needs), strict=True)))
    rate = next((r.matmul_tflops for r in results if r.matmul_tflops), None)
    good = [result for result in results if verdicts[result.stack].good]
    speeds = {result.stack: _speed(result, sizes, needs, rate) for result in good}
    if ours := speeds.get("evenfall"):
        for stack, speed in speeds.items():
            if stack != "evenfall":
                ratio = ours.tokens_per_second / speed.tokens_per_second
                speeds[stack] = dataclasses.replace(speed, evenfall_is=ratio)
    return BenchReport(
        work=work,
        tokens=statistics.fmean(size.tokens for size in sizes),
        trained=statistics.fmean(size.trained for size in sizes),
        needed=needed,
        matmul_tflops=rate,
        results=[
            result if result in good else dataclasses.replace(result, seconds=[], profile=None) for result in results
        ],
        failures=list(failures),
        verdicts=verdicts,
        speeds=speeds,
    )


def _speed(result: StackResult, sizes: Sequence[StepSize], needs: Sequence[Flops], rate: float | None) -> Speed:
    timed = range(result.warmup, len(result.seconds))

    def median(amounts: Sequence[float]) -> float:
        """Of a step's amount per second."""
        return statistics.median(amounts[step] / result.seconds[step] for step in timed)

    return Speed(
        tokens_per_second=median([size.tokens for size in sizes]),
        trained_per_second=median([size.trained for size in sizes]),
        step_ms=1e3 * statistics.median(result.timed),
        mfu=median([need.total for need in needs]) / rate / 1e12 if rate else None,
        evenfall_is=None,
    )


def report_tree(report: BenchReport) -> dict[str, Any]:
    """All of it as plain values, for JSON."""
    return {
        **dataclasses.asdict(report),
        "floor_ms": report.floor_ms,
        "exit_code": report.exit_code,
    }
