"""A row seen through its shape: a format's keys give what the row's columns hold.

Errors name the column as the file has it, whatever the format calls it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import shown
from ..row import SourceRow
from .calls import read_tools
from .cells import text_of
from .fits import Fit
from .normal import Message
from .parts import read_parts
from .turns import Style, Turns, read_turns, served, style_of


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The keys of one row."""

    source: SourceRow
    """As it stands in its file."""
    value: dict[str, Any]
    """Renamed by `columns`."""
    shape: Fit
    columns: Mapping[str, str]

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def get(self, key: str) -> Any:
        return self.value.get(self.shape.columns.get(key, ""))

    def name(self, key: str) -> str:
        """The column that a key is read from."""
        column = self.shape.columns[key]
        return self.columns.get(column, column)

    def text(self, key: str) -> str:
        """A key's text; empty where the row has none.

        Raises:
            DataError: it is no text.
        """
        value, name = self.get(key), self.name(key) if key in self else ""
        if isinstance(value, dict | list):
            raise self.source.error(
                f"`{name}`: expected text, got {shown(value)}; write it as text there (json.dumps, say), or leave "
                f"the column out with data.ignore=[{name}]"
            )
        return text_of(self.source, name, value) if value is not None else ""

    def request(self, key: str) -> dict[str, Any] | None:
        """A key's value where it is what a service was asked: an object with `messages`, and tools perhaps."""
        value = self.get(key)
        return value if isinstance(value, dict) and isinstance(value.get("messages"), list) else None

    def turns(self, key: str, style: Style | None = None) -> Turns:
        """A key's messages: those of a list, or the only one.

        Args:
            style: how they are written; None: as they look.

        Raises:
            DataError: they cannot be read.
        """
        turns = served(self.get(key))
        style = style or style_of(turns) or "messages"
        one = [turns] if isinstance(turns, dict) else turns
        return read_turns(self.source, self.name(key), one, style, self.columns)

    def system(self) -> list[Message]:
        """The row's system text as a message, where it has one."""
        text = self.system_text()
        return [{"role": "system", "content": text}] if text.strip() else []

    def system_text(self) -> str:
        """The row's system text: a text, parts of one, or a message; empty where the row has none.

        Raises:
            DataError: it is none of these.
        """
        system = self.get("system")
        if isinstance(system, dict):
            system = next((system[key] for key in ("parts", "content", "text") if key in system), system)
        if isinstance(system, list):
            return read_parts(self.source, self.name("system"), system).text
        return text_of(self.source, self.name("system"), system) if system is not None else ""

    def with_system(self, turns: Turns) -> Turns:
        """The row's system text in front of messages.

        Raises:
            DataError: they begin with a system message of their own.
        """
        messages, masked = turns
        system = self.system()
        if system and messages and messages[0]["role"] == "system":
            raise self.source.error(f"has a `{self.name('system')}` column and a system message; keep one of them")
        return [*system, *messages], frozenset(place + len(system) for place in masked)

    def tools(self) -> tuple[dict[str, Any], ...]:
        """Tool definitions, where the row has them."""
        tools = self.get("tools") or []
        return read_tools(self.source, self.name("tools"), tools) if tools else ()
