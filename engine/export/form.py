"""What an export is: its form, where it went, how it was checked."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError


class ExportError(UserError):
    """An export that could not be written or failed its check; nothing of it was left."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One thing that was written and checked."""

    form: str
    path: Path
    megabytes: float
    check: str
    """What the check compared, with its number."""
