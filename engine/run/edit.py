"""What is done with whole runs: deleted, renamed, given a note.

A run is deleted in two steps: its folder gets a hidden name beside the old one, which nothing lists, and is then
emptied. So it is there whole or it is gone, also where its files cannot be removed or the process is killed between the
two; what was left then goes with the next deletion. Links are removed and never followed. Whoever trains or exports a
run holds a lock of it, which is taken first: such a run is left alone.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..config.run_config import ConfigError, parse_config
from ..config.yaml12 import dump_yaml, load_yaml
from .directory import NOTE_LIMIT, RunDirectory, RunError
from .files import write_atomic

_DELETED = re.compile(r"\..+\.[0-9a-f]{8}\.deleted")


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """What goes with a run, beside its record."""

    checkpoints: tuple[int, ...]
    adapter: bool
    exports: tuple[str, ...]
    links: tuple[str, ...]
    """Names in its folder that are links: what they point to stays."""
    link_to: str | None
    """Where the folder points to, if it is itself a link: then the link goes and nothing else."""


def read_contents(run: RunDirectory) -> RunContents:
    """Look at what deleting a run would remove; what cannot be read is left out."""
    links: list[str] = []
    exports: list[str] = []
    link_to = None
    with contextlib.suppress(OSError):
        link_to = os.readlink(run.path) if run.path.is_symlink() else None
    for folder in (run.path, run.path / "checkpoints", run.exports):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
            if folder == run.exports:
                exports = sorted(entry.name for entry in found)
            if not (folder != run.path and folder.is_symlink()):
                links += [os.path.relpath(entry.path, run.path) for entry in found if entry.is_symlink()]
    return RunContents(
        checkpoints=tuple(run.checkpoints()),
        adapter=run.adapter.is_dir(),
        exports=tuple(exports),
        links=tuple(sorted(links)),
        link_to=link_to,
    )


def delete_run(run: RunDirectory) -> None:
    """Remove a run and all that it holds; of a folder that is a link, the link.

    Raises:
        RunError: the run is being trained or exported, or cannot be removed; where it was removed in part, it is no
            longer listed and the error names what is left.
    """
    if run.path.is_symlink():
        _refuse_live(run)
        with _told(f"{run.path}: the link cannot be removed"):
            run.path.unlink()
        return
    with _held(run):
        hidden = run.path.with_name(f".{run.name[:64]}.{secrets.token_hex(4)}.deleted")
        with _told(f"{run.path}: cannot be deleted, all of it is still there"):
            _hide(run.path, hidden)
        left = _remove(hidden)
    _remove_leftovers(run.path.parent, besides=hidden)
    if left is not None:
        raise RunError(
            f"{run.name}: is deleted, but not all of its files could be removed: {_reason(left)}",
            f"what is left is in {hidden}: mend its permissions, and the next deletion removes it",
        )


def check_name(run: RunDirectory, name: str) -> None:
    """Whether a run can be called so.

    Raises:
        RunError: the name is not one that `config.name` takes, or another run has it.
    """
    try:
        parse_config({"name": name})
    except ConfigError:
        raise RunError(
            "a run's name is 1 to 64 letters, digits, `.`, `_` and `-`, and begins with none of `.-`"
        ) from None
    if name != run.name and os.path.lexists(run.path.with_name(name)):
        raise _taken(run.path.with_name(name))


def rename_run(run: RunDirectory, name: str) -> RunDirectory:
    """Give a run's folder, and `name` in its run.yaml, another name.

    Returns:
        The run where it is now.

    Raises:
        RunError: the name cannot be used, the run is being trained or exported, or its files cannot be changed: then
            it keeps the name that it had.
    """
    check_name(run, name)
    if name == run.name:
        return run
    moved = RunDirectory(run.path.with_name(name))
    with _held(run), _told(f"{run.path}: cannot be renamed"):
        renamed = _with_name(run.config_file, name)
        _move(run.path, moved.path)
        try:
            write_atomic(moved.config_file, renamed)
        except OSError:
            os.rename(moved.path, run.path)
            raise
    return moved


def set_note(run: RunDirectory, note: str) -> None:
    """Keep a line of one's own with a run, live or not; an empty one takes it away.

    Raises:
        RunError: it is longer than NOTE_LIMIT, or cannot be written.
    """
    line = " ".join(note.split())
    if len(line) > NOTE_LIMIT:
        raise RunError(f"a note has at most {NOTE_LIMIT} characters, this one {len(line)}", "shorten it")
    with _told(f"{run.note_file}: cannot be written"):
        if line:
            write_atomic(run.note_file, f"{line}\n".encode("utf-8", "replace"))
        else:
            run.note_file.unlink(missing_ok=True)


@contextlib.contextmanager
def _held(run: RunDirectory) -> Iterator[None]:
    """Hold a run against training and exports.

    A lock that cannot be written (in a read-only folder) is looked at instead.

    Raises:
        RunError: somebody else holds it, or there is no such run.
    """
    if not run.path.is_dir():
        raise RunError(f"{run.path}: is not there any more")
    with contextlib.ExitStack() as locks:
        try:
            # Tidying would reach through links to folders that other runs may write in.
            locks.enter_context(run.lock(tidy=False))
            if run.exports.is_dir():
                locks.enter_context(run.export_lock(tidy=False))
        except OSError:
            _refuse_live(run)
        yield


def _refuse_live(run: RunDirectory) -> None:
    with _told(f"{run.path}: it cannot be told whether a process trains it"):
        if run.is_live():
            raise RunError(f"{run.path}: is being trained by another process", "stop it first")


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what could not be done in place of the system's error."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{what}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _hide(path: Path, hidden: Path) -> None:
    """Take a run out of sight; one whose run.yaml cannot be removed comes back as it was."""
    os.rename(path, hidden)
    try:
        (hidden / "run.yaml").unlink(missing_ok=True)
    except OSError:
        os.rename(hidden, path)
        raise


def _remove(folder: Path) -> OSError | None:
    """Remove a folder as far as that can be done; what stood in the way of the rest."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _remove_leftovers(parent: Path, *, besides: Path) -> None:
    """Remove what earlier deletions could not, or did not come to."""
    with contextlib.suppress(OSError):
        for folder in parent.iterdir():
            if folder != besides and _DELETED.fullmatch(folder.name) and not folder.is_symlink():
                _remove(folder)


def _with_name(file: Path, name: str) -> bytes:
    """A run.yaml with another `name`; its other keys are not touched, those of other versions neither."""
    try:
        tree = load_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise RunError(f"{file}: cannot be read, so no name can be written there: {error}") from error
    if not isinstance(tree, dict):
        raise RunError(f"{file}: holds no keys, so no name can be written there")
    return dump_yaml({**tree, "name": name}).encode()


def _move(path: Path, place: Path) -> None:
    """Rename a folder, or a link to one, onto nothing that is there.

    Raises:
        RunError: the name is taken.
    """
    if path.is_symlink():
        if os.path.lexists(place):
            raise _taken(place)
        os.rename(path, place)
        return
    try:
        place.mkdir()  # takes the name: a folder can be renamed onto an empty one alone
    except FileExistsError:
        raise _taken(place) from None
    try:
        os.rename(path, place)
    except OSError:
        place.rmdir()
        raise


def _taken(place: Path) -> RunError:
    return RunError(f"{place.name}: another run has this name", "give another one")
