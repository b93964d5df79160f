"""Python, the platform, and the libraries that training stands on, with the versions that are too old."""

import importlib
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .fact import Check, judge, one_line, release, version_of


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


def check_python() -> Iterator[Check]:
    yield judge(
        sys.version_info >= (3, 11),
        Check(
            "python",
            "error",
            f"{platform.python_version()} at {sys.executable}",
            "Evenfall needs Python 3.11 or newer: make a new environment with it.",
        ),
    )


def check_platform() -> Iterator[Check]:
    yield judge(
        sys.platform == "linux",
        Check(
            "platform",
            "warning",
            f"{platform.platform()}, {os.cpu_count()} CPUs",
            "Triton kernels and GPU training need Linux (WSL 2 counts).",
        ),
    )


def check_evenfall() -> Iterator[Check]:
    yield Check("evenfall", "ok", version_of("evenfall") or "run from a checkout, not installed")


def check_libraries() -> Iterator[Check]:
    # On a CPU it tells of a faster kernel that nothing here uses.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for library in LIBRARIES:
        yield _library(library)


def _library(library: Library) -> Check:
    name, minimum = library.name, library.minimum
    version = version_of(name)
    if version is None:
        if library.optional:
            return Check(name, "ok", "not installed (optional)")
        return Check(name, "error", "not installed", f'pip install "{name}>={minimum}"')
    if release(version) < release(minimum):
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
                f"{version} is installed but cannot be imported: {one_line(error)}",
                f'pip install --force-reinstall "{name}>={minimum}", and see the row `kernels name`.',
            )
    return Check(name, "ok", version)


def kernels_name() -> Iterator[Check]:
    """Hugging Face's `kernels`, or something else of that name that transformers would take for it."""
    name = "kernels name"
    spec = importlib.util.find_spec("kernels")
    if spec is None or spec.origin is None:  # a bare folder, such as ours: libraries pass it over
        yield Check(name, "ok", "nothing else is called `kernels`")
        return
    found = Path(spec.origin).resolve()
    version = version_of("kernels")
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
