"""Folders that belong to a user of this machine, and to no run. Light."""

import os
from pathlib import Path


def state_folder() -> Path:
    """What the app remembers: `$XDG_STATE_HOME/evenfall`, else `~/.local/state/evenfall`. It may not exist yet."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "evenfall"


def private_folder(path: Path) -> Path:
    """Make a folder that nobody else may look into, or see that it is one.

    Raises:
        OSError: it cannot be made, is a link, or belongs to somebody else.
    """
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = path.lstat()
    if path.is_symlink() or found.st_uid != os.getuid():
        raise PermissionError(f"{path} is not this user's own folder")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path
