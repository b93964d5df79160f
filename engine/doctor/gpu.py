"""The GPUs as torch and the driver's own tool see them: driver, memory, and who else holds some."""

import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from .fact import Check, judge

MIB = 2**20 / 1e9  # nvidia-smi counts in MiB, we in GB of 10^9 bytes


def check_cuda() -> Iterator[Check]:
    import torch

    runtime, driver = torch.version.cuda, _driver_version()
    yield judge(
        bool(runtime) or not driver,
        Check(
            name="CUDA runtime",
            status="error",
            value=f"{runtime} (in torch)" if runtime else "none: torch is a CPU build",
            advice="This machine has an NVIDIA driver: install torch with CUDA (see pytorch.org).",
        ),
    )
    found = bool(driver) or torch.cuda.is_available()
    yield judge(
        found,
        Check(
            name="NVIDIA driver",
            status="warning",
            value=driver or ("unknown: nvidia-smi is not here" if found else "none found"),
            advice="An NVIDIA GPU needs one; without a GPU there is nothing to do.",
        ),
    )


def check_gpus() -> Iterator[Check]:
    import torch

    from ..machine.device import why_no_cuda

    if not torch.cuda.is_available():
        reason = why_no_cuda()
        present = [row[0] for row in _nvidia_smi("--query-gpu=name") or []]
        if present:
            yield Check(
                name="GPU",
                status="error",
                value=f"{', '.join(present)} is here, but {reason}",
                advice="Install a torch whose CUDA the driver supports, or update the driver; check "
                "CUDA_VISIBLE_DEVICES.",
            )
        else:
            yield Check(
                name="GPU",
                status="warning",
                value=f"none ({reason})",
                advice="The demo trains on the CPU. Real models need an NVIDIA GPU.",
            )
        return
    for index in range(torch.cuda.device_count()):
        yield _gpu(index)
    yield _gpu_processes()


def _gpu(index: int) -> Check:
    import torch

    device = torch.device("cuda", index)
    major, minor = torch.cuda.get_device_capability(device)
    free, total = torch.cuda.mem_get_info(device)
    others = total - free - torch.cuda.memory_reserved(device)
    bf16 = major >= 8
    value = (
        f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}, "
        f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free, bfloat16 {'yes' if bf16 else 'no'}"
    )
    builds = torch.cuda.get_arch_list()
    status, advice = "ok", ""
    if builds and not _has_code_for(builds, major, minor):
        status = "error"
        advice = (
            f"torch {torch.__version__} has no code for sm_{major}{minor} (it has "
            f"{', '.join(builds)}): install a build for a CUDA that knows this GPU."
        )
    elif not bf16:
        status = "warning"
        advice = (
            "Older than Ampere: it computes in float16, and Triton does not promise to support it. "
            "Parts whose kernel fails its test run at stock speed."
        )
    elif others > max(2e9, 0.1 * total):  # contexts and displays hold some; this is a program's work
        status = "warning"
        advice = (
            f"{others / 1e9:.1f} GB is held outside this process: see `GPU processes`. Where that "
            "lists none, it is a process that this container cannot see."
        )
    return Check(name=f"GPU {index}", status=status, value=value, advice=advice)


def _gpu_processes() -> Check:
    name = "GPU processes"
    rows = _nvidia_smi("--query-compute-apps=pid,used_memory")
    if rows is None:
        return Check(name=name, status="ok", value="unknown: nvidia-smi is not here")
    held = []
    for pid, used in rows:
        if pid != str(os.getpid()):
            size = f"{int(used) * MIB:.1f} GB" if used.isdigit() else "unknown memory"
            held.append(f"{_program(int(pid))} (pid {pid}) {size}")
    if not held:
        return Check(name=name, status="ok", value="no others")
    advice = "They share the GPU's memory and time: end those that you know."
    return Check(name=name, status="warning", value=", ".join(held), advice=advice)


def _program(pid: int) -> str:
    """The name of a process's program, where it is seen from here: a container sees its own alone."""
    import psutil

    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "a process not seen from here"


def _has_code_for(builds: Iterable[str], major: int, minor: int) -> bool:
    """Whether a list such as `sm_80 sm_90a compute_120` covers a capability.

    Machine code runs on its own major version from its minor on (the `a` kind on that minor alone);
    `compute` code is compiled for anything newer.
    """
    for build in builds:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", build)
        if match is None:
            return True  # another vendor's names, of which we know nothing
        kind, has, kept = match[1], (int(match[2]), int(match[3])), match[4] == "a"
        if kind == "compute":
            fits = (major, minor) >= has
        else:
            fits = major == has[0] and (minor == has[1] if kept else minor >= has[1])
        if fits:
            return True
    return False


def _nvidia_smi(query: str) -> list[list[str]] | None:
    """Rows of an nvidia-smi query, or None where the tool is absent or cannot answer."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = (line.split(",") for line in answer.stdout.splitlines() if line.strip())
    return [[cell.strip() for cell in line] for line in lines]


def _driver_version() -> str:
    """Of the NVIDIA driver, from its tool or from the kernel module; empty where there is none."""
    rows = _nvidia_smi("--query-gpu=driver_version")
    if rows:
        return rows[0][0]
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:  # no such module
        return ""
    match = re.search(r"\d+\.\d+(\.\d+)?", text)
    return match.group() if match else ""
