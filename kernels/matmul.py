"""The large products of a step, each by the algorithm of cuBLAS that is fastest under load.

torch leaves the choice to cuBLAS' heuristic, which knows what is fastest in a short burst. A training step is
hours of load, and there the power that a GPU may draw decides: an H200 multiplies bf16 at 760 TFLOP/s for a
twentieth of a second and at 675 after a second, because it lowers its clock. What counts then is the energy of
a product, and the algorithm with the least is another one, by some per cent of the time (same bits in all
cases seen: only the tiles differed).

So the candidates of the heuristic are measured, long enough for the clock to settle, when a model's sizes are
first met on a kind of GPU (`tune`), some 20 seconds in all for a large model. What was found is kept on disk per GPU
and version of cuBLAS, and comes along for those in `matmul_choices.json`. `matmul` looks it up by the sizes of the
weight and, since packed batches differ a little in length, the nearest number of rows. Whatever is not in
the table, or not known to this cuBLAS, goes to torch.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cublaslt import DTYPES, Algorithm, CublasLt, CublasLtError, Operands, cublaslt

log = logging.getLogger(__name__)

_LINE = 128
"""Bytes from which rows of operands start: a block of 64 columns is then one line of the cache in every row
and not a part of two, and products are 1 to 2 % faster."""

_LEAST = 5e10
"""Operations of a product from which on it is tuned, some 0.1 ms on a large GPU: smaller ones do not heat it."""

_NEAR = 1.0
"""How far apart the rows of a product and of its choice may be, as a power of two."""

_SETTLE = 0.08
"""Seconds of a candidate before it is timed: the clock follows the power within some tens of milliseconds."""

_FINALISTS = 5
_ROUNDS = 2
"""Turns that the finalists take: a GPU's temperature drifts."""

_FP32_REDUCTIONS = (0, 2)
"""Of sums that are split: none, and in fp32. Others add what is rounded already."""

_GAIN = 1.005
"""A candidate that is faster by less is within the scatter."""


class Product(NamedTuple):
    """A product by its sizes; its table entry."""

    rows: int
    columns: int
    inner: int
    transposed: bool
    """b is the transpose of a row-major matrix, as a weight in a forward is."""


class Weight(NamedTuple):
    """What of a product the model decides."""

    columns: int
    inner: int
    transposed: bool
    dtype: torch.dtype


@dataclass(frozen=True)
class Choice:
    """What was found for a product."""

    algorithm: Algorithm | None
    """None: torch's own."""
    torch_ms: float
    best_ms: float


def aligned(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An operand, ``[rows, columns]``, not initialised, whose rows start at lines of the cache."""
    width = row_bytes(columns, dtype) // dtype.itemsize
    return torch.empty((rows, width), dtype=dtype, device=device)[:, :columns]


def row_bytes(columns: int, dtype: torch.dtype) -> int:
    """What a row of an `aligned` operand takes."""
    return -(-columns * dtype.itemsize // _LINE) * _LINE


def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``torch.mm(a, b)``, of 16-bit operands on a GPU in the way that was measured.

    Args:
        a: ``[rows, inner]``.
        b: ``[inner, columns]``, row-major or the transpose of a row-major matrix.
        out: ``[rows, columns]`` to write to, rows any distance apart.
    """
    if a.is_cuda and (product := _choices(a.device).multiply(a, b, out)) is not None:
        return product
    return torch.mm(a, b) if out is None else torch.mm(a, b, out=out)


def matmul_fp32(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` accumulated and returned in fp32 (float64 stays)."""
    if a.dtype in (torch.float32, torch.float64):
        return a @ b
    if not (a.numel() and b.numel()):  # a projection without an adapter: no columns
        return torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float32, device=a.device)
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class Choices:
    """What is taken on a device."""

    def __init__(self, lt: CublasLt | None, *tables: Any) -> None:
        """`tables` are what `to_json` made, the later ones in front; whatever else is in them is left out."""
        self._lt = lt
        self._by_weight: dict[Weight, dict[int, Choice]] = {}
        self._failed: set[tuple[Algorithm, Operands]] = set()
        for table in tables:
            for entry in table if isinstance(table, list) else []:
                with suppress(TypeError, ValueError, OverflowError, KeyError, AttributeError):
                    self._read(entry)

    def _read(self, entry: Any) -> None:
        rows, columns, inner = (int(entry[name]) for name in ("rows", "columns", "inner"))
        if rows <= 0:
            raise ValueError(f"{rows} rows")
        product = Product(rows, columns, inner, bool(entry["transposed"]))
        numbers = entry["algorithm"]
        algorithm = None if numbers is None else tuple(int(number) for number in numbers)
        choice = Choice(algorithm, float(entry["torch_ms"]), float(entry["best_ms"]))
        self.set(product, getattr(torch, entry["dtype"]), choice)

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "rows": rows, **weight._asdict(), "dtype": str(weight.dtype).removeprefix("torch."),
                **asdict(choice),
            }
            for weight, by_rows in self._by_weight.items()
            for rows, choice in by_rows.items()
        ]  # fmt: skip

    def set(self, product: Product, dtype: torch.dtype, choice: Choice) -> None:
        weight = Weight(product.columns, product.inner, product.transposed, dtype)
        self._by_weight.setdefault(weight, {})[product.rows] = choice

    def near(self, weight: Weight, rows: int) -> int | None:
        """The nearest number of rows that was measured, if one is near."""
        measured = self._by_weight.get(weight)
        if not measured or not rows:
            return None
        nearest = min(measured, key=lambda other: abs(math.log2(other / rows)))
        return nearest if abs(math.log2(nearest / rows)) <= _NEAR else None

    def find(self, weight: Weight, rows: int) -> Choice | None:
        """What was found for the nearest number of rows."""
        nearest = self.near(weight, rows)
        return None if nearest is None else self._by_weight[weight][nearest]

    def multiply(self, a: Tensor, b: Tensor, out: Tensor | None) -> Tensor | None:
        """``a @ b`` as it was chosen; None where it was not, or cannot be done so."""
        transposed = b.stride(0) == 1 and b.stride(1) > 1
        choice = self.find(Weight(b.shape[1], b.shape[0], transposed, a.dtype), a.shape[0])
        if self._lt is None or choice is None or choice.algorithm is None:
            return None
        target = a.new_empty((a.shape[0], b.shape[1])) if out is None else out
        operands = Operands.of(a, b, target)
        if operands is None or (choice.algorithm, operands) in self._failed:
            return None
        try:
            self._lt.run(choice.algorithm, operands, a, b, target)
        except CublasLtError as error:
            log.debug("%s for %s: %s", choice.algorithm, operands, error)
            self._failed.add((choice.algorithm, operands))
            return None
        return target


def tune(
    products: Sequence[Product],
    dtype: torch.dtype,
    device: torch.device,
    tell: Callable[[int], None] = lambda left: None,
) -> list[Choice]:
    """See that each large product of a model has its choice, and that it is right on this device.

    What is not in the table is measured, which takes about two seconds each, and kept on disk. What is in it
    is run once and compared with torch's result. Both take the memory of the operands.

    Args:
        tell: hears how many products are still to be measured.

    Returns:
        The choices, one for each large product; none where there is no cublasLt.

    Raises:
        torch.OutOfMemoryError: there is no room for the operands; what was measured by then is kept.
    """
    lt = cublaslt(device)
    if lt is None or dtype not in DTYPES:
        return []
    choices = _choices(device)
    large = [p for p in dict.fromkeys(products) if 2.0 * p.rows * p.columns * p.inner >= _LEAST]
    weights = [Weight(p.columns, p.inner, p.transposed, dtype) for p in large]
    unknown = [
        product
        for product, weight in zip(large, weights, strict=True)
        if choices.find(weight, product.rows) is None
    ]
    if unknown:
        _heat(device, dtype)
    found = []
    try:
        for product, weight in zip(large, weights, strict=True):
            if product in unknown:
                tell(len(unknown) - unknown.index(product))
                choices.set(product, dtype, _measure(lt, product, dtype, device))
            choice = choices.find(weight, product.rows)
            assert choice is not None
            if product not in unknown and not _right(choices, product, dtype, device):
                log.warning("%s: %s gives wrong results here", product, choice.algorithm)
                choice = Choice(None, choice.torch_ms, choice.torch_ms)
                wrong = choices.near(weight, product.rows)
                assert wrong is not None
                choices.set(product._replace(rows=wrong), dtype, choice)
            found.append(choice)
    finally:
        if unknown:
            _keep(choices, device, lt)
    return found


def _measure(lt: CublasLt, product: Product, dtype: torch.dtype, device: torch.device) -> Choice:
    a, b, out = operands_for(product, dtype, device)
    operands = Operands.of(a, b, out)
    assert operands is not None
    want = torch.mm(a, b)

    def by(algorithm: Algorithm) -> Callable[[], object]:
        return lambda: lt.run(algorithm, operands, a, b, out)

    right: list[Algorithm] = []
    for algorithm in lt.algorithms(operands):
        if algorithm[2] > 1 and algorithm[3] not in _FP32_REDUCTIONS:
            continue
        out.fill_(math.nan)
        with suppress(CublasLtError):
            by(algorithm)()
            if _agree(out, want):
                right.append(algorithm)
    short = sorted(right, key=lambda one: _milliseconds(by(one), device))[:_FINALISTS]
    times: dict[Algorithm | None, float] = defaultdict(float)
    for _ in range(_ROUNDS):
        for algorithm in short:
            times[algorithm] += _settled(by(algorithm), device) / _ROUNDS
        times[None] += _settled(lambda: torch.mm(a, b, out=out), device) / _ROUNDS
    stock = times.pop(None)
    best = min(times, key=lambda one: times[one], default=None)
    if best is None or times[best] * _GAIN > stock:
        return Choice(None, stock, stock)
    return Choice(best, stock, times[best])


def _right(choices: Choices, product: Product, dtype: torch.dtype, device: torch.device) -> bool:
    a, b, out = operands_for(product, dtype, device)
    out.fill_(math.nan)
    return choices.multiply(a, b, out) is None or _agree(out, torch.mm(a, b))


def _agree(got: Tensor, want: Tensor) -> bool:
    """Value by value within the rounding of two results whose fp32 sums were taken in another order."""
    if torch.equal(got, want):
        return True
    scale = want.float().square().mean().sqrt() / 4
    parts = zip(got.split(1024), want.split(1024), strict=True)  # their fp32 copies are large
    eps = torch.finfo(want.dtype).eps
    return all(
        bool(((one.float() - other.float()).abs() <= 2 * eps * (other.float().abs() + scale)).all())
        for one, other in parts
    )


def operands_for(
    product: Product, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Random a and b, and room for the result, laid out as `qlora.py` does."""
    generator = torch.Generator(device).manual_seed(0)
    a = aligned(product.rows, product.inner, dtype, device)
    a.normal_(generator=generator)
    if product.transposed:
        weight = aligned(product.columns, product.inner, dtype, device)
    else:
        weight = aligned(product.inner, product.columns, dtype, device)
    weight.normal_(std=0.02, generator=generator)
    out = torch.empty((product.rows, product.columns), dtype=dtype, device=device)
    return a, weight.t() if product.transposed else weight, out


def _heat(device: torch.device, dtype: torch.dtype) -> None:
    """Bring the GPU to the clock that it has under load."""
    x = torch.randn(4096, 4096, device=device, dtype=dtype)
    end = time.perf_counter() + 1.0
    while time.perf_counter() < end:
        for _ in range(20):
            torch.mm(x, x)
        torch.cuda.synchronize(device)


def _settled(run: Callable[[], object], device: torch.device) -> float:
    end = time.perf_counter() + _SETTLE
    while time.perf_counter() < end:
        _milliseconds(run, device)
    return statistics.median(_milliseconds(run, device) for _ in range(3))


def _milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one of several calls in a row, 20 ms or so in all."""

    def timed(count: int) -> float:
        with torch.cuda.device(device):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            for _ in range(count):
                run()
            after.record()
            after.synchronize()
        return before.elapsed_time(after) / count

    once = timed(1)
    return timed(max(2, min(100, int(20 / max(once, 1e-3)))))


@lru_cache
def _choices(device: torch.device) -> Choices:
    lt = cublaslt(device)
    if lt is None:
        return Choices(None)
    shipped = _parse(Path(__file__).with_name("matmul_choices.json"))
    key = _key(device, lt)
    return Choices(lt, shipped.get(key), _parse(_file()).get(key))


def _keep(choices: Choices, device: torch.device, lt: CublasLt) -> None:
    """Write the table to disk, whole or not at all; where that fails it is measured again next time."""
    file = _file()
    tree = _parse(file) | {_key(device, lt): choices.to_json()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            scratch = Path(folder) / file.name
            scratch.write_text(json.dumps(tree, indent=1), encoding="utf-8")
            scratch.replace(file)
    except OSError as error:
        log.warning("%s was not written: %s", file, error)


def _parse(file: Path) -> dict[str, Any]:
    """Empty where there is no such file, or it is damaged."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "evenfall" / "matmul_choices.json"


def _key(device: torch.device, lt: CublasLt) -> str:
    return f"{torch.cuda.get_device_name(device)}, cuBLASLt {lt.version}"
