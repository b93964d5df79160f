"""Ways in which rows may be read, with the settings that take each: what an undecided format offers.

The form on screen shows them, the command line prints their settings, so each has to work as it stands.
"""

import itertools
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...config.run_config import DataFormat
from ..errors import DataError
from ..row import SourceRow
from .columns import TURN_KEYS, row_keys
from .fits import ANSWERS, WORSE_ENDINGS, Fit, text_columns
from .normalise import ACCEPTED, columns_text
from .turns import ROLES

_MOST_TEXTS = 5
_WORSE = {"rejected", "rejected_response", "rejected_messages", "non_preferred_output", "worse", "bad"}
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
    """

    def __init__(self, message: str, candidates: Sequence[Candidate], columns: Sequence[str], row: SourceRow) -> None:
        self.candidates = tuple(candidates)
        self.columns = tuple(columns)
        self.row = row
        if candidates:
            ways = "".join(f"\n  {one.override}\n    {one.reason}" for one in self.candidates)
            message += f". To choose, set one of:{ways}"
        else:
            message += (
                f"; {ACCEPTED}. Name a format and its columns, such as data.format=prompt_completion "
                "data.columns={prompt: COLUMN, completion: COLUMN}, or data.format=text "
                "data.columns={text: COLUMN}"
            )
        super().__init__(f"{row.place}: {message}")


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


def turns_of_two_keys(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Columns whose turns have two keys each, of which one takes few values: that may be the role."""
    assert isinstance(row.value, dict)
    found = []
    for column in row.value:
        lists = [one.value.get(column) for one in picked if isinstance(one.value, dict)]
        turns = [turn for one in lists if isinstance(one, list) for turn in one]
        keys = list(turns[0]) if turns and isinstance(turns[0], dict) else []
        if len(keys) != 2 or not all(isinstance(t, dict) and set(t) == set(keys) for t in turns):
            continue
        values = {key: {turn[key] for turn in turns if isinstance(turn[key], str)} for key in keys}
        role, content = sorted(keys, key=lambda key: len(values[key]))
        few = 1 < len(values[role]) <= min(_FEW_VALUES, len(values[content]))
        known = all(name.strip().lower() in ROLES for name in values[role])
        if few and not known and len(values[role]) == 2:
            found += _two_speakers(columns.get(column, column), role, content, turns[0][role], values[role])
        if few and known:
            found.append(
                Candidate(
                    format="messages",
                    columns={"messages": columns.get(column, column), "role": role, "content": content},
                    reason=f"turns of `{role}` ({', '.join(sorted(values[role]))}) and `{content}`",
                )
            )
    return found


def _two_speakers(column: str, role: str, content: str, first: str, names: Iterable[str]) -> list[Candidate]:
    """Turns of two speakers whose names say nothing: the one that begins is the user, or the other one."""
    other = next(name for name in names if name != first)
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
    content = next((name for name in ("text", "content", "body", "message") if isinstance(value.get(name), str)), None)
    if parent and own and content:
        columns = {"id": own, "parent": parent, "role": "role", "content": content}
        yield Candidate(
            format="messages",
            columns=columns,
            reason=f"conversations along `{parent}`, each row a message of its `role`",
        )


def by_columns_of_text(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Any column of text may be the answer to any other, and a document.

    The likeliest first: an answer has a name that says so, differs from row to row and is no number, stands behind its
    prompt, and is the longer one.
    """
    assert isinstance(row.value, dict)
    texts = text_columns(row.value)
    if not 1 <= len(texts) <= _MOST_TEXTS:
        return []
    values = {
        column: [one.value[column] for one in picked if isinstance(one.value, dict) and one.value.get(column)]
        for column in texts
    }
    length = {column: sum(len(str(value)) for value in values[column]) for column in texts}
    place = {column: number for number, column in enumerate(texts)}

    def doubts(column: str) -> int:
        """Why a column is not the answer."""
        same = len(values[column]) > 1 and len(set(map(str, values[column]))) == 1
        number = all(str(value).replace(".", "", 1).strip("+-").isdecimal() for value in values[column])
        return 2 * (same or number) + (column.lower() in _WORSE or column.endswith(WORSE_ENDINGS))

    def unlikely(pair: tuple[str, str]) -> tuple[object, ...]:
        prompt, answer = pair
        return (
            doubts(answer), doubts(prompt), answer.lower() not in ANSWERS, prompt.lower() in ANSWERS,
            place[answer] < place[prompt], -length[answer], place[prompt],
        )  # fmt: skip

    pairs = sorted(itertools.permutations(texts, 2), key=unlikely)
    documents = sorted(texts, key=lambda column: (doubts(column), column.lower() not in ANSWERS, -length[column]))
    name = {column: columns.get(column, column) for column in texts}
    return [
        *(
            Candidate(
                format="prompt_completion", columns=in_file({"prompt": prompt, "completion": answer}, columns),
                reason=f"`{name[answer]}` is learnt as the answer to `{name[prompt]}`",
            )
            for prompt, answer in pairs
        ),
        *(
            Candidate(
                format="text", columns=in_file({"text": one}, columns),
                reason=f"each `{name[one]}` a document, learnt whole",
            )
            for one in documents[:1]
        ),
    ]  # fmt: skip
