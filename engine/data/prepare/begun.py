"""Row processes that are begun before there is a tokenizer for them: they import what they stand on meanwhile.

Light: a command calls it before it imports anything heavy itself.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ...config.run_config import RunConfig
from ...machine.host import usable_cores

WORTH_A_PROCESS = 8_000_000
"""Bytes of rows that take longer to tokenise than a process to start."""
_MOST_PROCESSES = 8
_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",  # there are as many processes as cores
    "MALLOC_ARENA_MAX": "1",  # memory that is freed goes back
    "CUDA_VISIBLE_DEVICES": "",  # the GPU is the training's
}

_begun: list["subprocess.Popen[bytes]"] = []


def processes_for(size: float) -> int:
    """How many processes rows of so many bytes are worth."""
    return min(_MOST_PROCESSES, usable_cores()) if size > WORTH_A_PROCESS else 0


def begin_processes(config: RunConfig) -> None:
    """Begin those that the data of a configuration will want, where they are files; one core is the caller's own."""
    size = 0
    with contextlib.suppress(OSError, RuntimeError):  # who reads them says what is wrong with a path
        paths = [Path(source.path).expanduser() for source in config.data.sources]
        size = sum(path.stat().st_size for path in paths if path.is_file())
    _begun.extend(_start() for _ in range(processes_for(size) - 1))


def end_processes() -> None:
    """End those that nobody took."""
    while _begun:
        end(_begun.pop())


def are_begun() -> bool:
    """Whether one waits that nobody took."""
    return bool(_begun)


def take_process() -> "subprocess.Popen[bytes]":
    """One that waits for its tokenizer."""
    try:
        return _begun.pop()
    except IndexError:
        return _start()


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        with contextlib.suppress(OSError):  # what was not taken any more
            stream.close()


def _start() -> "subprocess.Popen[bytes]":
    command: Sequence[str] = [sys.executable, "-P", "-m", f"{__name__.rpartition('.')[0]}.row_process"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **_ENVIRONMENT},
        start_new_session=True,  # Ctrl-C is for the parent
    )
