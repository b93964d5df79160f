"""What the rows of a data set hold, for a file of another tool.

Another tool is told of columns, so a file for it is only right if it names those that a run here
would read. They are told as a run tells them: by detection over the first slice of a file that is
here. A hub data set is not downloaded for that, and a file may lie on another machine: then the
names of the format itself are written, and the file says so.

What a tool has no words for (flags of single messages, tools) is worth a note only where rows have
it, or where not all of them were seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config.run_config import DataConfig, DataFormat, DatasetConfig
from .report import ConvertError
from .writable import WRITABLE, check_formats, refusal

if TYPE_CHECKING:
    from ..data.formats.normal import Conversation

Trait = Literal["calls", "tools", "flags", "blank", "history", "system", "lists", "answered", "between"]
"""Of a data set, that a row of it has:

calls     calls of tools, or their results.
tools     definitions of tools.
flags     messages of the assistant that are flagged not to be learnt.
blank     an empty answer among others, which is not learnt.
history   earlier turns beside an instruction.
system    a column of system text.
lists     a prompt or a completion of messages.
answered  a prompt with answers in it, which are not learnt.
between   a completion with turns of others between its answers.
"""

FLAGS = ("weight", "train", "training", "loss")
"""The names under which a message is flagged."""
DEFAULT_NAMES: dict[DataFormat, tuple[dict[str, str], ...]] = {
    "messages": tuple(
        {"messages": name} for name in ("messages", "conversations", "conversation")
    ),
    "sharegpt": tuple(
        {"messages": name} for name in ("conversations", "conversation", "messages")
    ),
    "alpaca": (
        {"instruction": "instruction", "output": "output"},
        {"instruction": "instruction", "output": "response"},
    ),
    "prompt_completion": (
        {"prompt": "prompt", "completion": "completion"},
        {"prompt": "question", "completion": "answer"},
        {"prompt": "query", "completion": "response"},
    ),
    "text": ({"text": "text"},),
}  # fmt: skip
"""The names that a format has of its own, tried in this order where no row is here to tell."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A data set, as far as it was seen."""

    source: DatasetConfig
    format: DataFormat
    """`auto` only where no row is here."""
    shapes: tuple[dict[str, str], ...]
    """The columns without which a row cannot be read: the format's key -> the column, as it is
    called once `data.columns` has renamed it. Several where rows differ."""
    beside: dict[str, str]
    """The columns that rows may lack (input, context, tools): the key -> the column in the file."""
    traits: frozenset[Trait]
    flags: frozenset[str]
    """The names of the flags among them."""
    here: bool
    complete: bool
    """Every row was seen."""

    def may_have(self, trait: Trait) -> bool:
        """Whether rows have this, or may have it where none was seen."""
        return trait in self.traits or not self.complete

    def column(self, key: str) -> str:
        """The column that a key is read from, as the file calls it; of several, the first."""
        column = self.shapes[0].get(key, key)
        return self.source.columns.get(column, column)


def all_rows_seen(data: DataConfig, tool: str) -> list[Rows]:
    """What the data sets of a run hold.

    Raises:
        ConvertError: a format cannot be written for `tool`; or a run could not tell it either.
    """
    check_formats(data, tool)
    return [rows_seen(source, tool) for source in data.sources]


def rows_seen(source: DatasetConfig, tool: str) -> Rows:
    """What one data set holds.

    Raises:
        ConvertError: as `all_rows_seen`.
    """
    # Not at the top: these load numpy, and a module that a command imports shall not.
    from ..data.errors import DataError
    from ..data.formats.columns import THREAD_KEYS, renamed, row_keys
    from ..data.formats.detect import detect
    from ..data.formats.fits import OPTIONAL, fits_of
    from ..data.formats.normal import Conversation
    from ..data.formats.normalise import normalise
    from ..data.read.slices import slices_of

    if own := [key for key in THREAD_KEYS if key in source.columns]:
        raise ConvertError(refusal(f"data.columns={{{own[0]}: ...}}", "what makes conversations", tool, source.path))
    if source.roles or source.header is not None:
        key = "data.roles" if source.roles else "data.header"
        raise ConvertError(refusal(key, "what it says", tool, source.path))
    beside = {key: name for key, name in source.columns.items() if key in OPTIONAL}
    if source.path != "demo" and not Path(source.path).expanduser().exists():
        return Rows(
            source=source,
            format=source.format,
            shapes=DEFAULT_NAMES.get(source.format, ()),
            beside=beside,
            traits=frozenset(),
            flags=frozenset(),
            here=False,
            complete=False,
        )
    traits: set[Trait] = set()
    flags: set[str] = set()
    try:
        slices = slices_of(source)
        first = next(slices)
        complete = next(slices, None) is None
        rows = [row for row in first.rows if not row.broken]
        if not rows:
            raise ConvertError(first.rows[0].broken)
        found = detect(rows, source.columns, format=source.format)
    except StopIteration:
        raise ConvertError(f"{source.path}: holds no rows") from None
    except DataError as error:
        raise ConvertError(str(error)) from error
    if found.format not in WRITABLE:
        raise ConvertError(refusal(f"{source.path}: its format", found.format, tool, source.path))
    columns = {**found.settled, **source.columns}
    for row in rows:
        try:
            normal = normalise(row, found.format, columns)
        except DataError:
            continue  # it stops a run too, and that says why
        if not isinstance(normal, Conversation):
            continue
        value = renamed(row, columns).value
        assert isinstance(value, dict)  # a conversation is no running text
        for shape in fits_of(value, found.format, row_keys(columns)) or ():
            if odd := _without_words(value, shape.columns):
                raise ConvertError(refusal(f"{row.place}: {odd}", "it", tool, source.path))
            own = {key: column for key, column in shape.columns.items() if key in OPTIONAL}
            beside |= {key: columns.get(column, column) for key, column in own.items()}
            if found.format in ("messages", "sharegpt"):
                flags |= _flags(value[shape.columns["messages"]])
        traits |= _traits(normal, found.format)
    if "system" in beside:
        traits.add("system")
    shapes = tuple(shape.required or {"text": "text"} for shape in found.shapes)
    return Rows(
        source=source,
        format=found.format,
        shapes=shapes or DEFAULT_NAMES[found.format],
        beside=beside,
        traits=frozenset(traits),
        flags=frozenset(flags),
        here=True,
        complete=complete,
    )


def _traits(row: "Conversation", format: DataFormat) -> set[Trait]:
    from ..data.formats.normal import is_empty

    roles = [message["role"] for message in row.messages]
    answers = [place for place, role in enumerate(roles) if role == "assistant"]
    learnt = [place for place in answers if place not in row.masked]
    chat = format in ("messages", "sharegpt")
    blank = {place for place in answers if is_empty(row.messages[place])}
    lists = format == "prompt_completion" and row.plain is None
    has: dict[Trait, bool] = {
        "calls": "tool" in roles or any("tool_calls" in message for message in row.messages),
        "tools": bool(row.tools),
        "flags": chat and bool(row.masked - blank),
        "blank": bool(blank),
        "history": format == "alpaca" and len(answers) > 1,
        "lists": lists,
        "answered": lists and bool(row.masked),
        "between": lists and roles[learnt[0] : learnt[-1]].count("assistant") < learnt[-1] - learnt[0],
    }  # fmt: skip
    return {trait for trait, there in has.items() if there}


def _without_words(value: dict[str, Any], columns: Mapping[str, str]) -> str:
    """What of a row other tools have no words for; empty where they have for all."""
    if "prompt" in columns and value.get(columns.get("history", "")):
        return "`history` beside a prompt"
    for key in ("prompt", "completion", "messages", "system"):
        item = value.get(columns.get(key, ""))
        texts = isinstance(item, list) and any(isinstance(one, str) for one in item)
        if (
            texts
            or (isinstance(item, dict) and "messages" in item)
            or (key == "system" and isinstance(item, dict | list))
        ):
            return f"`{columns[key]}`, which is no text and no messages"
        for turn in item if isinstance(item, list) else ():
            said = turn.get("content") if isinstance(turn, dict) else None
            if isinstance(turn, dict) and (
                "parts" in turn or (isinstance(said, list) and not all(map(_is_text, said)))
            ):
                return f"`{columns[key]}`, whose content stands in parts"
            if isinstance(turn, dict) and turn.get("loss_weight") is not None:
                return "`loss_weight`"
    return ""


def _is_text(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and "text" in part


def _flags(turns: object) -> set[str]:
    objects = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return {key for key in FLAGS if any(turn.get(key) is not None for turn in objects)}
