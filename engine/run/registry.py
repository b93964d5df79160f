"""The registry: which runs are live, wherever they were started, and which folders of runs were used.

    STATE/evenfall/live/TOKEN.json   one a live run: where its folder is, and from where that path leads to it
                        TOKEN.sock   its socket, where the path is short enough
                        places.json  folders of runs that were used, the last one first

The files are pointers alone: whether a run is live is asked of its own lock (`owner.py`). So a pointer to a run that is
over, moved or deleted is dropped by whoever reads it, a damaged file is nothing, and a live run writes its own anew
every few seconds. A home may be shared with other machines and containers, whose folders cannot be looked at from here:
their pointers are left alone until they are old. A disk that refuses them costs no run anything: it is only not found
from elsewhere.

Light: the app looks here before its first paint.
"""

import contextlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..machine.user_folders import private_folder, state_folder
from .files import write_atomic
from .owner import LOCK, Owner, is_owned, read_owner, this_place

_MOST_PLACES = 50
_MOST_BYTES = 65_536
_OLD_SECONDS = 3600.0

Identity = tuple[int, int] | Path
"""Equal for two paths where they lead to the same folder."""


@dataclass(frozen=True)
class LiveRun:
    """A run that a process trains now."""

    path: Path
    owner: Owner | None
    """None where it has not written itself down yet, or in words not known here."""

    @property
    def name(self) -> str:
        return self.path.name


def live_folder() -> Path:
    """Where the pointers to live runs are."""
    return state_folder() / "live"


class Entry:
    """A live run's own pointer in the registry. A disk that refuses it is passed over."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(6)

    def write(self, run: Path) -> None:
        """Write it, or write it anew where it was removed or damaged, or leads to where the run is no more."""
        file = live_folder() / f"{self.token}.json"
        data = json.dumps({"run": str(run.absolute()), "place": this_place()}).encode()
        with contextlib.suppress(OSError):
            if file.is_file() and file.read_bytes() == data:
                os.utime(file)
            else:
                private_folder(file.parent)
                write_atomic(file, data)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            (live_folder() / f"{self.token}.json").unlink(missing_ok=True)


def live_runs(roots: Iterable[Path] = ()) -> list[LiveRun]:
    """Every live run that is known, the one that was started last first.

    Args:
        roots: folders of runs that are looked through as well: a run there is found though its pointer is not.
    """
    folders = {}
    for file in live_folder().glob("*.json"):
        folder, place = _pointed_at(file)
        if folder is not None and is_owned(folder):
            folders[identity(folder)] = folder
        elif place == this_place() or _is_old(file):
            for left in (file, file.with_suffix(".sock")):
                with contextlib.suppress(OSError):
                    left.unlink()
    for root in roots:
        for lock in root.glob(f"*/{LOCK}"):
            with contextlib.suppress(OSError):
                if lock.stat().st_size and is_owned(lock.parent):
                    folders.setdefault(identity(lock.parent), lock.parent.absolute())
    found = [LiveRun(folder, read_owner(folder)) for folder in folders.values()]
    return sorted(found, key=lambda run: run.owner.started if run.owner else 0.0, reverse=True)


def remember_place(root: Path) -> None:
    """Keep that a folder of runs was used."""
    places = [root.absolute(), *other_places(root)]
    with contextlib.suppress(OSError):
        write_atomic(
            private_folder(state_folder()) / "places.json",
            json.dumps([str(place) for place in places[:_MOST_PLACES]]).encode(),
        )


def known_places() -> list[Path]:
    """Folders of runs that were used and are still there, each once, the last one first."""
    try:
        found = json.loads((state_folder() / "places.json").read_bytes()[:_MOST_BYTES])
    except (OSError, ValueError):
        return []
    texts = found if isinstance(found, list) else []
    places = [Path(text) for text in texts if isinstance(text, str) and os.path.isabs(text) and "\0" not in text]
    known: dict[Identity, Path] = {}
    for place in places:
        if os.path.isdir(place):
            known.setdefault(identity(place), place)
    return list(known.values())


def other_places(root: Path) -> list[Path]:
    """Those of `known_places` that are not this folder, however it is spelt."""
    own = identity(root)
    return [place for place in known_places() if identity(place) != own]


def _pointed_at(file: Path) -> tuple[Path | None, str]:
    """The run's folder, where it can be seen from here, and the place that the pointer was written at."""
    try:
        tree = json.loads(file.read_bytes()[:_MOST_BYTES])
        folder, place = Path(tree["run"]), tree["place"]
        seen = folder.is_absolute() and (folder / "run.yaml").is_file()
    except (OSError, ValueError, TypeError, KeyError):
        return None, ""
    return folder if seen else None, place


def _is_old(file: Path) -> bool:
    """Whether no live run can have left it so."""
    try:
        return time.time() - file.stat().st_mtime > _OLD_SECONDS
    except OSError:
        return False


def identity(folder: Path) -> Identity:
    """Of the folder itself, whatever path leads to it; of one that cannot be looked at, its path."""
    try:
        found = folder.stat()
    except (OSError, ValueError):
        return folder.absolute()
    return found.st_dev, found.st_ino
