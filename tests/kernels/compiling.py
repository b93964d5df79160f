"""Compiling kernels for GPUs that are not at hand, down to machine code, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

# Stands in for a GPU's driver: Triton compiles for that GPU and launches nothing.
_PRELUDE = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


driver.set_active(Driver())
run = JITFunction.run


def compile_only(self, *args, grid, warmup, **kwargs):
    seen(self.fn.__name__, run(self, *args, grid=grid, warmup=True, **kwargs).asm)


JITFunction.run = compile_only


def take_triton(*modules):
    for module in modules:
        module.takes_triton = lambda *tensors: True
"""


def python(code: str, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a fresh interpreter."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, env={**os.environ, **env}, check=False, text=True, capture_output=True)


def compile_for(capability: str, code: str, cache: Path) -> str:
    """What `code` prints while every kernel that it launches is compiled for sm_`capability`.

    The code defines ``seen(name, asm)``, called with each kernel's name and code ("sass", "cubin"),
    and calls ``take_triton(*modules)`` so that CPU tensors go to the kernels.
    """
    env = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    done = python(_PRELUDE + code, capability, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout
