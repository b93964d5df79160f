"""`evenfall doctor`: what this machine has, what is wrong with it, and what to do about it.

Each check looks at one thing and tells one fact; a fact that would cost somebody a night (too old a
library, a GPU that torch has no code for, a 4-bit format that does not decode, a full disk) comes
with the fix. The cheap checks come first and results are yielded as they are found, since importing
transformers and compiling kernels take seconds.

The checks run on broken machines by design, so this module imports nothing heavy at its top, and no
failure of one check stops the next.
"""

from collections.abc import Callable, Iterator

from .fact import Check, one_line
from .gpu import check_cuda, check_gpus
from .kernels import check_kernels, check_nf4
from .libraries import check_evenfall, check_libraries, check_platform, check_python, kernels_name
from .place import check_disk, check_hub_token, check_memory, check_session, check_terminal


def run_checks() -> Iterator[Check]:
    """Every check, one after the other; needs no GPU, never raises."""
    for name, check in _CHECKS:
        try:
            yield from check()
        # Broken drivers and half-installed libraries raise anything at all, and telling of them is
        # what this command is for. Ctrl-C still ends it.
        except Exception as error:  # noqa: BLE001
            yield Check(
                name=name,
                status="error",
                value=one_line(error),
                advice="This check failed itself: see the message.",
            )


_CHECKS: tuple[tuple[str, Callable[[], Iterator[Check]]], ...] = (
    ("python", check_python),
    ("platform", check_platform),
    ("evenfall", check_evenfall),
    ("session", check_session),
    ("terminal", check_terminal),
    ("kernels name", kernels_name),
    ("libraries", check_libraries),
    ("memory", check_memory),
    ("disk", check_disk),
    ("hub token", check_hub_token),
    ("CUDA", check_cuda),
    ("GPU", check_gpus),
    ("NF4", check_nf4),
    ("kernels", check_kernels),
)
