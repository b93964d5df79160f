"""`evenfall bench`, from its options to a report: the work is made, each stack does it, all are judged."""

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .children import printed_lines, run_child
from .compare import judge
from .model import check_place, is_there, write_adapter
from .report import BenchReport, make_report
from .rows import RANDOM_STEPS, random_rows, read_bins, real_rows, step_sizes, write_rows
from .shapes import SHAPES, ModelShape
from .stacks import STACKS
from .work import BenchError, StackFailure, StackResult, Work, read_result

_STEP_TOKENS = 16_384
"""A step's tokens where nothing else is said: 8 rows of 2,048."""

TellLine = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks for."""

    shape: str = "8b"
    rows: int | None = None
    """Rows, or with `data` bins, of a step; None: 16,384 tokens' worth."""
    length: int = 2048
    """Tokens of a random row."""
    steps: int = 10
    warmup: int = 4
    data: str | None = None
    """A file of real rows instead of random ones."""
    pack: int = 8192
    """Tokens of a bin of real rows."""
    recompute: bool = False
    rank: int = 16
    against: tuple[str, ...] = ()
    keep: Path | None = None
    """Where the random model is kept for next time."""

    @property
    def bin_tokens(self) -> int:
        return self.pack if self.data else self.length

    @property
    def bins(self) -> int:
        return self.rows or max(1, _STEP_TOKENS // self.bin_tokens)


def run_bench(options: Options, tell: TellLine) -> BenchReport:
    """Do all of it. `tell` hears what it is at.

    Raises:
        BenchError, DataError: it cannot be run as asked; the message says why.
    """
    shape = SHAPES[options.shape]
    _check(options, shape)
    device = _device_for(shape, options)
    stacks = ("evenfall", *options.against)
    results: list[StackResult] = []
    failures: list[StackFailure] = []
    with tempfile.TemporaryDirectory(prefix="evenfall-bench-") as name:
        folder = Path(name)
        work = _make_work(options, shape, device, stacks, folder, tell)
        for stack in stacks:
            outcome = _try_stack(stack, work, options.warmup, folder, tell)
            if isinstance(outcome, StackFailure):
                failures.append(outcome)
                tell(f"{stack}: {outcome.message}")
            else:
                results.append(outcome)
        sizes = step_sizes(read_bins(Path(work.rows)), work)
    trained = [size.trained for size in sizes]
    verdicts = judge(results, shape, trained, random=not work.real)
    return make_report(replace(work, warmup=options.warmup), sizes, results, failures, verdicts)


def _try_stack(stack: str, work: Work, warmup: int, folder: Path, tell: TellLine) -> StackResult | StackFailure:
    """Let a stack do the work in a process of its own, with as many steps before it as it needs."""
    kind = STACKS[stack]
    if reason := kind.missing():
        return StackFailure(stack, reason)
    own = replace(work, warmup=max(warmup, kind.warmup))
    outcome = run_child(stack, own, folder, tell)
    if isinstance(outcome, StackFailure):
        return outcome
    result = read_result(outcome)
    if kind.banner:
        result.notes.extend(line for line in printed_lines(stack, folder) if re.search(kind.banner, line))
    return result


def _check(options: Options, shape: ModelShape) -> None:
    for name in ("rows", "length", "steps", "pack", "rank"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise BenchError(f"--{name} {value}: must be at least 1")
    if options.warmup < 0:
        raise BenchError(f"--warmup {options.warmup}: must not be negative")
    if not 8 <= options.bin_tokens <= shape.positions:
        option = "--pack" if options.data else "--length"
        raise BenchError(f"{option} {options.bin_tokens}: {shape.name} takes 8 to {shape.positions} tokens")


def _device_for(shape: ModelShape, options: Options) -> str:
    """`cuda` where there is a GPU; `cpu` only for the shape that is meant for it."""
    from ..machine.device import pick_device, why_no_cuda

    device = pick_device("auto").type
    if device == "cpu" and shape.name != "tiny":
        needed = shape.memory_gb(options.bins * options.bin_tokens, options.recompute)
        least = shape.memory_gb(options.bins * options.bin_tokens, True)
        more = "" if options.recompute else f", {least:.0f} GB with --recompute"
        raise BenchError(
            f"{shape.name} needs a GPU with about {needed:.0f} GB{more}, and {why_no_cuda()}; "
            "`evenfall bench tiny` runs on a CPU"
        )
    return device


def _make_work(
    options: Options,
    shape: ModelShape,
    device: str,
    stacks: Sequence[str],
    folder: Path,
    tell: TellLine,
) -> Work:
    """Model, adapter and rows on disk, as much as the stack with the longest warm-up takes."""
    work = Work(
        shape=shape.name,
        device=device,
        model=str(_model_folder(options, shape, device, folder)),
        adapter=str(folder / "adapter"),
        rows=str(folder / "rows.safetensors"),
        bins=options.bins,
        bin_tokens=options.bin_tokens,
        real=options.data is not None,
        warmup=max(options.warmup, *(STACKS[name].warmup for name in stacks)),
        steps=options.steps,
        rank=options.rank,
        recompute=options.recompute,
    )
    tell("making the rows")
    if options.data:
        bins = real_rows(options.data, options.pack, options.bins, shape, tell)
    else:
        bins = random_rows(shape, work.bins * RANDOM_STEPS, options.length)
    write_rows(bins, Path(work.rows))
    if not is_there(Path(work.model), shape, device):
        check_place(Path(work.model), shape)
        outcome = run_child("model", work, folder, tell)
        if isinstance(outcome, StackFailure):
            lines = "\n".join(outcome.last_lines)
            raise BenchError(f"the random model could not be made: {outcome.message}\n{lines}")
    write_adapter(shape, options.rank, Path(work.model), Path(work.adapter))
    return work


def _model_folder(options: Options, shape: ModelShape, device: str, folder: Path) -> Path:
    """Where --keep says, else in Evenfall's cache if there is one, else for this time only."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "evenfall"
    root = options.keep or (cache / "bench" if cache.is_dir() else folder)
    return root.expanduser().absolute() / f"{shape.name}-{device}"
