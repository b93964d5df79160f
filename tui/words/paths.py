"""Names that a path can be completed to, in a line."""

from ..widgets.path_field import Completion


def offered(completion: Completion | None) -> str:
    """`3 begin so: a/  b.csv  c.json`."""
    if completion is None:
        return "the folder does not answer: type on, or tab leaves the field"
    more = "  …" if completion.count > len(completion.names) else ""
    count = f"{completion.count:,} begin so" if completion.whole else f"{completion.count:,} of more begin so"
    return f"{count}: {'  '.join(completion.names)}{more}"
