"""One row as it stands in its file: what every later stage names when something is wrong with it."""

from dataclasses import dataclass
from typing import Any

import orjson

from .errors import DataError


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """One row as it stands in its file."""

    file: str
    """The path as the user gave it; in a folder, with the file's name."""
    number: int
    """From 1: the row; for JSON Lines the line in the file."""
    value: dict[str, Any] | str
    """An object, or the text of a document."""
    unit: str = "row"
    """What `number` counts: `row` or `line`."""
    size: int = 0
    """Bytes that it takes in its file, about (`read.size_of` is their sum); 0: not known."""
    broken: str = ""
    """Why it could not be read, with its place; `value` is then what stands there, as text."""

    @property
    def content(self) -> bytes:
        """The value as bytes: the same for the same value."""
        if self.broken:
            return self.broken.encode(errors="surrogatepass")
        try:
            return orjson.dumps(self.value, default=str)
        except TypeError:  # half of a surrogate pair, or a number of more than 64 bits
            return repr(self.value).encode(errors="surrogatepass")

    @property
    def place(self) -> str:
        return f"{self.file}: {self.unit} {self.number}"

    def error(self, message: str) -> DataError:
        """A DataError that names this row."""
        return DataError(f"{self.place}: {message}")
