"""Conversations out of single messages: a message a row that names the one it answers, or a tree of replies in a row.

    data.columns={id: message_id, parent: parent_id, role: role, content: text}
    data.columns={tree: prompt, replies: replies, role: role, content: text}

Each path from a first message to one that nobody answered becomes a row of `messages`. Paths share their beginnings:
an answer that stands in several is learnt in the first of them alone (`weight` 0 in the others), and is what the next
turns follow in all. A message whose parent is not there begins a conversation.

Messages of one conversation may stand anywhere in a file, so all are read before the first row is given.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import shown
from ..row import SourceRow

_ROLE, _CONTENT, _REPLIES = "role", "text", "replies"


def is_threaded(columns: Mapping[str, str]) -> bool:
    """Whether `data.columns` says that rows are messages, or trees of them."""
    return "parent" in columns or "tree" in columns


def conversations(rows: Iterable[SourceRow], columns: Mapping[str, str]) -> Iterator[SourceRow]:
    """The rows as conversations, in the order of their last messages.

    Args:
        columns: `id` and `parent`, or `tree` and `replies`; and `role` and `content`, a message's keys.

    Raises:
        DataError: a row has no message, two have the same id, or messages answer each other in a circle.
    """
    if "tree" in columns:
        for row in rows:
            yield from _of_tree(row, columns) if not row.broken else [row]
        return
    yield from _of_messages(rows, columns)


def _turn(row: SourceRow, at: str, value: Any, columns: Mapping[str, str]) -> dict[str, Any]:
    role, content = columns.get("role", _ROLE), columns.get("content", _CONTENT)
    if not isinstance(value, dict) or role not in value or content not in value:
        raise row.error(f"{at}expected a message with `{role}` and `{content}`, got {shown(value)}")
    return {"role": value[role], "content": value[content]}


def _path(turns: list[tuple[Any, dict[str, Any]]], learnt: set[Any]) -> list[dict[str, Any]]:
    """A conversation of which every answer is learnt that was not before."""
    messages = []
    for key, turn in turns:
        messages.append({**turn, "weight": 0} if key in learnt else turn)
        learnt.add(key)
    return [
        {name: item for name, item in turn.items() if name != "weight" or _answers(turn)} for turn in messages
    ]  # fmt: skip


def _answers(turn: dict[str, Any]) -> bool:
    from ..formats.turns import ROLES

    role = turn["role"]
    return isinstance(role, str) and ROLES.get(role.strip().lower()) == "assistant"


def _of_tree(row: SourceRow, columns: Mapping[str, str]) -> Iterator[SourceRow]:
    assert isinstance(row.value, dict)
    column, replies = columns["tree"], columns.get("replies", _REPLIES)
    learnt: set[Any] = set()
    # (the message, the turns before it); a list as a stack, since trees may be deeper than Python calls
    waiting: list[tuple[Any, list[tuple[Any, dict[str, Any]]]]] = [(row.value.get(column), [])]
    while waiting:
        message, before = waiting.pop()
        turns = [*before, (id(message), _turn(row, f"`{column}`: ", message, columns))]
        further = message.get(replies) or []
        if not isinstance(further, list):
            raise row.error(f"`{column}`: `{replies}`: expected a list of messages, got {shown(further)}")
        if not further:
            yield _row(row, _path(turns, learnt))
        waiting += [(one, turns) for one in reversed(further)]


def _of_messages(rows: Iterable[SourceRow], columns: Mapping[str, str]) -> Iterator[SourceRow]:
    name, parent = columns.get("id", "id"), columns["parent"]
    known: dict[Any, tuple[SourceRow, Any, dict[str, Any]]] = {}
    for row in rows:
        if row.broken:
            yield row
            continue
        assert isinstance(row.value, dict)
        key = row.value.get(name)
        if not isinstance(key, str | int) or key in known:
            what = "is there already" if key in known else "is no id"
            raise row.error(f"`{name}`: {shown(key)} {what}; each message needs one of its own")
        before = row.value.get(parent)
        if not isinstance(before, str | int | None):
            raise row.error(f"`{parent}`: expected the id of another message, got {shown(before)}")
        known[key] = row, before, _turn(row, "", row.value, columns)
    _require_beginnings(known, parent)
    answered = {before for _, before, _ in known.values()}
    learnt: set[Any] = set()
    for key, (row, _, _) in known.items():
        if key not in answered:
            yield _row(row, _path(_turns_to(key, known), learnt))


def _require_beginnings(known: Mapping[Any, tuple[SourceRow, Any, dict[str, Any]]], parent: str) -> None:
    """Raises:
    DataError: messages answer each other in a circle, so that their conversation has no beginning.
    """
    begins: set[Any] = set()  # messages that are known to have one
    for key, (row, _, _) in known.items():
        way: dict[Any, None] = {}
        while key in known and key not in begins:
            if key in way:
                raise row.error(f"`{parent}`: messages answer each other in a circle")
            way[key] = None
            key = known[key][1]
        begins |= way.keys()


def _turns_to(key: Any, known: Mapping[Any, tuple[SourceRow, Any, dict[str, Any]]]) -> list[tuple[Any, dict[str, Any]]]:
    turns = []
    while key in known:
        _, before, turn = known[key]
        turns.append((key, turn))
        key = before
    return turns[::-1]


def _row(row: SourceRow, messages: list[dict[str, Any]]) -> SourceRow:
    return SourceRow(file=row.file, number=row.number, unit=row.unit, value={"messages": messages}, size=row.size)
