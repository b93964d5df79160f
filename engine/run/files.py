"""Files and folders that others read appear whole or not at all: written beside their place, synced, then renamed."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, never part of it."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(scratch, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A scratch folder that becomes `path`, whole and synced, when the block ends well.

    An existing folder at `path` is replaced; when the block raises, it stays and the scratch goes. The folder that it
    is in must be there: were it made, a run whose folder was moved would go on into another one.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    scratch.mkdir()
    try:
        yield scratch
        for file in scratch.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        sync_folder(scratch)
        if path.exists():
            stale = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
            os.replace(path, stale)
            os.replace(scratch, path)
            shutil.rmtree(stale)
        else:
            os.replace(scratch, path)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    sync_folder(path.parent)


def clear_scratch(folder: Path) -> None:
    """Remove what write_atomic and atomic_folder left in a folder when their process was killed."""
    for scratch in folder.glob(".*"):
        made = _SCRATCH.fullmatch(scratch.name)
        if not made:
            continue
        place = folder / made["name"]
        if made["old"] and not place.exists():  # killed between its two renames
            os.replace(scratch, place)
        elif scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            scratch.unlink(missing_ok=True)


_SCRATCH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(?P<old>\.old)?")
