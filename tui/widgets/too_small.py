"""The page that a window below 80x24 shows in place of a screen or a dialog."""

from textual.content import Content
from textual.geometry import Size
from textual.widget import Widget

LEAST = Size(80, 24)


def is_too_small(size: Size) -> bool:
    """Whether a window has no room for the screens."""
    return size.width < LEAST.width or size.height < LEAST.height


class TooSmall(Widget):
    """Says what is needed and which keys work until then."""

    DEFAULT_CSS = """
    TooSmall {
        display: none; height: 1fr; width: 1fr; content-align: center middle; text-align: center; color: $text-muted;
    }
    """

    def __init__(self) -> None:
        super().__init__(id="too-small")
        self._text = Content("")

    def render(self) -> Content:
        return self._text

    def set_data(self, size: Size, *, busy: bool, stressed: bool = False) -> None:
        """The window's size; whether a run is going; whether somebody pressed a key that would do something."""
        way = "Enlarge the window: q then asks what becomes of it."
        if not busy:
            way = "Enlarge the window, or press q to quit."
        self._text = (
            Content(f"Evenfall needs 80x24, this window has {size.width}x{size.height}.\n\n")
            + Content("The run goes on.\n" if busy else "")
            + Content.styled(way + "\n", "bold" if stressed else "")
            + Content("No other key does anything here.")
        )
        self.refresh()
