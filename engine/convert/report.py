"""What an import made of a file, key by key.

An import is only as good as what it says it left out: a recipe that trains almost like the one it
came from costs a night. So every key that a file sets has a line of its own, and a configuration
comes out only where nothing was refused and nothing waits for an answer.
"""

import re
import textwrap
from dataclasses import dataclass
from typing import Any, Literal

from ..config.fields import shown
from ..config.run_config import RunConfig
from ..errors import UserError

Verdict = Literal["mapped", "defaulted", "ignored", "asked", "refused", "missing"]

_TITLES: dict[Verdict, str] = {
    "mapped": "Taken over",
    "defaulted": "Not set in the file, taken from the tool's defaults",
    "ignored": "Without effect here",
    "asked": "Needs an answer",
    "refused": "Refused",
    "missing": "Not found here",
}
_SECRET = re.compile(r"(^|[._])(\w*token|\w*api_key|password|secret)$", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"(pad|eos|bos|unk)_token$")


class ConvertError(UserError):
    """A file that cannot be imported at all; the message names the file, the key and the fix."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """What became of one key; or a data file that is not there (`missing`)."""

    key: str
    """As the file writes it; places in it as `datasets[0].path`. Of a missing file its path."""
    value: Any
    verdict: Verdict
    target: str | None
    """`section.key=value` where it is taken over; the key to answer where one is asked for; the
    setting that names another file where one is missing."""
    said: str
    """Why, in a sentence; for a question, how to answer it."""

    @property
    def value_text(self) -> str:
        """The value in a few words; a secret is not shown."""
        if _SECRET.search(self.key) and not _SPECIAL_TOKEN.search(self.key):
            return "(not shown)"
        if isinstance(self.value, bool):
            return str(self.value).lower()
        return shown(self.value)[1:-1] if isinstance(self.value, str) else shown(self.value)


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """A file read for import."""

    tool: str
    """Which tool's file it is."""
    file: str
    lines: tuple[Line, ...]
    config: RunConfig | None
    """None where anything is refused or still asked."""

    def of(self, verdict: Verdict) -> list[Line]:
        """The lines with this verdict, in the file's order."""
        return [line for line in self.lines if line.verdict == verdict]

    def to_text(self, width: int = 100) -> str:
        """Plain text, grouped by verdict. Text from the file is in it as it stands there."""
        blocks = [f"{self.file}: a configuration of {self.tool}"]
        for verdict, title in _TITLES.items():
            lines = self.of(verdict)
            if lines:
                blocks.append("\n".join([title, *(_entry(line, width) for line in lines)]))
        refused, asked = len(self.of("refused")), len(self.of("asked"))
        if refused:
            end = f"Cannot be imported: {refused} {'key is' if refused == 1 else 'keys are'} refused."
        elif asked:
            end = f"Not imported yet: {asked} {'answer is' if asked == 1 else 'answers are'} needed."
        elif missing := self.of("missing"):
            end = _not_here(missing, width)
        else:
            end = "Imports."
        return "\n\n".join([*blocks, end]) + "\n"


def setting(target: str, value: Any) -> str:
    """`section.key=value` as the command line takes it."""
    return f"{target}={_flow(value)}"


def _flow(value: Any) -> str:
    """A value of ours in YAML, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _not_here(missing: list[Line], width: int) -> str:
    """The last words of an import that needs files which are not here."""
    files = "a data file is" if len(missing) == 1 else f"{len(missing)} data files are"
    them = "it" if len(missing) == 1 else "them"
    settings = " and ".join(dict.fromkeys(line.target for line in missing if line.target))
    text = f"Imports. But {files} not found here: put {them} there, or add {settings}"
    return textwrap.fill(text, width, break_on_hyphens=False)


def _entry(line: Line, width: int) -> str:
    head = f"{line.key}: {line.value_text}" if line.value is not None else line.key
    if line.verdict in ("mapped", "defaulted") and line.target:
        head += f" → {line.target}"
    first = textwrap.fill(head, width, initial_indent="  ", subsequent_indent="      ")
    if not line.said:
        return first
    rest = textwrap.fill(line.said, width, initial_indent="      ", subsequent_indent="      ")
    return f"{first}\n{rest}"
