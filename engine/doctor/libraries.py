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


@dataclass(frozen=True, kw_only=True)
class Library:
    """A library and the oldest version known to work; `module` is imported to see that it does."""

    name: str
    minimum: str
    module: str = ""
    optional: bool = False


LIBRARIES = (
    Library(name="torch", minimum="2.11", module="torch"),
    Library(name="triton", minimum="3.6", optional=True),
    # A part that needs torch and everything else transformers leans on; its top imports lazily.
    Library(name="transformers", minimum="5.17", module="transformers.modeling_utils"),
    Library(name="peft", minimum="0.21", module="peft"),
    Library(name="bitsandbytes", minimum="0.50"),
    Library(name="datasets", minimum="4.8"),
    Library(name="textual", minimum="8.2"),
    Library(name="trl", minimum="1.15"),
)


def check_python() -> Iterator[Check]:
    yield judge(
        sys.version_info >= (3, 11),
        Check(
            name="python",
            status="error",
            value=f"{platform.python_version()} at {sys.executable}",
            advice="Evenfall needs Python 3.11 or newer: make a new environment with it.",
        ),
    )


def check_platform() -> Iterator[Check]:
    yield judge(
        sys.platform == "linux",
        Check(
            name="platform",
            status="warning",
            value=f"{platform.platform()}, {os.cpu_count()} CPUs",
            advice="Triton kernels and GPU training need Linux (WSL 2 counts).",
        ),
    )


def check_evenfall() -> Iterator[Check]:
    yield Check(
        name="evenfall",
        status="ok",
        value=version_of("evenfall") or "run from a checkout, not installed",
    )


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
            return Check(name=name, status="ok", value="not installed (optional)")
        return Check(
            name=name,
            status="error",
            value="not installed",
            advice=f'pip install "{name}>={minimum}"',
        )
    if release(version) < release(minimum):
        return Check(
            name=name,
            status="error",
            value=f"{version}, needs {minimum}",
            advice=f'pip install -U "{name}>={minimum}"',
        )
    if library.module:
        try:
            importlib.import_module(library.module)
        # A mismatched build fails in its own way: OSError, NameError, SyntaxError, ...
        except Exception as error:  # noqa: BLE001
            return Check(
                name=name,
                status="error",
                value=f"{version} is installed but cannot be imported: {one_line(error)}",
                advice=f'pip install --force-reinstall "{name}>={minimum}", and see the row `kernels name`.',
            )
    return Check(name=name, status="ok", value=version)


def kernels_name() -> Iterator[Check]:
    """Hugging Face's `kernels`, or something else of that name that transformers would take for it."""
    name = "kernels name"
    spec = importlib.util.find_spec("kernels")
    if spec is None or spec.origin is None:  # a bare folder, such as ours: libraries pass it over
        yield Check(name=name, status="ok", value="nothing else is called `kernels`")
        return
    found = Path(spec.origin).resolve()
    version = version_of("kernels")
    if version is not None:
        installed = Path(str(metadata.distribution("kernels").locate_file("kernels"))).resolve()
        if found.is_relative_to(installed):
            yield Check(name=name, status="ok", value=f"Hugging Face's kernels {version}")
            return
    yield Check(
        name=name,
        status="warning" if version is None else "error",
        value=f"{found} hides Hugging Face's package `kernels`, which transformers imports",
        advice="Start Python elsewhere, take that folder off PYTHONPATH, or rename it.",
    )
