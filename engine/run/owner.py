"""Owner: the process that trains a run, and whether it still does.

`run.lock` in a run's folder is held (flock) by the process that trains, so a killed one leaves nothing stale. In it
stands who that is: process, machine, the device that it computes on, and the socket that takes commands
(`session/socket.py`). Folders may lie on a disk that several machines or containers share, and flock does not reach
over every such disk; so the file is also touched every few seconds, and an owner on another machine whose touch is
recent counts as alive. An owner on this machine, in whatever container, is judged by the lock alone.

Light: the command line asks this before anything is loaded.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

LOCK = "run.lock"
_LONGEST = 4096
TOUCH_SECONDS = 5.0
"""How often an owner touches its lock."""
STALE_SECONDS = 60.0
"""An owner on another machine that has not touched its lock for so long is gone."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who trains a run."""

    pid: int
    host: str
    """The machine's or container's name."""
    place: str
    """The same for processes that see each other: boot of the machine, and namespace of processes."""
    socket: str
    """Path of the socket that takes commands; empty before there is one."""
    device: str
    """`machine/which_gpu.py`: `cpu`, or the name of a GPU; empty while it is looked up."""
    started: float
    """Seconds since the epoch."""

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine, in this container."""
        return self.place == this_place()

    @property
    def is_on_this_machine(self) -> bool:
        """Whether it runs under this kernel, so that the lock tells of it."""
        return self.place.split("/")[0] == this_place().split("/")[0]

    @property
    def told(self) -> str:
        """`process 5741`, or `process 5741 on box-2` where that is another machine or container."""
        return f"process {self.pid}" + ("" if self.is_here else f" on {self.host}")


def this_place() -> str:
    """See `Owner.place`."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no /proc: the name must do
        return socket.gethostname()


def read_owner(folder: Path) -> Owner | None:
    """Who stands in the lock of a run's folder; None where nobody does, or in words not known here."""
    try:
        tree = json.loads((folder / LOCK).read_bytes()[:_LONGEST])
        values = {item.name: tree[item.name] for item in fields(Owner)}
    except (OSError, ValueError, TypeError, KeyError):
        return None
    good = all(
        isinstance(values[item.name], (int, float) if item.type is float else item.type)  # type: ignore[arg-type]
        for item in fields(Owner)
    )
    return Owner(**values) if good else None


def write_owner(lock: int, owner: Owner | None) -> None:
    """Write who holds it into an open lock file; None: nobody any more."""
    if owner is None:
        os.ftruncate(lock, 0)
    else:  # always of one length, so that whoever reads meanwhile finds no mixture
        os.pwrite(lock, json.dumps(asdict(owner)).encode().ljust(_LONGEST), 0)


def touch(lock: int) -> None:
    """Show that the owner lives, to those whom its lock does not reach."""
    os.utime(lock)


def is_owned(folder: Path) -> bool:
    """Whether a process trains the run in this folder now."""
    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return lives_elsewhere(folder) is not None


def lives_elsewhere(folder: Path) -> Owner | None:
    """The owner on another machine whose touch is recent; None where there is none."""
    owner = read_owner(folder)
    if owner is None or owner.is_on_this_machine:
        return None
    with contextlib.suppress(OSError):
        if abs(time.time() - (folder / LOCK).stat().st_mtime) < STALE_SECONDS:
            return owner
    return None
