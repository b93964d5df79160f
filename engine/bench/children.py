"""Starts a stack's process, hears it out, and leaves nothing of it behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from .work import StackFailure, Work, write_work

_PRINTED = "printed.txt"
_LAST_LINES = 15

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "TOKENIZERS_PARALLELISM": "false",
    "UNSLOTH_DISABLE_STATISTICS": "1", "UNSLOTH_MEGA_CACHE": "0",
}  # fmt: skip
"""Every model and row is on disk: nothing is to be fetched, and nothing to be told to anybody."""


def command(stack: str, work_file: Path, started: float) -> list[str]:
    # -P: modules are not looked for in the folder that the user is in.
    module = f"{__package__}.child"
    return [sys.executable, "-P", "-m", module, stack, str(work_file), repr(started)]


def run_child(stack: str, work: Work, folder: Path, tell: Callable[[str], None]) -> dict[str, Any] | StackFailure:
    """What a stack's process sent at its end (a StackResult, as plain values), or what became of it.

    Whatever happens here, Ctrl-C included, the process and those that it started are ended.
    """
    own = _own_folder(stack, folder)
    own.mkdir()
    write_work(work, own / "work.json")
    environment = os.environ | _ENVIRONMENT
    if stack.startswith("unsloth"):
        environment["UNSLOTH_COMPILE_LOCATION"] = str(own / "compiled")
        environment.setdefault("CUDA_VISIBLE_DEVICES", "0")
    with open(own / _PRINTED, "wb") as printed:
        process = subprocess.Popen(
            command(stack, own / "work.json", time.time()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=environment,
            start_new_session=True,  # so that it has a process group of its own
        )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            message = orjson.loads(line)
            if "result" in message:
                return message["result"]
            tell(f"{stack}: {message['progress']}")
        code = process.wait()
    finally:
        _end(process)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return StackFailure(stack, f"its process {how}", printed_lines(stack, folder)[-_LAST_LINES:])


def printed_lines(stack: str, folder: Path) -> list[str]:
    """What a stack and its libraries printed, less empty lines."""
    text = (_own_folder(stack, folder) / _PRINTED).read_text(encoding="utf-8", errors="replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _own_folder(stack: str, folder: Path) -> Path:
    return folder / stack.replace(":", "-")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process's group: workers of compilers and data loaders are in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
