"""Which characters of a rendered conversation are those of single messages.

Where prompts are learnt as well, all of the text is, but for the messages that are flagged not to be. A message is what
it adds to the rendering of those before it: its header, what it says, its end of turn. Templates that write
earlier turns otherwise than the last (Qwen3's), or one message into another (Gemma 3's system text), break that. So
what a message says is found besides, by a rendering that differs from the text in this alone, and what the
message adds counts only where it agrees with that. Where it does not, the message is its text and the token that ends
it; where that is not told either, the row is refused, for a mask that is nearly right is none.
"""

import itertools
from collections.abc import Mapping, Sequence

from ..errors import DataError
from ..formats.normal import REASONING, Message
from ..row import SourceRow
from .chat_template import ChatTemplate, Spans, Tools

_OTHER = "Probe4Zx7Q"


def spans_of_messages(
    template: ChatTemplate,
    source: SourceRow,
    messages: list[Message],
    tools: Tools,
    text: str,
    places: Mapping[int, str],
) -> Spans:
    """The character ranges [start, end), ascending, of some messages.

    Args:
        text: the rendering of them all.
        places: of these messages -> what an error calls them.

    Raises:
        DataError: they cannot be told exactly.
    """

    def begin(count: int) -> int | None:
        """Where the text of the first messages ends, if it is a beginning of the text."""
        if not count or count == len(messages):
            return len(text) if count else 0
        try:
            before = template.render(source, messages[:count], tools)
        except DataError:
            return None
        return template.end_in(text, before)

    def said(place: int) -> tuple[int, int] | None:
        """Where what a message says stands."""
        other = [*messages]
        other[place] = {**messages[place], "content": _OTHER}
        try:
            parts = template.render(source, other, tools).split(_OTHER)
        except DataError:
            return None
        if len(parts) != 2 or not (text.startswith(parts[0]) and text.endswith(parts[1])):
            return None
        start, end = len(parts[0]), len(text) - len(parts[1])
        return (start, end) if start <= end else None

    spans = []
    # Messages that follow each other are taken as one: some templates write several tool results as one turn.
    for run in _runs(sorted(places)):
        first, last = run[0], run[-1]
        inside = [said(place) for place in run]
        before = said(first - 1) if first else None
        after = said(last + 1) if last + 1 < len(messages) else None
        low, high = before[1] if before else 0, after[0] if after else len(text)
        known = [span for span in inside if span]
        top = min([start for start, _ in known], default=high)
        bottom = max([end for _, end in known], default=low)
        start, end = begin(first), begin(last + 1)
        plain = [_is_plain(messages[place]) for place in run]
        if start is None or not low <= start <= top:
            start = top if inside[0] and plain[0] else None
        if end is None or not bottom <= end <= high:
            end = template.end_of_turn(text, bottom) if inside[-1] and plain[-1] else None
        unknown = any(
            not inside[at] and plain[at] and messages[place]["content"].strip() for at, place in enumerate(run)
        )
        if start is None or end is None or start > end or unknown:
            raise source.error(
                f"{places[first]}: message {first + 1} is not to be learnt, but which text is its own cannot be "
                "told: the chat template writes it otherwise when another follows; set "
                "data.assistant_only_loss=true, or leave the row out"
            )
        spans.append((start, end))
    return tuple(spans)


def _runs(places: Sequence[int]) -> list[list[int]]:
    groups = itertools.groupby(enumerate(places), lambda one: one[1] - one[0])
    return [[place for _, place in group] for _, group in groups]


def _is_plain(message: Message) -> bool:
    """Whether its text is all that it says."""
    return "tool_calls" not in message and not any(key in message for key in REASONING)
