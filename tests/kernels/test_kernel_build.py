"""What needs another process: importing without Triton, and compiling for GPUs not at hand."""

import pytest
from compiling import compile_for, python

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # what `import triton` meets where it is not installed
import torch
from evenfall.kernels.backend import triton_runs_on
from evenfall.kernels.glu import geglu, geglu_reference, swiglu, swiglu_reference
from evenfall.kernels.glu_adapters import glu_backward_gradients, glu_forward_carry
from evenfall.kernels.packed_attention import (
    document_bounds, packed_attention, packed_attention_reference
)
from evenfall.kernels.rms_norm import rms_norm, rms_norm_reference
from evenfall.kernels.rope import rope, rope_reference

x, weight = torch.randn(3, 8, requires_grad=True), torch.ones(8)
assert not triton_runs_on("cpu") and not triton_runs_on("cuda")
assert torch.equal(rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))
assert torch.equal(swiglu(x, x), swiglu_reference(x, x))
assert torch.equal(geglu(x, x), geglu_reference(x, x))
(swiglu(x, x) + geglu(x, x)).sum().backward()
with torch.no_grad():
    product, t = torch.empty(3, 8), torch.empty(3, 2)
    glu_forward_carry(x, x, product, x[:2], t, "silu")
    assert torch.equal(t, swiglu_reference(x, x) @ x[:2].t())
    glu_backward_gradients(product, x, x, x, x, t, (t, t), "silu")
q, cos, sin = x[:, None], torch.randn(3, 8), torch.randn(3, 8)
assert torch.equal(rope(q, q, cos, sin)[0], rope_reference(q, q, cos, sin)[0])
starts, ends = document_bounds(torch.tensor([0, 2]), 3)
out = packed_attention(q, q, q, starts, ends)
assert torch.equal(out, packed_attention_reference(q, q, q, starts))
"""

COMPILE = """
from evenfall.kernels import (
    adamw, adamw_8bit, carry, glu, glu_adapters, linear_cross_entropy, nf4, nf4_gemv, packed_attention, rms_norm,
    rope
)

compiled = []


def seen(name, asm):
    compiled.append((name, len(asm["cubin"])))


compile_kernel = run


def run(*args, **kwargs):
    kernel = compile_kernel(*args, **kwargs)
    # What Hopper has, and what those have that share the tiles of sm_80.
    limit = {"80": 99, "90": 227}[sys.argv[1]] * 1024
    assert kernel.metadata.shared <= limit, (kernel.metadata.name, kernel.metadata.shared)
    return kernel


take_triton(
    adamw, adamw_8bit, carry, glu, glu_adapters, linear_cross_entropy, nf4, nf4_gemv, packed_attention, rms_norm,
    rope
)

for columns, unit_offset in ((507, False), (4096, True)):
    x = torch.zeros(4, columns, dtype=torch.bfloat16, requires_grad=True)
    for trained in (False, True):
        weight = torch.zeros(columns, dtype=torch.bfloat16, requires_grad=trained)
        rms_norm.rms_norm(x, weight, 1e-6, unit_offset=unit_offset).sum().backward()
    rms_norm.add_rms_norm(x, x, weight, 1e-6, unit_offset=unit_offset)[0].sum().backward()
    glu.swiglu(x, x).sum().backward()
    for tanh in (True, False):
        glu.geglu(x, x, tanh).sum().backward()
    out = torch.zeros_like(x)
    glu.glu_backward(x.detach(), x.detach(), x.detach(), out, out, "silu", out=out)
for columns, rank, dtype in ((507, 1, torch.bfloat16), (4096, 64, torch.float16), (96, 16, torch.float32)):
    x, t = torch.zeros(256, columns, dtype=dtype), torch.zeros(256, rank, dtype=dtype)
    glu_adapters.glu_forward_carry(x, x, x, x[:rank], t, "silu")
    glu_adapters.glu_backward_gradients(x, x, x, x, x, t, (t, t), "silu")
    carry.copy_carry(x, x.clone(), x[:rank], t)
for size, interleaved in ((80, False), (128, False), (128, True)):
    q, k = (torch.zeros(4, n, size, dtype=torch.bfloat16, requires_grad=True) for n in (9, 3))
    for cos in (torch.zeros(4, size, dtype=torch.bfloat16), torch.zeros(4, size // 2)):
        rope.rope(q, k, cos, cos, interleaved=interleaved)[0].sum().backward()
packed_attention._capability = lambda device: int(sys.argv[1])
for size, dtype, softcap in (
    (80, torch.float16, 30.0), (256, torch.bfloat16, None), (16, torch.float32, None)
):
    q, k = (torch.zeros(4, n, size, dtype=dtype, requires_grad=True) for n in (8, 2))
    bounds = torch.zeros(4, dtype=torch.int32)
    packed_attention.packed_attention(q, k, k, bounds, bounds, softcap=softcap).sum().backward()
for vocabulary in (507, 128256):
    hidden = torch.zeros(4, 16, dtype=torch.bfloat16, requires_grad=True)
    head, labels = torch.zeros(vocabulary, 16, dtype=torch.bfloat16), torch.zeros(4).long()
    for softcap in (None, 30.0):
        linear_cross_entropy.linear_cross_entropy(hidden, head, labels, softcap=softcap)
        with torch.no_grad():
            linear_cross_entropy.linear_cross_entropy(hidden, head, labels, softcap=softcap)
for rows, columns in ((1024, 4096), (1024, 14336), (96, 72)):
    blocks = -(-rows * columns // 64)
    packed, code = torch.zeros(rows * columns // 2, dtype=torch.uint8), torch.zeros(16)
    nested = {
        "absmax2": torch.zeros(-(-blocks // 256)), "code2": torch.zeros(256), "offset": torch.zeros(())
    }
    plain = {"packed": packed, "code": code, "shape": (rows, columns)}
    for weight in (
        nf4.NF4Weight(absmax=torch.zeros(blocks), **plain),
        nf4.NF4Weight(absmax=torch.zeros(blocks, dtype=torch.uint8), **plain, **nested),
    ):
        nf4.dequantize_nf4(weight, out=torch.zeros(rows, columns + 64, dtype=torch.bfloat16)[:, :columns])
        for count in (1, 5):
            x = torch.zeros(count, columns, dtype=torch.bfloat16)
            nf4_gemv.gemv_nf4(x, weight)
            xa, b = torch.zeros(count, 16), torch.zeros(rows, 16)
            nf4_gemv.gemv_nf4(x, weight, xa=xa, lora_b=b, scaling=2.0)
state = [torch.zeros(5000) for _ in range(4)]
adamw.adamw_step(*state, torch.zeros(()), 1e-3, adamw.AdamWSettings(beta1=0.0))
adamw.adamw_step(*state, torch.zeros(()), 1e-3, adamw.AdamWSettings())
for n in (5001, 5120):
    moments = adamw_8bit.Moments8Bit.zeros(n, "cpu")
    state = torch.zeros(n), torch.zeros(n), moments, torch.zeros(())
    adamw_8bit.adamw_8bit_step(*state, 1e-3, adamw.AdamWSettings())
assert all(size > 0 for _, size in compiled)
print(sorted({name for name, _ in compiled}))
"""


def test_ops_work_without_triton():
    done = python(WITHOUT_TRITON)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_for_real_gpus(tmp_path, capability):
    pytest.importorskip("triton")
    assert compile_for(capability, COMPILE, tmp_path).strip() == str(
        [
            "_adamw_8bit_kernel",
            "_attention_forward_kernel",
            "_attention_key_gradient_kernel",
            "_attention_query_gradient_kernel",
            "_copy_carry_kernel",
            "_cross_entropy_kernel",
            "_dequantize_nf4_any_kernel",
            "_dequantize_nf4_kernel",
            "_gemv_nf4_kernel",
            "_glu_backward_gradients_kernel",
            "_glu_backward_kernel",
            "_glu_forward_carry_kernel",
            "_glu_forward_kernel",
            "_prepare_kernel",
            "_rms_norm_backward_kernel",
            "_rms_norm_forward_kernel",
            "_rope_kernel",
            "_squares_kernel",
            "_update_kernel",
        ]
    )
