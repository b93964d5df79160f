"""The page that a window below 80x24 shows in place of a screen or a dialog."""

from textual.content import Content
from textual.geometry import Size
from textual.widgets import Static

LEAST = Size(80, 24)


def is_too_small(size: Size) -> bool:
    """Whether a window has no room for the screens."""
    return size.width < LEAST.width or size.height < LEAST.height


class TooSmall(Static):
    """Says what is needed and which keys work until then."""

    DEFAULT_CSS = """
    TooSmall {
        display: none; height: 1fr; width: 1fr; content-align: center middle; text-align: center; color: $text-muted;
    }
    """

    def __init__(self) -> None:
        super().__init__(id="too-small", markup=False)

    def set_data(self, size: Size, *, busy: bool, stressed: bool = False) -> None:
        """The window's size; whether a run is going; whether somebody pressed a key that would do something."""
        quitting = "q asks what becomes of it once the window is larger" if busy else "q quits"
        keys = Content.styled(f"{quitting}; other keys do nothing here.", "bold" if stressed else "")
        going = "The run goes on. " if busy else ""
        self.update(
            Content(f"Evenfall needs 80x24, this window has {size.width}x{size.height}.\n\n{going}Enlarge the window: ")
            + keys
        )
