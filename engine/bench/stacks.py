"""The stacks that can be compared, and what each one's process measures with. Light: no torch at the top."""

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .work import BenchError


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack by its name on the command line."""

    name: str
    modules: tuple[str, ...] = ()
    """What must be installed for it."""
    install: str = ""
    warmup: int = 0
    """Steps that it takes to reach its speed."""
    banner: str = ""
    """What the lines hold in which it says how it is set up."""

    def missing(self) -> str | None:
        """Why it cannot run here, with the fix; None when it can."""
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed: {self.install}"
        return None


STACKS = {
    stack.name: stack
    for stack in (
        Stack(name="evenfall"),
        Stack(name="trl", modules=("trl",), install="pip install trl"),
        Stack(name="liger", modules=("trl", "liger_kernel"), install="pip install trl liger-kernel"),
        # Its blocks are compiled during the first steps, some of them more than once.
        *(
            Stack(
                name=name,
                modules=("unsloth",),
                install="pip install unsloth",
                warmup=20,
                banner=r"Xformers|patched \d+ layers|compiling each",
            )
            for name in ("unsloth", "unsloth:default")
        ),
    )
}
RIVALS = tuple(name for name in STACKS if name != "evenfall")


def parse_against(text: str) -> tuple[str, ...]:
    """`trl,unsloth` as names, each once, trl first: it is what the others' losses are compared with.

    Raises:
        BenchError: a name is no stack's.
    """
    names = dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip())
    for name in names:
        if name not in RIVALS:
            raise BenchError(f"--against {name}: there is {', '.join(RIVALS)}")
    return tuple(sorted(names, key=lambda name: name != "trl"))


class Clock:
    """How long a stack's process took for what, and its way to say what it is at."""

    def __init__(self, started: float, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._mark = started
        self._seconds: dict[str, float] = {}

    def done(self, phase: str) -> None:
        """`import`, `load` or `first_step` is over. Only the first time counts."""
        if phase not in self._seconds:
            now = time.time()
            self._seconds[phase], self._mark = now - self._mark, now

    def step(self, step: int, last: int, loss: float) -> None:
        """A step is over."""
        self.done("first_step")
        self.tell(f"step {step}/{last}  loss {loss:.4f}")

    def seconds(self) -> dict[str, Any]:
        """The fields of a StackResult."""
        return {f"{phase}_seconds": seconds for phase, seconds in self._seconds.items()}


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that this process has used, in GB of 1e9 bytes."""

    peak_gb: float
    """Allocated on the GPU; without one, resident."""
    reserved_gb: float | None

    @classmethod
    def read(cls) -> "PeakMemory":
        import torch

        from ..machine.memory import read_memory

        if torch.cuda.is_available():
            reserved = torch.cuda.max_memory_reserved() / 1e9
            return cls(torch.cuda.max_memory_allocated() / 1e9, reserved)
        return cls(read_memory(torch.device("cpu")).peak_gb, None)


def installed_versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
