"""Which algorithm of cuBLAS multiplies what, per GPU: the table that `matmul` looks into.

An entry says for the sizes of a weight and a number of rows which algorithm was the fastest under load. It is kept
on disk per GPU and version of cuBLAS (`matmul_tuning.py` measures it), and comes along for those in
`matmul_choices.json`. Since packed batches differ a little in length, an entry holds for the nearest numbers of rows.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cublaslt import Algorithm, CublasLt, CublasLtError, Operands, cublaslt

log = logging.getLogger(__name__)

_NEAR = 1.0
"""How far apart the rows of a product and of its choice may be, as a power of two."""


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


@lru_cache
def choices_of(device: torch.device) -> Choices:
    """What is taken on a device: measured on this kind, or shipped."""
    lt = cublaslt(device)
    if lt is None:
        return Choices(None)
    shipped = read_tables(Path(__file__).with_name("matmul_choices.json"))
    key = key_of(device, lt)
    return Choices(lt, shipped.get(key), read_tables(_file()).get(key))


def keep(choices: Choices, device: torch.device, lt: CublasLt) -> None:
    """Write the table to disk, whole or not at all; where that fails it is measured again next time."""
    file = _file()
    tree = read_tables(file) | {key_of(device, lt): choices.to_json()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            scratch = Path(folder) / file.name
            scratch.write_text(json.dumps(tree, indent=1), encoding="utf-8")
            scratch.replace(file)
    except OSError as error:
        log.warning("%s was not written: %s", file, error)


def read_tables(file: Path) -> dict[str, Any]:
    """Empty where there is no such file, or it is damaged."""
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "evenfall" / "matmul_choices.json"


def key_of(device: torch.device, lt: CublasLt) -> str:
    return f"{torch.cuda.get_device_name(device)}, cuBLASLt {lt.version}"
