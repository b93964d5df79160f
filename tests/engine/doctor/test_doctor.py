"""doctor: right about a sound machine, plain about a broken one, silent about secrets."""

import importlib
import importlib.metadata
import math
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from evenfall.engine.doctor import gpu as gpu_checks
from evenfall.engine.doctor.checks import run_checks
from evenfall.engine.doctor.fact import Check, exit_code, format_check

GB = 10**9


@pytest.fixture(scope="module")
def sound():
    """The checks on this machine as it is; the imports they do are done for the tests after it."""
    return list(run_checks())


def row(name, checks=None):
    found = [check for check in (run_checks() if checks is None else checks) if check.name == name]
    assert len(found) == 1, f"{name}: {found}"
    return found[0]


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)


@pytest.fixture
def gpu(monkeypatch, sound):
    """A machine whose torch reports one GPU; the test sets what it is like."""
    like = SimpleNamespace(capability=(9, 0), free=140 * GB, total=150 * GB, builds=["sm_80", "sm_90", "sm_120"])
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device: "Test GPU",
        "get_device_capability": lambda device: like.capability,
        "mem_get_info": lambda device: (like.free, like.total),
        "memory_reserved": lambda device: 0,
        "get_arch_list": lambda: like.builds,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return like


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Puts an nvidia-smi on the path that answers each query as told."""

    def install(**answers):
        lines = "".join(f'*{query}*) printf "{text}";;\n' for query, text in answers.items())
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f'#!/bin/sh\ncase "$1" in\n{lines}esac\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return install


def test_a_sound_machine_has_no_error(sound):
    assert [check for check in sound if check.status == "error"] == []
    assert exit_code(sound) == 0
    names = [check.name for check in sound]
    assert len(names) == len(set(names))
    for name in ("python", "torch", "transformers", "memory", "disk here", "NF4", "kernels"):
        assert name in names
    assert torch.__version__.startswith(row("torch", sound).value)
    assert row("memory", sound).value.endswith("GB free")


def test_without_a_gpu_it_says_so_and_checks_the_rest(no_gpu, monkeypatch):
    monkeypatch.setattr(gpu_checks, "_driver_version", lambda: "")
    checks = list(run_checks())
    assert row("GPU", checks).status == "warning" and "demo" in row("GPU", checks).advice
    driver = row("NVIDIA driver", checks)
    assert driver.status == "warning" and driver.value == "none found"
    assert row("kernels", checks) == Check(name="kernels", status="ok", value="reference path, no GPU")
    nf4 = row("NF4", checks)
    assert nf4.status == "ok" and "on CPU" in nf4.value
    assert exit_code(checks) == 0


def test_an_old_library_is_an_error_with_the_command_that_cures_it(sound, monkeypatch, tmp_path):
    (tmp_path / "torch-2.10.1+cu128.dist-info").mkdir()
    (tmp_path / "torch-2.10.1+cu128.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torch\nVersion: 2.10.1+cu128\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    checks = list(run_checks())
    torch_row = row("torch", checks)
    assert torch_row.status == "error"
    assert "2.10.1" in torch_row.value and "2.11" in torch_row.value
    assert torch_row.advice == 'pip install -U "torch>=2.11"'
    assert exit_code(checks) == 1


def without(monkeypatch, name):
    version = importlib.metadata.version

    def missing(asked):
        if asked == name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return version(asked)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setitem(sys.modules, name, None)  # so that an import fails


def test_a_missing_bitsandbytes_is_an_error_with_the_command_that_cures_it(sound, monkeypatch):
    without(monkeypatch, "bitsandbytes")
    checks = list(run_checks())
    library = row("bitsandbytes", checks)
    assert library.status == "error" and library.value == "not installed"
    assert library.advice == 'pip install "bitsandbytes>=0.50"'
    assert row("NF4", checks).status == "error"
    assert row("kernels", checks).status == "ok"  # what does not need it is still checked
    assert exit_code(checks) == 1


def test_a_missing_optional_library_is_no_error(sound, monkeypatch):
    without(monkeypatch, "triton")
    assert row("triton") == Check(name="triton", status="ok", value="not installed (optional)")


def test_a_library_that_does_not_import_is_an_error_that_quotes_why(sound, monkeypatch):
    real = importlib.import_module

    def broken(name, package=None):
        if name == "peft":
            raise OSError("libcudart.so.13: cannot open shared object file")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", broken)
    check = row("peft")
    assert check.status == "error" and "libcudart.so.13" in check.value and "pip" in check.advice


def test_nf4_that_decodes_wrongly_is_an_error(sound, no_gpu, monkeypatch):
    from bitsandbytes import functional

    right = functional.dequantize_4bit
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *a, **k: right(*a, **k) * 1.2)
    check = row("NF4")
    assert check.status == "error" and "0.12" in check.advice
    monkeypatch.setattr(functional, "dequantize_4bit", lambda *a, **k: right(*a, **k) * math.nan)
    assert row("NF4").status == "error"


def disk_with(monkeypatch, free):
    usage = SimpleNamespace(total=100 * GB, used=100 * GB - free, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_full_disk_is_an_error_and_a_small_one_a_warning(sound, monkeypatch):
    disk_with(monkeypatch, GB // 5)
    check = row("disk here")
    assert check.status == "error" and check.value.startswith("0.2 GB free at ")
    assert "Checkpoints" in check.advice and "Free some space" in check.advice
    disk_with(monkeypatch, 15 * GB)
    checks = list(run_checks())
    assert row("disk here", checks).status == "ok"
    assert row("disk hub cache", checks).status == "warning"
    assert "HF_HOME" in row("disk hub cache", checks).advice


@pytest.mark.parametrize("distribution", [False, True])
def test_a_package_called_kernels_is_found_before_transformers_trips_over_it(
    sound, monkeypatch, tmp_path, distribution
):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    if distribution:  # Hugging Face's is installed too, elsewhere: ours would be imported for it
        elsewhere = tmp_path / "site"
        (elsewhere / "kernels-0.18.2.dist-info").mkdir(parents=True)
        (elsewhere / "kernels-0.18.2.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
        )
        monkeypatch.syspath_prepend(elsewhere)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    check = row("kernels name")
    assert check.status == ("error" if distribution else "warning")
    assert str(tmp_path / "kernels" / "__init__.py") in check.value and "PYTHONPATH" in check.advice


def test_hugging_faces_own_kernels_and_a_bare_folder_are_fine(sound, monkeypatch, tmp_path):
    (tmp_path / "kernels").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    assert row("kernels name").status == "ok"
    (tmp_path / "kernels" / "__init__.py").touch()
    (tmp_path / "kernels-0.18.2.dist-info").mkdir()
    (tmp_path / "kernels-0.18.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
    )
    importlib.invalidate_caches()
    assert row("kernels name") == Check(name="kernels name", status="ok", value="Hugging Face's kernels 0.18.2")


def test_a_token_is_told_of_and_never_shown(sound, monkeypatch):
    token = "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"
    monkeypatch.setenv("HF_TOKEN", token)

    def leaks(path):
        raise OSError(f"cannot ask https://user:{token}@example.test")

    monkeypatch.setattr(shutil, "disk_usage", leaks)
    checks = list(run_checks())
    assert row("hub token", checks) == Check(name="hub token", status="ok", value="yes")
    text = "\n".join([repr(checks), *(format_check(check) for check in checks)])
    assert "cannot ask" in text  # the message got through
    assert "secret" not in text.lower().replace("hf_***", "")


def test_a_check_that_fails_itself_is_a_row_and_the_rest_goes_on(sound, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: 1 / 0)
    checks = list(run_checks())
    failed = row("disk", checks)
    assert failed.status == "error" and "ZeroDivisionError" in failed.value
    names = {check.name for check in sound} - {"disk here", "disk hub cache"}
    assert names <= {check.name for check in checks}


def test_a_cpu_build_of_torch_beside_a_driver_is_an_error(sound, no_gpu, nvidia_smi):
    nvidia_smi(driver_version="580.95.05\\n", name="NVIDIA L4\\n")
    checks = list(run_checks())
    assert row("NVIDIA driver", checks).value == "580.95.05"
    assert row("CUDA runtime", checks).status == "error"
    assert "install torch with CUDA" in row("CUDA runtime", checks).advice
    assert row("GPU", checks).status == "error" and "NVIDIA L4" in row("GPU", checks).value


def test_a_gpu_that_works_has_a_driver_though_nobody_tells_its_version(gpu, monkeypatch):
    monkeypatch.setattr(gpu_checks, "_driver_version", lambda: "")
    check = row("NVIDIA driver")
    assert check.status == "ok" and check.value.startswith("unknown")


def test_a_gpu_is_described(gpu):
    check = row("GPU 0")
    assert check.status == "ok"
    assert check.value == ("Test GPU, compute capability 9.0, 140.0 of 150.0 GB free, bfloat16 yes")


def test_a_gpu_without_bfloat16_is_a_warning(gpu):
    gpu.capability, gpu.builds = (7, 5), ["sm_75", "sm_90"]
    check = row("GPU 0")
    assert check.status == "warning" and "bfloat16 no" in check.value and "float16" in check.advice


@pytest.mark.parametrize(
    ("capability", "builds", "covered"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 9), ["sm_80", "sm_90"], True),  # code for 8.0 runs on 8.9
        ((8, 0), ["sm_86"], False),  # but not the other way
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),  # compiled for it when loaded
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),  # `a` code runs on that one alone
        ((10, 0), ["sm_120"], False),
        ((9, 4), ["gfx942"], True),  # not NVIDIA's: no opinion
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_an_error(gpu, capability, builds, covered):
    gpu.capability, gpu.builds = capability, builds
    check = row("GPU 0")
    assert check.status == ("ok" if covered else "error")
    if not covered:
        assert f"sm_{capability[0]}{capability[1]}" in check.advice


def test_memory_held_by_others_is_a_warning_that_names_them(gpu, nvidia_smi):
    gpu.free = 60 * GB
    other = subprocess.Popen(["sleep", "600"])
    nvidia_smi(**{"compute-apps": f"{other.pid}, 81920\\n{2**22 + 1}, [N/A]\\n"})
    try:
        checks = list(run_checks())
    finally:
        other.kill()
        other.wait()
    assert row("GPU 0", checks).status == "warning" and "90.0 GB" in row("GPU 0", checks).advice
    held = row("GPU processes", checks)
    assert held.status == "warning"
    assert held.value.startswith(f"sleep (pid {other.pid}) 85.9 GB, a process not seen from here")
    assert held.value.endswith("unknown memory")


def test_own_memory_and_an_absent_tool_are_no_warning(gpu, nvidia_smi, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert row("GPU processes").status == "ok"
    nvidia_smi(**{"compute-apps": f"{os.getpid()}, 1000\\n"})
    assert row("GPU processes") == Check(name="GPU processes", status="ok", value="no others")


@pytest.fixture
def selftest(gpu, monkeypatch):
    """The kernels' self-test on that GPU, with the results that a test gives."""
    from evenfall.kernels import backend
    from evenfall.kernels import selftest as module

    monkeypatch.setattr(backend, "triton_runs_on", lambda device: True)

    def give(*results):
        monkeypatch.setattr(module, "run_selftest", lambda device: list(results))

    fields = ("op", "tensor", "dtype", "shape", "error", "eager_error", "passed", "problem")
    give.result = lambda *values: module.OpResult(**dict(zip(fields, values, strict=False)))  # pyright: ignore
    return give


def test_kernels_that_pass_are_named(selftest):
    good = selftest.result("swiglu", "out", "bfloat16", (3, 8), 1e-3, 1e-3, True)
    selftest(good)
    check = row("kernels")
    assert check.status == "ok" and "swiglu" in check.value


def test_a_kernel_that_fails_is_a_warning_with_its_numbers(selftest):
    good = selftest.result("swiglu", "out", "bfloat16", (3, 8), 1e-3, 1e-3, True)
    bad = selftest.result("rms_norm", "grad x", "float16", (123, 507), 0.25, 1e-3, False)
    selftest(good, bad)
    check = row("kernels")
    assert check.status == "warning" and check.value.startswith("1 of 2 ops fail; first rms_norm")
    assert "grad x" in check.value and "2.50e-01" in check.value and "stock speed" in check.advice
    selftest(selftest.result("swiglu", "out", "float16", (3, 8), math.inf, math.nan, False, "no ptxas"))
    assert "no ptxas" in row("kernels").value


def test_ssh_without_a_multiplexer_is_a_warning_that_says_how_to_come_back(sound, monkeypatch):
    for name in ("TMUX", "STY", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 5000 10.0.0.2 22")
    check = row("session")
    assert check.status == "warning" and "evenfall watch" in check.advice and "tmux" in check.advice
    monkeypatch.setenv("TMUX", "/tmp/tmux-0/default,1,0")
    assert row("session") == Check(name="session", status="ok", value="SSH, tmux")


@pytest.mark.parametrize(
    ("size", "env", "status", "advice"),
    [
        ((120, 40), {"TERM": "xterm-256color"}, "ok", ""),
        ((120, 40), {"TERM": "xterm", "COLORTERM": "truecolor"}, "ok", ""),
        ((79, 40), {"TERM": "xterm-256color"}, "warning", "80x24"),
        ((120, 23), {"TERM": "xterm-256color"}, "warning", "80x24"),
        ((120, 40), {"TERM": "linux"}, "warning", "TERM="),
    ],
)
def test_a_terminal_too_small_or_too_plain_is_a_warning(sound, monkeypatch, size, env, status, advice):
    stdout = SimpleNamespace(isatty=lambda: True, fileno=lambda: 1, encoding="utf-8")
    monkeypatch.delenv("COLORTERM", raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size(size))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        check = row("terminal")
    assert check.status == status and advice in check.advice
    assert f"{size[0]}x{size[1]}" in check.value


@pytest.mark.parametrize(
    ("status", "start"),
    [("ok", "✓ ok "), ("warning", "! warning "), ("error", "✗ error ")],
)
def test_a_line_has_a_glyph_and_a_word(status, start):
    line = format_check(Check(name="torch", status=status, value="2.4.0", advice="do this"))
    first, second = line.splitlines()
    assert first.startswith(start) and "torch" in first and first.endswith("2.4.0")
    assert second.strip() == "do this" and second.startswith(" ")
    assert "\n" not in format_check(Check(name="torch", status=status, value="2.4.0"))


def test_only_errors_make_the_exit_code(sound):
    good, odd = Check(name="a", status="ok", value=""), Check(name="b", status="warning", value="")
    assert exit_code([good, odd]) == 0
    assert exit_code([good, Check(name="c", status="error", value=""), odd]) == 1
