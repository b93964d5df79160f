"""What has to be asked before anything is learnt, though the format is certain.

Of preference data and of labelled answers supervised fine-tuning learns a part. A column that is likely part of the
row and would not be read, the answer that a chat waits for, a text that is the same in every row, and a role that
nobody knows would be found out after the training.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from ..errors import listed
from ..row import SourceRow
from .answers import by_chat_and_answer, by_columns_of_text, waits_for_an_answer
from .columns import TURN_KEYS, renamed, row_keys
from .detect import Detection
from .dialogue import read_dialogue
from .fits import BESIDE, Fit
from .leftover import is_constant, other_answers, read_as
from .normalise import columns_text
from .turns import ROLES
from .ways import (
    SAID_UNDER,
    Candidate,
    UndecidedFormat,
    are_left_out,
    columns_of,
    in_file,
    settings_of,
    threads,
    turns_of_other_keys,
    with_the_rest,
)


def ask_what_to_learn(found: Detection, row: SourceRow, columns: Mapping[str, str]) -> None:
    """Refuse to learn the good answers of preference or labelled data unless that was asked for.

    Raises:
        UndecidedFormat: the format is one of these two.
    """
    if found.format not in ("preference", "kto"):
        return
    shape = found.shapes[0]
    if found.format == "kto":
        what = f"answers labelled good or bad, KTO data ({shape.reason})"
        why = "supervised fine-tuning would learn the bad ones too"
        reason = "learns the answers labelled true; the others are dropped and counted"
        ways = [Candidate(format="kto", columns=settings_of(shape, columns), reason=reason)]
    else:
        what = f"preference data ({' or '.join(dict.fromkeys(s.reason for s in found.shapes))})"
        why = "supervised fine-tuning learns one answer, not which of two is better"
        ways = [
            Candidate(format="preference", columns=settings_of(shape, columns), reason="learns the chosen answers"),
            *_chosen_answers(shape, columns, renamed(row, columns)),
        ]
    raise UndecidedFormat(f"is {what}; {why}", ways, columns_of(row, columns), row)


def _chosen_answers(shape: Fit, columns: Mapping[str, str], row: SourceRow) -> list[Candidate]:
    """The chosen answers as data of another format."""
    keys = shape.columns
    assert isinstance(row.value, dict)
    chosen = row.value.get(keys["chosen"])
    if "prompt" not in keys:
        if isinstance(chosen, str) and read_dialogue(chosen):
            return []  # no other format reads a dialogue in one text
        if isinstance(chosen, str):
            reason = "learns the chosen texts whole"
            return [Candidate(format="text", columns=in_file({"text": keys["chosen"]}, columns), reason=reason)]
        turns = in_file({"messages": keys["chosen"]}, columns)
        return [Candidate(format="messages", columns=turns, reason="learns every answer of the chosen conversations")]
    alpaca = "input" in keys
    prompt, answer = ("instruction", "output") if alpaca else ("prompt", "completion")
    pair = {prompt: keys["prompt"], answer: keys["chosen"]}
    own = {key: column for key, column in in_file(pair, columns).items() if key != column}
    turns = {key: name for key, name in columns.items() if key in TURN_KEYS}
    return [Candidate(format="alpaca" if alpaca else "prompt_completion", columns=own | turns, reason="the same")]


def ask_about_the_rest(found: Detection, rows: Sequence[SourceRow], columns: Mapping[str, str]) -> None:
    """Refuse to leave out what is likely part of the row, and to learn what is one text throughout, unless that was
    asked for.

    Args:
        rows: as they stand in the file, the ones that `found` rests on.

    Raises:
        UndecidedFormat: there is such a column.
        DataError: they are chats without a single answer.
    """
    shape = found.shapes[0] if found.shapes else None
    first = next((row for row in rows if isinstance(row.value, dict)), None)
    if shape is None or first is None:
        return
    if shape.format in ("messages", "sharegpt"):
        _ask_about_speakers(shape, rows, columns)
        if not row_keys(columns) and waits_for_an_answer(shape.columns["messages"], rows):
            _ask_for_the_answer(found, shape, rows, first)
    same = shape.format == "text" and is_constant(found.columns["text"], rows)
    if not found.parts and not same:
        return
    picked = [renamed(row, columns) for row in rows]
    ways: list[Candidate] = [*threads(first, picked)]
    if found.format == "text":
        named = renamed(first, columns)
        guessed = [*turns_of_other_keys(named, columns, picked), *by_columns_of_text(named, columns, picked)]
        ways += [more for one in guessed for more in with_the_rest(one, rows)]
    else:
        ways += _with_parts(found, shape, rows)
    as_found = Candidate(
        format=found.format,
        columns=settings_of(shape, columns),
        reason=f"as {shape.reason}; {are_left_out(found.parts)}",
        ignore=found.parts,
    )
    if same:
        what = f"`{found.columns['text']}`, the only text, says the same in all {len(rows)} rows looked at"
        ways = [one for one in ways if one.format != "text"]
    else:
        what = f"is {found.format} ({shape.reason}), and {listed(found.parts)} would not be read"
        ways = [one for one in ways if one.format != "text"] + [as_found]
    raise UndecidedFormat(what, ways, list(first.value), first)


def _with_parts(found: Detection, shape: Fit, rows: Sequence[SourceRow]) -> Iterator[Candidate]:
    """The format as it was found, but for another column as the answer; or with parts read under its other keys."""
    own = settings_of(shape, {})
    key = "output" if shape.format == "alpaca" else "completion"
    for answer in other_answers(rows, found.parts) if key in shape.columns else ():
        rest = [*(part for part in found.parts if part != answer), shape.columns[key]]
        reason = f"`{answer}` is learnt as the answer; {are_left_out(rest)}"
        yield Candidate(format=shape.format, columns={**own, key: answer}, reason=reason, ignore=tuple(rest))
    if more := read_as(rows, shape.format, shape.columns, found.parts):
        rest = [part for part in found.parts if part not in more.values()]
        said = [f"`{column}` as `{key}`" for key, column in more.items()]
        said += [are_left_out(rest)] if rest else []
        yield Candidate(format=shape.format, columns={**own, **more}, reason="; ".join(said), ignore=tuple(rest))


def _ask_for_the_answer(found: Detection, shape: Fit, rows: Sequence[SourceRow], first: SourceRow) -> None:
    """Refuse chats that wait for their answers where a column beside them may hold it."""
    chat = shape.columns["messages"]
    row = next((row for row in rows if isinstance(row.value, dict) and row.value.get(chat)), first)
    ways = [one for one in by_chat_and_answer(row, {}, rows) if one.columns["prompt"] == chat]
    answers = [one.columns["completion"] for one in ways if one.columns["completion"] in found.unread]
    if answers:
        ways = [more for one in ways for more in with_the_rest(one, rows)]
        reason = f"as {shape.reason}, with the answers that it has; {are_left_out(answers)}"
        own = settings_of(shape, {})
        as_found = Candidate(format=found.format, columns=own, reason=reason, ignore=tuple(answers))
        what = f"`{chat}` ends without an answer, which may stand in {listed(answers)}"
        assert isinstance(row.value, dict)
        raise UndecidedFormat(what, [*ways, *([as_found] if _has_answers(chat, rows) else [])], list(row.value), row)
    if found.unread and not _has_answers(chat, rows):
        raise row.error(
            f"`{chat}` ends without an answer, as the others looked at do, and none is found beside it; not read: "
            f"{listed(found.unread)}. Where one of them holds it as text, set data.format=prompt_completion "
            f"data.columns={{prompt: {chat}, completion: COLUMN}}"
        )


def _has_answers(chat: str, rows: Sequence[SourceRow]) -> bool:
    """Whether an assistant speaks in any of the chats."""
    turns = (turn for row in rows if isinstance(row.value, dict) for turn in row.value.get(chat) or ())
    said = (turn.get("role") or turn.get("from") for turn in turns if isinstance(turn, dict))
    return any(isinstance(role, str) and ROLES.get(role.strip().lower()) in ("assistant", "call") for role in said)


_MOST_SPEAKERS = 6
"""Of rows that are looked at; more are people, not roles."""


def _ask_about_speakers(shape: Fit, rows: Sequence[SourceRow], columns: Mapping[str, str]) -> None:
    """Refuse turns of speakers whose names nobody knows, none of them; other names are for their rows' reader to
    tell."""
    key, content = ("role", "content") if shape.format == "messages" else ("from", "value")
    first: dict[str, SourceRow] = {}
    texts: Counter[str] = Counter()
    for row in rows:
        value = renamed(row, columns).value
        turns = value.get(shape.columns["messages"]) if isinstance(value, dict) else None
        for turn in turns if isinstance(turns, list) else ():
            if isinstance(turn, dict) and isinstance(turn.get(key), str):
                first.setdefault(turn[key], row)
                texts.update(
                    {
                        name: len(said)
                        for name, said in turn.items()
                        if name not in (key, *BESIDE) and isinstance(said, str)
                    }
                )
    if not 2 <= len(first) <= _MOST_SPEAKERS or any(name.strip().lower() in ROLES for name in first):
        return
    column = columns.get(shape.columns["messages"], shape.columns["messages"])
    names = dict.fromkeys(first)
    likely = [*(name for name in SAID_UNDER if name in texts), *(name for name, _ in texts.most_common())]
    said = {} if content in texts or not likely else {"messages": column, key: key, content: likely[0]}
    ways = [
        Candidate(
            format=shape.format,
            columns=settings_of(shape, columns) | said,
            reason=f"`{answers}` answers `{asks}`",
            settings=(f"data.roles={columns_text({asks: 'user', answers: 'assistant'})}",),
        )
        for asks, answers in ((tuple(names), tuple(names)[::-1]) if len(names) == 2 else ())
    ]
    row = next(iter(first.values()))
    what = f"`{column}` has turns of {listed(names)}, and none is a role"
    raise UndecidedFormat(what, ways, columns_of(row, columns), row, tuple(names), shape.format)
