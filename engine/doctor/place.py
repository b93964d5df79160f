"""Where the program runs: memory, disk, hub token, the session that must outlive a connection, the terminal."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .fact import Check, judge


def check_memory() -> Iterator[Check]:
    from ..machine.host import memory_available, memory_limit

    free, total = memory_available() / 1e9, memory_limit() / 1e9
    yield judge(
        free >= 8,
        Check(
            name="memory",
            status="warning",
            value=f"{free:.1f} of {total:.1f} GB free",
            advice="Loading reads one weight file at a time, often 5 GB: close other programs.",
        ),
    )


def check_disk() -> Iterator[Check]:
    from huggingface_hub import constants

    yield _room("disk here", Path.cwd(), 10, "Checkpoints and exports of runs are written here.")
    yield _room(
        "disk hub cache",
        Path(constants.HF_HUB_CACHE),
        20,
        "Models are downloaded there (an 8B model is 16 GB). Set HF_HOME to a larger disk.",
    )


def _room(name: str, folder: Path, wanted_gb: float, advice: str) -> Check:
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free / 1e9
    value = f"{free:.1f} GB free at {folder}"
    if not os.access(there, os.W_OK):
        return Check(
            name=name,
            status="error",
            value=f"{value}, not writable",
            advice=f"{advice} Use a folder you may write.",
        )
    if free < 1:
        return Check(name=name, status="error", value=value, advice=f"{advice} Free some space first.")
    return judge(
        free >= wanted_gb,
        Check(
            name=name,
            status="warning",
            value=value,
            advice=f"{advice} Less than {wanted_gb} GB is soon full.",
        ),
    )


def check_hub_token() -> Iterator[Check]:
    """Says whether there is a token, and nothing else about it."""
    from huggingface_hub import get_token

    advice = "Gated models (Llama, Gemma) need one: run `hf auth login`, or set HF_TOKEN."
    found = bool(get_token())
    yield Check(
        name="hub token",
        status="ok",
        value="yes" if found else "no",
        advice="" if found else advice,
    )


def check_session() -> Iterator[Check]:
    env = os.environ
    inside = "tmux" if env.get("TMUX") else "screen" if env.get("STY") else ""
    remote = bool(env.get("SSH_CONNECTION") or env.get("SSH_TTY"))
    value = ", ".join(filter(None, ["SSH" if remote else "local", inside]))
    yield judge(
        not remote or bool(inside),
        Check(
            name="session",
            status="warning",
            value=value,
            advice="If the link drops, training goes on but these screens end: `evenfall watch` shows them "
            "again. Start in tmux to keep them.",
        ),
    )


def check_terminal() -> Iterator[Check]:
    name = "terminal"
    if not sys.stdout.isatty():
        yield Check(name=name, status="ok", value="none (output goes to a file or pipe)")
        return
    columns, rows = os.get_terminal_size(sys.stdout.fileno())
    kind = os.environ.get("TERM", "")
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        colours = "16 million colours"
    elif "256" in kind:
        colours = "256 colours"
    else:
        colours = "16 colours or fewer"
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    advice = []
    if columns < 80 or rows < 24:
        advice.append("The screens need 80x24: enlarge the window.")
    if colours == "16 colours or fewer":
        advice.append("Set TERM=xterm-256color (tmux: tmux-256color) where the terminal can do it.")
    if encoding != "utf8":
        advice.append("Glyphs and plots need UTF-8: set LANG=C.UTF-8.")
    value = f"{columns}x{rows}, {colours}, TERM={kind or 'not set'}, {sys.stdout.encoding}"
    yield Check(name=name, status="warning" if advice else "ok", value=value, advice=" ".join(advice))
