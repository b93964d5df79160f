"""Ways in which rows may be read, with the settings that take each: what an undecided format offers.

The form on screen shows them, the command line prints their settings, so each has to work as it stands.
"""

import itertools
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...config.run_config import DataFormat
from ..errors import DataError, listed
from ..row import SourceRow
from .columns import TURN_KEYS, row_keys
from .fits import Fit
from .leftover import left_out, read_as
from .normalise import ACCEPTED, columns_text
from .turns import ROLES

SAID_UNDER = ("text", "content", "body", "message")
"""Where a message of another tool says what it says."""
_FEW_VALUES = 8  # a key of turns that takes no more values is taken for the role, if asked


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way in which rows can be read."""

    format: DataFormat
    columns: dict[str, str]
    """`data.columns` that settles it: the format's key -> the column in the file."""
    reason: str
    """Why it fits, in words."""
    ignore: tuple[str, ...] = ()
    """Columns that are then not read."""
    settings: tuple[str, ...] = ()
    """What else it takes, as overrides."""

    @property
    def overrides(self) -> list[str]:
        """The settings, each as `RunConfig.with_overrides` takes it."""
        columns = [f"data.columns={columns_text(self.columns)}"] if self.columns else []
        ignore = [f"data.ignore={columns_text(list(self.ignore))}"] if self.ignore else []
        return [f"data.format={self.format}", *columns, *ignore, *self.settings]

    @property
    def override(self) -> str:
        """The settings in one line, as a shell takes them."""
        return shlex.join(self.overrides)


class UndecidedFormat(DataError):
    """More than one way to read the rows, or none that is known: somebody has to say.

    Args:
        message: what was found, as an error says it.
        candidates: what there is to choose from, the likeliest first; may be empty.
        columns: the row's columns.
        row: the row that it was seen in.
        speakers: names that turns have for roles, and that nobody knows.
        format: of the rows, where that is known.
    """

    def __init__(
        self,
        message: str,
        candidates: Sequence[Candidate],
        columns: Sequence[str],
        row: SourceRow,
        speakers: Sequence[str] = (),
        format: DataFormat = "auto",
    ) -> None:
        self.what = message
        self.speakers = tuple(speakers)
        self.format: DataFormat = format
        self.candidates = tuple(candidates)
        self.columns = tuple(columns)
        self.row = row
        if candidates:
            ways = "".join(f"\n  {one.override}\n    {one.reason}" for one in self.candidates)
            message += f". To choose, set one of:{ways}"
        elif speakers:
            likely = columns_text(dict(zip(speakers, itertools.cycle(("user", "assistant")), strict=False)))
            message += f". data.roles={likely} says which is which; system and tool are roles too"
        else:
            message += (
                f"; {ACCEPTED}. Name a format and its columns, such as data.format=prompt_completion "
                "data.columns={prompt: COLUMN, completion: COLUMN}, or data.format=text "
                "data.columns={text: COLUMN}"
            )
        super().__init__(f"{row.place}: {message}")

    def or_else(self, way: Candidate) -> "UndecidedFormat":
        """The same, with one more to choose from."""
        return UndecidedFormat(self.what, [*self.candidates, way], self.columns, self.row, self.speakers, self.format)


def in_file(keys: Mapping[str, str], columns: Mapping[str, str]) -> dict[str, str]:
    return {key: columns.get(column, column) for key, column in keys.items()}


def columns_of(row: SourceRow, columns: Mapping[str, str]) -> list[str]:
    """The columns as the file names them."""
    assert isinstance(row.value, dict)
    return [columns.get(column, column) for column in row.value]


def candidate_of(shape: Fit, columns: Mapping[str, str]) -> Candidate:
    """A shape as settings: its required columns, and others where they have names of their own."""
    own = {k: c for k, c in shape.columns.items() if k in shape.required or k != c}
    turns = {key: name for key, name in columns.items() if key in TURN_KEYS}
    return Candidate(format=shape.format, columns=in_file(own, columns) | turns, reason=shape.reason)


def settings_of(shape: Fit, columns: Mapping[str, str]) -> dict[str, str]:
    own = {key: column for key, column in shape.columns.items() if key != column}
    turns = {key: name for key, name in columns.items() if key in TURN_KEYS}
    return in_file(own, columns) | row_keys(columns) | turns


def turns_of_other_keys(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Columns whose turns have keys of other names: one takes few values, which may be roles, another is the text."""
    assert isinstance(row.value, dict)
    found = []
    for column in row.value:
        lists = [one.value.get(column) for one in picked if isinstance(one.value, dict)]
        turns = [turn for one in lists if isinstance(one, list) for turn in one]
        if not turns or not all(isinstance(turn, dict) and turn.keys() == turns[0].keys() for turn in turns):
            continue
        values = {key: [turn[key] for turn in turns if isinstance(turn[key], str)] for key in turns[0]}
        roles = [key for key, said in values.items() if len(said) == len(turns) and _are_sides(said)]
        if len(values) == 2:
            role, content = sorted(values, key=lambda key: len(set(values[key])))
        elif roles:
            role = roles[0]
            content = max((key for key in values if key != role), key=lambda key: sum(map(len, values[key])))
        else:
            continue
        names, name = list(dict.fromkeys(values[role])), columns.get(column, column)
        few = 1 < len(names) <= min(_FEW_VALUES, len(set(values[content])))
        if few and len(names) == 2 and not all(one.strip().lower() in ROLES for one in names):
            found += _two_speakers(name, role, content, names)
        if few and _are_sides(names):
            found.append(
                Candidate(
                    format="messages",
                    columns={"messages": name, "role": role, "content": content},
                    reason=f"turns of `{role}` ({', '.join(sorted(names))}) and `{content}`",
                )
            )
    return found


def _are_sides(names: Collection[str]) -> bool:
    """Whether names are roles, a user's and an assistant's among them."""
    sides = {ROLES.get(name.strip().lower()) for name in names}
    return None not in sides and {"user", "assistant"} <= sides


def _two_speakers(column: str, role: str, content: str, names: Sequence[str]) -> list[Candidate]:
    """Turns of two speakers whose names say nothing: the one that begins is the user, or the other one."""
    first, other = names
    return [
        Candidate(
            format="messages",
            columns={"messages": column, "role": role, "content": content},
            reason=f"`{answers}` answers `{asks}`",
            settings=(f"data.roles={columns_text({asks: 'user', answers: 'assistant'})}",),
        )
        for asks, answers in ((first, other), (other, first))
    ]  # fmt: skip


def threads(row: SourceRow, picked: Sequence[SourceRow]) -> Iterator[Candidate]:
    """Rows that are single messages of conversations, or trees of them."""
    assert isinstance(row.value, dict)
    value = row.value
    for column, item in value.items():
        if isinstance(item, dict) and isinstance(item.get("replies"), list) and isinstance(item.get("role"), str):
            content = next((name for name in ("text", "content") if isinstance(item.get(name), str)), None)
            if content:
                columns = {"tree": column, "replies": "replies", "role": "role", "content": content}
                yield Candidate(
                    format="messages",
                    columns=columns,
                    reason=f"each way through the replies of `{column}` a conversation",
                )
    roles = [one.value.get("role") for one in picked if isinstance(one.value, dict)]
    if not all(isinstance(role, str) and role.strip().lower() in ROLES for role in roles):
        return
    parent = next((name for name in ("parent_id", "parent", "reply_to", "in_reply_to") if name in value), None)
    own = next((name for name in ("message_id", "id", "uuid") if name in value), None)
    content = next((name for name in SAID_UNDER if isinstance(value.get(name), str)), None)
    if parent and own and content:
        columns = {"id": own, "parent": parent, "role": "role", "content": content}
        yield Candidate(
            format="messages",
            columns=columns,
            reason=f"conversations along `{parent}`, each row a message of its `role`",
        )


def with_the_rest(way: Candidate, rows: Sequence[SourceRow]) -> Iterator[Candidate]:
    """A way, with what it leaves out: read under the format's other keys, or named as left out.

    Args:
        rows: as they stand in the file.
    """
    rest = left_out(rows, way.format, way.columns.values())
    other = read_as(rows, way.format, way.columns, rest)
    for more in (other, {}) if other else ({},):
        ignore = tuple(name for name in rest if name not in more.values())
        said = [way.reason, *(f"`{column}` as `{key}`" for key, column in more.items())]
        said += [are_left_out(ignore)] if ignore else []
        yield replace(way, columns=way.columns | more, ignore=ignore, reason="; ".join(said))


def are_left_out(columns: Sequence[str]) -> str:
    return f"{listed(columns)} {'is' if len(columns) == 1 else 'are'} left out"
