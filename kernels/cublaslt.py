"""cuBLAS by the algorithm that one names, where torch takes the first that its heuristic offers.

Only what the matmul modules beside it need of cublasLt (NVIDIA, "cuBLAS library", chapter 3), through ctypes: plain
matrix
products of 16-bit operands with fp32 sums. The library is the one that torch has loaded already. A row-major
product ``a @ b`` is handed over as ``b^T @ a^T`` in columns, which is the same memory.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = {torch.bfloat16: 14, torch.float16: 2}
"""Of the operands -> cudaDataType."""

ALIGNMENT = 256
"""Bytes at whose multiples operands must start: what the heuristic takes for granted."""

_FP32 = 0
_COMPUTE_FP32 = 68
_TRANSPOSE_A = 3  # attributes of a product's description
_WORKSPACE_BYTES = 1  # attribute of a preference
_ASKED = 16
_WORKSPACE = 32 * 2**20
_REMEMBERED = 512
"""Products whose descriptions are kept: packed batches have ever other numbers of tokens."""
_DESCRIBED = ((0, 4), (1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (6, 4), (7, 2), (8, 2))
"""Attributes of an algorithm that tell it from others, with their bytes: id, tile, split, reduction, swizzling,
custom option, stages, inner shape, cluster."""

Algorithm = tuple[int, ...]
"""An algorithm as its attributes' values."""


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = [
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


class Operands(NamedTuple):
    """What tells two products apart: sizes, distances between rows, and the layout of b."""

    rows: int
    columns: int
    inner: int
    a_stride: int
    b_stride: int
    out_stride: int
    b_transposed: bool
    """b is the transpose of a row-major matrix, as a weight in a forward is."""
    dtype: torch.dtype

    @classmethod
    def of(cls, a: Tensor, b: Tensor, out: Tensor) -> Operands | None:
        """None where cublasLt is not to be asked: other dtypes, devices or layouts."""
        tensors = (a, b, out)
        transposed = b.stride(0) == 1 and b.stride(1) > 1
        if (
            a.dtype not in DTYPES
            or any(t.dtype != a.dtype or not t.is_cuda or t.data_ptr() % ALIGNMENT for t in tensors)
            or (a.shape[1], a.shape[0], b.shape[1]) != (b.shape[0], *out.shape)
            or a.stride(1) != 1
            or out.stride(1) != 1
            or not (transposed or b.stride(1) == 1)
        ):
            return None
        return cls(
            a.shape[0], b.shape[1], a.shape[1], a.stride(0), b.stride(1 if transposed else 0),
            out.stride(0), transposed, a.dtype,
        )  # fmt: skip


class CublasLtError(RuntimeError):
    """A call of cublasLt failed."""


class CublasLt:
    """A handle on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._library = _library()
        self._handle = c_void_p()
        self._workspaces: dict[int, Tensor] = {}
        self._descriptions: dict[Operands, tuple[c_void_p, ...]] = {}
        self._made: dict[tuple[Algorithm, Operands], ctypes.Array[c_uint64]] = {}
        with torch.cuda.device(device):
            self._call("cublasLtCreate", byref(self._handle))

    @property
    def version(self) -> int:
        return int(self._library.cublasLtGetVersion())

    def algorithms(self, operands: Operands) -> list[Algorithm]:
        """Those that the heuristic offers for a product, its favourite first."""
        product, left, right, result = self._described(operands)
        preference, limit = c_void_p(), c_size_t(_WORKSPACE)
        self._call("cublasLtMatmulPreferenceCreate", byref(preference))
        self._call(
            "cublasLtMatmulPreferenceSetAttribute", preference, _WORKSPACE_BYTES, byref(limit),
            c_size_t(ctypes.sizeof(limit)),
        )  # fmt: skip
        found, count = (_Found * _ASKED)(), c_int()
        with torch.cuda.device(self._device):
            self._call(
                "cublasLtMatmulAlgoGetHeuristic", self._handle, product, left, right, result, result,
                preference, _ASKED, found, byref(count),
            )  # fmt: skip
        self._call("cublasLtMatmulPreferenceDestroy", preference)
        return [self._attributes(one) for one in found[: count.value] if one.state == 0]

    def run(self, algorithm: Algorithm, operands: Operands, a: Tensor, b: Tensor, out: Tensor) -> None:
        """``out = a @ b`` by an algorithm of these operands or others, on torch's current stream.

        Raises:
            CublasLtError: it cannot be used for these operands, or failed.
        """
        with torch.cuda.device(self._device):
            made = self._made.get((algorithm, operands)) or self._make(algorithm, operands)
            product, left, right, result = self._described(operands)
            stream = torch.cuda.current_stream(self._device).cuda_stream
            one, zero = c_float(1.0), c_float(0.0)
            target = c_void_p(out.data_ptr())
            self._call(
                "cublasLtMatmul", self._handle, product, byref(one), c_void_p(b.data_ptr()), left,
                c_void_p(a.data_ptr()), right, byref(zero), target, result, target, result,
                byref(made), c_void_p(self._workspace(stream).data_ptr()), c_size_t(_WORKSPACE),
                c_void_p(stream),
            )  # fmt: skip

    def _workspace(self, stream: int) -> Tensor:
        # A graph is replayed on the stream that launches ran on before. One of its own would lie in
        # its pool and keep that from being freed.
        if torch.cuda.is_current_stream_capturing() and self._workspaces:
            return next(iter(self._workspaces.values()))
        if stream not in self._workspaces:
            self._workspaces[stream] = torch.empty(_WORKSPACE, dtype=torch.uint8, device=self._device)
        return self._workspaces[stream]

    def _described(self, operands: Operands) -> tuple[c_void_p, ...]:
        """The product and its three matrices."""
        if operands in self._descriptions:
            return self._descriptions[operands]
        if len(self._descriptions) >= _REMEMBERED:
            self._forget()
        o, product = operands, c_void_p()
        self._call("cublasLtMatmulDescCreate", byref(product), _COMPUTE_FP32, _FP32)
        transpose = c_int32(o.b_transposed)
        self._call("cublasLtMatmulDescSetAttribute", product, _TRANSPOSE_A, byref(transpose), c_size_t(4))
        sizes = (o.inner, o.columns) if o.b_transposed else (o.columns, o.inner)
        left = self._layout(o.dtype, *sizes, o.b_stride)
        right = self._layout(o.dtype, o.inner, o.rows, o.a_stride)
        result = self._layout(o.dtype, o.columns, o.rows, o.out_stride)
        self._descriptions[operands] = product, left, right, result
        return self._descriptions[operands]

    def _make(self, algorithm: Algorithm, operands: Operands) -> ctypes.Array[c_uint64]:
        """An algorithm from its attributes, and seen to be one for these operands."""
        kind, made, found = DTYPES[operands.dtype], (c_uint64 * 8)(), _Found()
        self._call(
            "cublasLtMatmulAlgoInit", self._handle, _COMPUTE_FP32, _FP32, kind, kind, kind, kind,
            algorithm[0], byref(made),
        )  # fmt: skip
        for (attribute, size), number in zip(_DESCRIBED[1:], algorithm[1:], strict=True):
            self._call(
                "cublasLtMatmulAlgoConfigSetAttribute", byref(made), attribute,
                byref(c_int32(number)), c_size_t(size),
            )  # fmt: skip
        product, left, right, result = self._described(operands)
        self._call(
            "cublasLtMatmulAlgoCheck", self._handle, product, left, right, result, result,
            byref(made), byref(found),
        )  # fmt: skip
        if found.workspace > _WORKSPACE:
            raise CublasLtError(f"algorithm {algorithm} needs {found.workspace} bytes")
        self._made[algorithm, operands] = made
        return made

    def _forget(self) -> None:
        for product, *layouts in self._descriptions.values():
            self._call("cublasLtMatmulDescDestroy", product)
            for layout in layouts:
                self._call("cublasLtMatrixLayoutDestroy", layout)
        self._descriptions, self._made = {}, {}

    def _layout(self, dtype: torch.dtype, rows: int, columns: int, stride: int) -> c_void_p:
        layout = c_void_p()
        self._call(
            "cublasLtMatrixLayoutCreate", byref(layout), DTYPES[dtype], c_uint64(rows),
            c_uint64(columns), c_int64(stride),
        )  # fmt: skip
        return layout

    def _attributes(self, found: _Found) -> Algorithm:
        values = []
        for attribute, size in _DESCRIBED:
            value, written = c_int32(0), c_size_t()
            self._call(
                "cublasLtMatmulAlgoConfigGetAttribute", byref(found.algorithm), attribute,
                byref(value), c_size_t(size), byref(written),
            )  # fmt: skip
            values.append(value.value)
        return tuple(values)

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            raise CublasLtError(f"{name} gave {status}")


@lru_cache
def _library() -> ctypes.CDLL:
    """
    Raises:
        OSError: there is none.
    """
    major = (torch.version.cuda or "").partition(".")[0]
    library = ctypes.CDLL(f"libcublasLt.so.{major}")
    library.cublasLtGetVersion.restype = c_size_t
    library.cublasLtCreate.argtypes = [POINTER(c_void_p)]
    return library


@lru_cache
def cublaslt(device: torch.device) -> CublasLt | None:
    """The handle on a device; None where there is no cublasLt (ROCm, a CPU)."""
    if device.type != "cuda" or torch.version.cuda is None:
        return None
    try:
        return CublasLt(device)
    except (OSError, CublasLtError):
        return None
