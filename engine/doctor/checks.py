"""`evenfall doctor`: what this machine has, what is wrong with it, and what to do about it.

Each check looks at one thing and tells one fact; a fact that would cost somebody a night (too old a
library, a GPU that torch has no code for, a 4-bit format that does not decode, a full disk) comes
with the fix. The cheap checks come first and results are yielded as they are found, since importing
transformers and compiling kernels take seconds.

The checks run on broken machines by design, so this module imports nothing heavy at its top, and no
failure of one check stops the next.
"""

import importlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warning", "error"]
MIB = 2**20 / 1e9  # nvidia-smi counts in MiB, we in GB of 10^9 bytes


@dataclass(frozen=True)
class Check:
    """One fact about the machine. `advice` is what to do about it; empty where there is nothing."""

    name: str
    status: Status
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Library:
    """A library and the oldest version known to work; `module` is imported to see that it does."""

    name: str
    minimum: str
    module: str = ""
    optional: bool = False


LIBRARIES = (
    Library("torch", "2.11", "torch"),
    Library("triton", "3.6", optional=True),
    # A part that needs torch and everything else transformers leans on; its top imports lazily.
    Library("transformers", "5.17", "transformers.modeling_utils"),
    Library("peft", "0.21", "peft"),
    Library("bitsandbytes", "0.50"),
    Library("datasets", "4.8"),
    Library("textual", "8.2"),
    Library("trl", "1.15"),
)

NF4_ERROR = 0.12
"""Relative error allowed to a block of normal weights in NF4 with double quantisation; 0.09 is usual."""


def run_checks() -> Iterator[Check]:
    """Every check, one after the other; needs no GPU, never raises."""
    for name, check in _CHECKS:
        try:
            yield from check()
        # Broken drivers and half-installed libraries raise anything at all, and telling of them is
        # what this command is for. Ctrl-C still ends it.
        except Exception as error:  # noqa: BLE001
            yield Check(
                name, "error", _one_line(error), "This check failed itself: see the message."
            )


def exit_code(checks: Iterable[Check]) -> int:
    """1 where any check is an error, else 0: a warning still lets a run work."""
    return int(any(check.status == "error" for check in checks))


def format_check(check: Check) -> str:
    """Plain text, no colour: glyph, word, name and value; the advice indented on the next line."""
    glyph = {"ok": "✓", "warning": "!", "error": "✗"}[check.status]
    line = f"{glyph} {check.status:<7}  {check.name:<16} {check.value}".rstrip()
    return f"{line}\n{'':11}{check.advice}" if check.advice else line


def _python() -> Iterator[Check]:
    yield _judge(
        sys.version_info >= (3, 11),
        Check(
            "python",
            "error",
            f"{platform.python_version()} at {sys.executable}",
            "Evenfall needs Python 3.11 or newer: make a new environment with it.",
        ),
    )


def _platform() -> Iterator[Check]:
    yield _judge(
        sys.platform == "linux",
        Check(
            "platform",
            "warning",
            f"{platform.platform()}, {os.cpu_count()} CPUs",
            "Triton kernels and GPU training need Linux (WSL 2 counts).",
        ),
    )


def _evenfall() -> Iterator[Check]:
    yield Check("evenfall", "ok", _version_of("evenfall") or "run from a checkout, not installed")


def _libraries() -> Iterator[Check]:
    # On a CPU it tells of a faster kernel that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for library in LIBRARIES:
        yield _library(library)


def _library(library: Library) -> Check:
    name, minimum = library.name, library.minimum
    version = _version_of(name)
    if version is None:
        if library.optional:
            return Check(name, "ok", "not installed (optional)")
        return Check(name, "error", "not installed", f'pip install "{name}>={minimum}"')
    if _release(version) < _release(minimum):
        return Check(
            name, "error", f"{version}, needs {minimum}", f'pip install -U "{name}>={minimum}"'
        )
    if library.module:
        try:
            importlib.import_module(library.module)
        # A mismatched build fails in its own way: OSError, NameError, SyntaxError, ...
        except Exception as error:  # noqa: BLE001
            return Check(
                name,
                "error",
                f"{version} is installed but cannot be imported: {_one_line(error)}",
                f'pip install --force-reinstall "{name}>={minimum}", and see the row `kernels name`.',
            )
    return Check(name, "ok", version)


def _kernels_name() -> Iterator[Check]:
    """Hugging Face's `kernels`, or something else of that name that transformers would take for it."""
    name = "kernels name"
    spec = importlib.util.find_spec("kernels")
    if spec is None or spec.origin is None:  # a bare folder, such as ours: libraries pass it over
        yield Check(name, "ok", "nothing else is called `kernels`")
        return
    found = Path(spec.origin).resolve()
    version = _version_of("kernels")
    if version is not None:
        installed = Path(str(metadata.distribution("kernels").locate_file("kernels"))).resolve()
        if found.is_relative_to(installed):
            yield Check(name, "ok", f"Hugging Face's kernels {version}")
            return
    yield Check(
        name,
        "warning" if version is None else "error",
        f"{found} hides Hugging Face's package `kernels`, which transformers imports",
        "Start Python elsewhere, take that folder off PYTHONPATH, or rename it.",
    )


def _cuda() -> Iterator[Check]:
    import torch

    runtime, driver = torch.version.cuda, _driver_version()
    yield _judge(
        bool(runtime) or not driver,
        Check(
            "CUDA runtime",
            "error",
            f"{runtime} (in torch)" if runtime else "none: torch is a CPU build",
            "This machine has an NVIDIA driver: install torch with CUDA (see pytorch.org).",
        ),
    )
    yield Check("NVIDIA driver", "ok", driver or "none found")


def _gpus() -> Iterator[Check]:
    import torch

    from ..machine.device import why_no_cuda

    if not torch.cuda.is_available():
        reason = why_no_cuda()
        present = [row[0] for row in _nvidia_smi("--query-gpu=name") or []]
        if present:
            yield Check(
                "GPU",
                "error",
                f"{', '.join(present)} is here, but {reason}",
                "Install a torch whose CUDA the driver supports, or update the driver; check "
                "CUDA_VISIBLE_DEVICES.",
            )
        else:
            yield Check(
                "GPU",
                "warning",
                f"none ({reason})",
                "The demo trains on the CPU. Real models need an NVIDIA GPU.",
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
    elif others > max(
        2e9, 0.1 * total
    ):  # contexts and displays hold some; this is a program's work
        status = "warning"
        advice = (
            f"{others / 1e9:.1f} GB is held outside this process: see `GPU processes`. Where that "
            "lists none, it is a process that this container cannot see."
        )
    return Check(f"GPU {index}", status, value, advice)


def _gpu_processes() -> Check:
    name = "GPU processes"
    rows = _nvidia_smi("--query-compute-apps=pid,process_name,used_memory")
    if rows is None:
        return Check(name, "ok", "unknown: nvidia-smi is not here")
    held = []
    for row in rows:
        pid, *program, used = row  # a program's name may hold commas
        if pid != str(os.getpid()):
            size = f"{int(used) * MIB:.1f} GB" if used.isdigit() else "unknown memory"
            held.append(f"{','.join(program)} (pid {pid}) {size}")
    if not held:
        return Check(name, "ok", "no others")
    advice = "They share the GPU's memory and time: end those that you know."
    return Check(name, "warning", ", ".join(held), advice)


def _nf4() -> Iterator[Check]:
    import torch
    from bitsandbytes import functional

    from ..machine.device import describe_device, pick_device

    device = pick_device("auto")
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)).to(device)
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, quant_type="nf4", compress_statistics=True
    )
    back = functional.dequantize_4bit(packed, state).float()
    error = float((back - weight).norm() / weight.norm())
    yield _judge(
        error < NF4_ERROR,  # also false for nan
        Check(
            "NF4",
            "error",
            f"quantised and back on {describe_device(device)}: relative error {error:.3f}",
            f"Expected under {NF4_ERROR}: reinstall bitsandbytes, or train with "
            "model.quantization=none.",
        ),
    )


def _kernels() -> Iterator[Check]:
    from ...kernels.backend import triton_runs_on
    from ..machine.device import pick_device

    name = "kernels"
    device = pick_device("auto")
    if device.type != "cuda":
        yield Check(name, "ok", "reference path, no GPU")
        return
    if not triton_runs_on(device):
        yield Check(
            name,
            "warning",
            "reference path: triton is not installed",
            'Every part runs at stock speed. pip install "triton>=3.6"',
        )
        return
    from ...kernels.selftest import run_selftest

    results = run_selftest(device)
    ops = list(dict.fromkeys(result.op for result in results))
    failed = [result for result in results if not result.passed]
    if not failed:
        yield Check(name, "ok", f"{len(ops)} ops as exact as eager: {', '.join(ops)}")
        return
    worst = failed[0]
    yield Check(
        name,
        "warning",
        f"{len({result.op for result in failed})} of {len(ops)} ops fail; first {worst.op} "
        f"{worst.tensor}, {worst.dtype}, {worst.shape}: "
        + (
            _one_line(worst.problem)
            if worst.problem
            else f"error {worst.error:.2e}, eager {worst.eager_error:.2e}"
        ),
        "These parts run at stock speed, so results stay right. Please report this line.",
    )


def _memory() -> Iterator[Check]:
    from ..machine.device import host_memory_available, host_memory_limit

    free, total = host_memory_available() / 1e9, host_memory_limit() / 1e9
    yield _judge(
        free >= 8,
        Check(
            "memory",
            "warning",
            f"{free:.1f} of {total:.1f} GB free",
            "Loading reads one weight file at a time, often 5 GB: close other programs.",
        ),
    )


def _disk() -> Iterator[Check]:
    from huggingface_hub import constants

    yield _room("disk here", Path.cwd(), 10, "Checkpoints and exports of runs are written here.")
    yield _room(
        "disk hub cache",
        Path(constants.HF_HUB_CACHE),
        20,
        "Models are downloaded there (an 8B model is 16 GB). Set HF_HOME to a larger disk.",
    )


def _room(name: str, folder: Path, wanted_gb: float, advice: str) -> Check:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    value = f"{free:.1f} GB free at {folder}"
    if not os.access(there, os.W_OK):
        return Check(
            name, "error", f"{value}, not writable", f"{advice} Use a folder you may write."
        )
    if free < 1:
        return Check(name, "error", value, f"{advice} Free some space first.")
    return _judge(
        free >= wanted_gb,
        Check(name, "warning", value, f"{advice} Less than {wanted_gb} GB is soon full."),
    )


def _hub_token() -> Iterator[Check]:
    """Says whether there is a token, and nothing else about it."""
    from huggingface_hub import get_token

    advice = "Gated models (Llama, Gemma) need one: run `hf auth login`, or set HF_TOKEN."
    found = bool(get_token())
    yield Check("hub token", "ok", "yes" if found else "no", "" if found else advice)


def _session() -> Iterator[Check]:
    env = os.environ
    inside = "tmux" if env.get("TMUX") else "screen" if env.get("STY") else ""
    remote = bool(env.get("SSH_CONNECTION") or env.get("SSH_TTY"))
    value = ", ".join(filter(None, ["SSH" if remote else "local", inside]))
    yield _judge(
        not remote or bool(inside),
        Check(
            "session",
            "warning",
            value,
            "If the link drops, training goes on but these screens end: `evenfall watch` shows them "
            "again. Start in tmux to keep them.",
        ),
    )


def _terminal() -> Iterator[Check]:
    name = "terminal"
    if not sys.stdout.isatty():
        yield Check(name, "ok", "none (output goes to a file or pipe)")
        return
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    kind = os.environ.get("TERM", "")
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        colours = "16 million colours"
    elif "256" in kind:
        colours = "256 colours"
    else:
        colours = "16 colours or fewer"
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    advice = []
    if columns < 80 or rows < 24:
        advice.append("The screens need 80x24: enlarge the window.")
    if colours == "16 colours or fewer":
        advice.append("Set TERM=xterm-256color (tmux: tmux-256color) where the terminal can do it.")
    if encoding != "utf8":
        advice.append("Glyphs and plots need UTF-8: set LANG=C.UTF-8.")
    value = f"{columns}x{rows}, {colours}, TERM={kind or 'not set'}, {sys.stdout.encoding}"
    yield Check(name, "warning" if advice else "ok", value, " ".join(advice))


_CHECKS: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
    ("python", _python),
    ("platform", _platform),
    ("evenfall", _evenfall),
    ("session", _session),
    ("terminal", _terminal),
    ("kernels name", _kernels_name),
    ("libraries", _libraries),
    ("memory", _memory),
    ("disk", _disk),
    ("hub token", _hub_token),
    ("CUDA", _cuda),
    ("GPU", _gpus),
    ("NF4", _nf4),
    ("kernels", _kernels),
)


def _judge(good: bool, otherwise: Check) -> Check:
    """The check as it stands, or, where all is well, the same value as ok and without advice."""
    return Check(otherwise.name, "ok", otherwise.value) if good else otherwise


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0): enough to compare with a minimum."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


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


def _one_line(error: BaseException | str) -> str:
    """The first line of a message, short, and without anything that looks like a hub token."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    line = (text.strip().splitlines() or ["no message"])[0][:200]
    return re.sub(r"hf_\w{16,}", "hf_***", line)
