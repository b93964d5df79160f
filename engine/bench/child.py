"""One stack's process: ``python -m evenfall.engine.bench.child STACK WORK_FILE STARTED``.

Says on stdout, as lines of JSON, what it is at and at the end what it measured. Libraries print too, so before
any of them is imported their stdout is made stderr, which the parent keeps in a file. The process ends when
its parent does: it holds the other end of stdin.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any

import orjson

from .shapes import SHAPES
from .stacks import Clock
from .work import StackResult, Work, read_work


def main(stack: str, work_file: Path, started: float) -> None:
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(**message: Any) -> None:
        channel.write(orjson.dumps(message) + b"\n")
        channel.flush()

    work = read_work(work_file)
    clock = Clock(started, lambda text: send(progress=text))
    send(result=_do(stack, work, clock, work_file.parent))


def _do(stack: str, work: Work, clock: Clock, folder: Path) -> StackResult | dict[str, Any]:
    """A stack's measurements; for `model`, which makes the random model, nothing."""
    if stack == "model":
        import torch

        from .model import write_model

        write_model(SHAPES[work.shape], Path(work.model), torch.device(work.device), clock.tell)
        return {}
    if stack == "evenfall":
        from . import stack_evenfall

        return stack_evenfall.run(work, clock, folder)
    from . import stack_trainer

    return stack_trainer.run(stack, work, clock, folder)


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
