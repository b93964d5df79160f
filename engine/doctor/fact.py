"""A check's outcome in one line: what was found, how grave it is, and what to do."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One fact about the machine. `advice` is what to do about it; empty where there is nothing."""

    name: str
    status: Status
    value: str
    advice: str = ""


def exit_code(checks: Iterable[Check]) -> int:
    """1 where any check is an error, else 0: a warning still lets a run work."""
    return int(any(check.status == "error" for check in checks))


def format_check(check: Check) -> str:
    """Plain text, no colour: glyph, word, name and value; the advice indented on the next line."""
    glyph = {"ok": "✓", "warning": "!", "error": "✗"}[check.status]
    line = f"{glyph} {check.status:<7}  {check.name:<16} {check.value}".rstrip()
    return f"{line}\n{'':11}{check.advice}" if check.advice else line


def judge(good: bool, otherwise: Check) -> Check:
    """The check as it stands, or, where all is well, the same value as ok and without advice."""
    return Check(name=otherwise.name, status="ok", value=otherwise.value) if good else otherwise


def version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` -> (2, 13, 0): enough to compare with a minimum."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def one_line(error: BaseException | str) -> str:
    """The first line of a message, short, and without anything that looks like a hub token."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    line = (text.strip().splitlines() or ["no message"])[0][:200]
    return re.sub(r"hf_\w{16,}", "hf_***", line)
