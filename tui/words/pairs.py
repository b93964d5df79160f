"""A label and what stands behind it, a line each."""

from textual.content import Content

MUTED = "$text-muted"


def pair_lines(pairs: list[tuple[str, Content]]) -> Content:
    return Content("\n").join(Content.styled(f"{name:<11}", MUTED) + text for name, text in pairs)


def megabytes(size: float) -> str:
    """5.2 -> `5.2 MB`, 16100 -> `16.1 GB`."""
    return f"{size / 1000:.1f} GB" if size >= 1000 else f"{size:.1f} MB"
