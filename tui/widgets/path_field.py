"""PathField: a text field in which tab, or → at the end, completes a path as a shell does.

What every name that begins so has in common is filled in, folders end with `/`, `~` becomes the home folder. Where
several are left they are told (`PathField.Offered`), so that the screen can show them. Tab leaves the field where
there is nothing to complete, and once it has shown what lies in a folder; a name that is only begun stays, since who
leaves a field gives what it holds.

The folder is read on a thread of its own, for a second at most: one of a hundred thousand files, or one on a disk that
does not answer, holds up this field alone, whose next keys wait their turn.
"""

import asyncio
import contextlib
import heapq
import os
import threading
import time
from dataclasses import dataclass

from textual import events
from textual.message import Message

from ..safe_text import safe_str
from .field import TextField

SHOWN = 12
"""Names that are told at most."""
SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a path that was begun can become."""

    text: str
    """The path, as far as it is sure."""
    names: tuple[str, ...] = ()
    """The first of the names that begin so; folders end with `/`."""
    count: int = 0
    """How many begin so."""
    whole: bool = True
    """The folder was read to its end."""
    begun: bool = False
    """The path names nothing that is there yet."""


def complete(text: str, *, folders_only: bool = False, seconds: float = SECONDS) -> Completion:
    """Look up which files and folders begin as `text` does; where none does, or it cannot be told, `count` is 0.

    Hidden names are left out unless one is begun, and those that no field can hold (controls) always.
    """
    path = os.path.expanduser(text) if text.startswith("~") else text
    if text == "~":
        path = path.rstrip("/") + "/"
    folder, slash, begun = path.rpartition("/")
    folder += slash
    end = time.monotonic() + seconds
    found: list[str] = []
    whole = True
    try:
        with os.scandir(folder or ".") as entries:
            for number, entry in enumerate(entries):
                if number % 256 == 0 and time.monotonic() > end:
                    whole = False
                    break
                name = entry.name
                hidden = name.startswith(".") and not begun
                if hidden or not name.startswith(begun) or safe_str(name) != name:
                    continue
                is_folder = entry.is_dir()
                if is_folder or not folders_only:
                    found.append(f"{name}/" if is_folder else name)
    except (OSError, ValueError):
        return Completion(text=text)
    if not found:
        return Completion(text=text, whole=whole)
    common = _common_start(min(found), max(found)) if whole else begun
    return Completion(
        text=folder + common,
        names=tuple(heapq.nsmallest(SHOWN, found)),
        count=len(found),
        whole=whole,
        begun=not os.path.lexists(folder + common),
    )


def _common_start(first: str, last: str) -> str:
    """What two texts begin with alike, and so all that stand between them."""
    for place, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return first[:place]
    return first


class PathField(TextField):
    """A TextField for a path, or for something else that may be one."""

    @dataclass
    class Offered(Message):
        """Several names begin as the text does; none: reading the folder takes too long."""

        field: "PathField"
        completion: Completion | None

        @property
        def control(self) -> "PathField":
            return self.field

    def __init__(self, *, placeholder: str = "", id: str | None = None, folders_only: bool = False) -> None:
        super().__init__(placeholder=placeholder, id=id)
        self._folders_only = folders_only
        self._offered: str | None = None
        """The text of which all was told: the next tab leaves."""

    async def _on_key(self, event: events.Key) -> None:
        right = event.key == "right" and self.cursor_at_end and self.selection.is_empty
        if not self.value.strip() or not (right or event.key == "tab"):
            return
        event.stop()
        event.prevent_default()
        completed = self.value != self._offered and await self._complete()
        if not completed and not right and self.has_focus:
            self.screen.focus_next()

    async def _complete(self) -> bool:
        """Fill in what is sure and tell the rest; False where there is nothing to do."""
        found = await self._look_up(self.value)
        if found is None:
            self._offered = self.value
            self.post_message(self.Offered(self, None))
            return True
        changed = bool(found.count) and found.text != self.value
        if changed:
            self.value = found.text
            self.cursor_position = len(self.value)
        if found.count > 1:
            self._offered = None if found.begun else self.value
            self.post_message(self.Offered(self, found))
        return changed or found.count > 1

    async def _look_up(self, text: str) -> Completion | None:
        """Complete on a thread; None where that takes too long."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Completion] = loop.create_future()

        def work() -> None:
            found = complete(text, folders_only=self._folders_only)
            with contextlib.suppress(RuntimeError):  # the app has ended
                loop.call_soon_threadsafe(lambda: answer.done() or answer.set_result(found))

        # No executor: the app would wait for it at its end.
        threading.Thread(target=work, name="evenfall-complete", daemon=True).start()
        try:
            return await asyncio.wait_for(answer, 1.5 * SECONDS)
        except TimeoutError:
            return None
