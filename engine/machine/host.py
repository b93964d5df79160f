"""The host: the cores and the main memory that this process may use.

psutil tells of the machine. Read by hand is what only cgroups tell, the limits of a container, and the most memory that
this process has held. (`getrusage` is no answer to that: a process that a larger one started begins with that one's
peak.) This module is light.
"""

from pathlib import Path

import psutil

_PROC = Path("/proc/self")
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Logical cores that this process may run on: the machine's, or those that it is bound to."""
    return len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1


def memory_limit() -> int:
    """Bytes of main memory that this process may use: the machine's, or its cgroup's if less."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _cgroup_limits())])


def memory_available() -> int:
    """Bytes of main memory that this process can still get: what is free here and in its cgroup.

    A cgroup counts cached file pages as used, though it drops them when asked for memory, so within
    a container this can be too low, never too high.
    """
    free = psutil.virtual_memory().available
    return max(0, min([free, *(limit - used for limit, used in _cgroup_limits())]))


def memory_held() -> int:
    """Bytes of main memory that this process holds now."""
    return psutil.Process().memory_info().rss


def most_memory_held() -> int:
    """Bytes of main memory that this process has held at most."""
    lines = (_PROC / "status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024  # `VmHWM:  1234 kB`


def _cgroup_limits() -> list[tuple[int, int]]:
    """(limit, used) in bytes of each cgroup above this process that limits memory, v1 or v2.

    A container usually sees its own group mounted as the root, under another path than /proc names;
    so the walk goes up from that path and passes over what is not there.
    """
    try:
        lines = (_PROC / "cgroup").read_text().splitlines()
    except OSError:  # no /proc, or a kernel without cgroups: nothing limits us that we could read
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CGROUP, ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            folder = root.joinpath(*parts[:depth])
            try:
                # No limit is `max` (v2) or a number beyond any machine's memory (v1).
                found.append(tuple(int((folder / name).read_text()) for name in names))
            except (OSError, ValueError):
                continue
    return found
