"""What Chat says: who answers, and how."""

from typing import TYPE_CHECKING

from textual.content import Content

from ..safe_text import safe_str, safe_text
from .pairs import MUTED, pair_lines

if TYPE_CHECKING:
    from ...engine.inference.chat import Chat
    from ...engine.run.directory import RunDirectory


def chat_line(run: "RunDirectory | None", chat: "Chat | None", *, loading: bool, loadable: bool) -> Content:
    """Which run is talked with, and where it runs."""
    if run is None:
        return Content("")
    where = "loading" if loading else "not loaded"
    if loadable and not loading:
        where += " (i loads it)"
    if chat is not None:
        where = f"on {chat.device}"
    name = Content.styled(safe_str(run.name, 60), "bold")
    return pair_lines([("run", name + safe_text(f" · {where}", 80))])


def chat_mode(mode: str) -> Content:
    """Who answers: tuned, base, or both."""
    words = []
    for name in ("tuned", "base", "both"):
        mark, style = ("● ", "$accent bold") if name == mode else ("○ ", MUTED)
        words.append(Content.styled(f"{mark}{name}", style))
    return pair_lines([("answers", Content("  ").join(words))])


def chat_hint() -> Content:
    """What to do before the first prompt."""
    return Content.assemble(
        ("Write below and press enter.\n\n", "bold"),
        ("ctrl+t", "$accent bold"), " switches between the base model and the tuned one\n",
        ("ctrl+o", "$accent bold"), " lets both answer the same prompt\n",
        ("esc", "$accent bold"), "    leaves the prompt; then the keys below work",
    )  # fmt: skip
