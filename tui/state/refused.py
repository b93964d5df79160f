"""What fields hold and the draft has refused: it stands on a screen, and is not what would train.

A value that does not fit stays in its field for correction while the draft keeps the one before. A run that started
now would train something else than the screen says, so none starts while a field holds such a value. The desk keeps
them, since the screen that starts a run is another one than those that have the fields.

A refusal ends where its field takes a value that fits, where esc takes it back, where something else sets the key (a
preset, another screen), and where a change elsewhere makes the value fit: then the draft takes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..keys import ScreenName

if TYPE_CHECKING:
    from ...engine.config.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class DraftField:
    """A field of a screen that edits one key of the draft."""

    screen: ScreenName
    key: str
    title: str
    """What the screen calls it."""
    where: str
    """The keys that lead to it, such as `2` or `1, then a`."""


@dataclass(frozen=True)
class Refusal:
    """What a field holds, and why the draft does not take it."""

    field: DraftField
    why: str
    """It names the key, what it got and what it takes."""
    overrides: Sequence[str] = ()
    """What would set it; none: it can be set by no override."""


class RefusedValues:
    """One refusal a field at most."""

    def __init__(self) -> None:
        self._held: dict[DraftField, Refusal] = {}

    def hold(self, refusal: Refusal) -> None:
        self._held[refusal.field] = refusal

    def drop(self, field: DraftField) -> None:
        """The field holds what stands (again)."""
        self._held.pop(field, None)

    def clear(self) -> None:
        self._held.clear()

    def of(self, screen: ScreenName) -> dict[str, str]:
        """Key -> why its field's value was refused, on one screen."""
        return {field.key: refusal.why for field, refusal in self._held.items() if field.screen == screen}

    def why_no_start(self) -> str | None:
        """Why no run can start now: the first field at fault, its key and what it takes."""
        for field, refusal in self._held.items():
            return (
                f"{field.title} holds a value that does not fit: {refusal.why}\n"
                f"{field.where} leads to the field: correct it, or esc there takes it back"
            )
        return None

    def follow(self, old: "RunConfig", new: "RunConfig") -> "RunConfig":
        """Look at every refusal anew after a change of the draft.

        Returns:
            `new`, with the values that were refused before and fit now.
        """
        from ...engine.config.run_config import ConfigError

        for field, refusal in list(self._held.items()):
            if value_of(old, field.key) != value_of(new, field.key):
                self.drop(field)
            elif refusal.overrides:
                try:
                    new = new.with_overrides(refusal.overrides)
                except ConfigError as error:
                    self.hold(replace(refusal, why=str(error)))
                else:
                    self.drop(field)
        return new


def value_of(config: "RunConfig", key: str) -> Any:
    """The plain value of `section.key`."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
