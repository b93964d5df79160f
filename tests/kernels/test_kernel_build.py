"""What needs another process: importing without Triton, and compiling for GPUs not at hand."""

import os
import subprocess
import sys

import pytest

WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None  # what `import triton` meets where it is not installed
import torch
from evenfall.kernels.backend import triton_runs_on
from evenfall.kernels.glu import geglu, geglu_reference, swiglu, swiglu_reference
from evenfall.kernels.rms_norm import rms_norm, rms_norm_reference
from evenfall.kernels.rope import rope, rope_reference

x, weight = torch.randn(3, 8, requires_grad=True), torch.ones(8)
assert not triton_runs_on("cpu") and not triton_runs_on("cuda")
assert torch.equal(rms_norm(x, weight, 1e-6), rms_norm_reference(x, weight, 1e-6))
assert torch.equal(swiglu(x, x), swiglu_reference(x, x))
assert torch.equal(geglu(x, x), geglu_reference(x, x))
(swiglu(x, x) + geglu(x, x)).sum().backward()
q, cos, sin = x[:, None], torch.randn(3, 8), torch.randn(3, 8)
assert torch.equal(rope(q, q, cos, sin)[0], rope_reference(q, q, cos, sin)[0])
"""

# Stands in for a GPU's driver: Triton compiles for that GPU down to machine code, launches nothing.
COMPILE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from evenfall.kernels import glu, rms_norm, rope


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


driver.set_active(Driver())
compiled = []
run = JITFunction.run


def compile_only(self, *args, grid, warmup, **kwargs):
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    compiled.append((self.fn.__name__, len(kernel.asm["cubin"])))


JITFunction.run = compile_only
for module in (glu, rms_norm, rope):
    module.takes_triton = lambda *tensors: True

for columns, unit_offset in ((507, False), (4096, True)):
    x = torch.zeros(4, columns, dtype=torch.bfloat16, requires_grad=True)
    for trained in (False, True):
        weight = torch.zeros(columns, dtype=torch.bfloat16, requires_grad=trained)
        rms_norm.rms_norm(x, weight, 1e-6, unit_offset=unit_offset).sum().backward()
    glu.swiglu(x, x).sum().backward()
    for tanh in (True, False):
        glu.geglu(x, x, tanh).sum().backward()
    out = torch.zeros_like(x)
    glu.glu_backward(x.detach(), x.detach(), x.detach(), out, out, "silu", out=out)
for size, interleaved in ((80, False), (128, False), (128, True)):
    q, k = (torch.zeros(4, n, size, dtype=torch.bfloat16, requires_grad=True) for n in (9, 3))
    for cos in (torch.zeros(4, size, dtype=torch.bfloat16), torch.zeros(4, size // 2)):
        rope.rope(q, k, cos, cos, interleaved=interleaved)[0].sum().backward()
assert all(size > 0 for _, size in compiled)
print(sorted({name for name, _ in compiled}))
"""


def python(code, *args, **env):
    env = {**os.environ, **env}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env=env, check=False, text=True, capture_output=True)


def test_ops_work_without_triton():
    done = python(WITHOUT_TRITON)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_for_real_gpus(tmp_path, capability):
    pytest.importorskip("triton")
    env = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = python(COMPILE, capability, **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(
        [
            "_glu_backward_kernel",
            "_glu_forward_kernel",
            "_rms_norm_backward_kernel",
            "_rms_norm_forward_kernel",
            "_rope_kernel",
        ]
    )
