"""What has to be asked before anything is learnt, though the format is certain.

Of preference data and of labelled answers supervised fine-tuning learns a part. A column that is likely part of the
row and would not be read, a text that is the same in every row, and a role that nobody knows would be found out after
the training.
"""

from collections.abc import Mapping, Sequence

from ..errors import listed
from ..row import SourceRow
from .columns import TURN_KEYS, renamed
from .detect import Detection
from .dialogue import read_dialogue
from .fits import Fit
from .leftover import is_constant
from .normalise import columns_text
from .turns import ROLES
from .ways import Candidate, UndecidedFormat, by_columns_of_text, columns_of, in_file, settings_of, threads


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
    """
    shape = found.shapes[0] if found.shapes else None
    if shape is not None and shape.format in ("messages", "sharegpt"):
        _ask_about_speakers(shape, rows, columns)
    first = next((row for row in rows if isinstance(row.value, dict)), None)
    if shape is None or first is None:
        return
    same = shape.format == "text" and is_constant(found.columns["text"], rows)
    if not found.parts and not same:
        return
    picked = [renamed(row, columns) for row in rows]
    ways: list[Candidate] = [*threads(first, picked)]
    if found.format == "text":
        ways += by_columns_of_text(renamed(first, columns), columns, picked)
    as_found = Candidate(
        format=found.format,
        columns=settings_of(shape, columns),
        reason=f"as {shape.reason}; {_left_out(found.parts)}",
        ignore=found.parts,
    )
    if same:
        what = f"`{found.columns['text']}`, the only text, says the same in all {len(rows)} rows looked at"
        ways = [one for one in ways if one.format != "text"]
    else:
        what = f"is {found.format} ({shape.reason}), and {listed(found.parts)} would not be read"
        ways = [one for one in ways if one.format != "text"] + [as_found]
    raise UndecidedFormat(what, ways, list(first.value), first)


def _ask_about_speakers(shape: Fit, rows: Sequence[SourceRow], columns: Mapping[str, str]) -> None:
    """Refuse turns of two speakers whose names nobody knows; other names are for their rows' reader to tell."""
    key = "role" if shape.format == "messages" else "from"
    first: dict[str, SourceRow] = {}
    for row in rows:
        value = renamed(row, columns).value
        turns = value.get(shape.columns["messages"]) if isinstance(value, dict) else None
        for turn in turns if isinstance(turns, list) else ():
            if isinstance(turn, dict) and isinstance(turn.get(key), str):
                first.setdefault(turn[key], row)
    if len(first) != 2 or any(name.strip().lower() in ROLES for name in first):
        return
    column = columns.get(shape.columns["messages"], shape.columns["messages"])
    names = dict.fromkeys(first)
    ways = [
        Candidate(
            format=shape.format,
            columns=settings_of(shape, columns),
            reason=f"`{answers}` answers `{asks}`",
            settings=(f"data.roles={columns_text({asks: 'user', answers: 'assistant'})}",),
        )
        for asks, answers in (tuple(names), tuple(names)[::-1])
    ]
    row = next(iter(first.values()))
    raise UndecidedFormat(
        f"`{column}` has turns of {listed(names)}, and neither is a role", ways, columns_of(row, columns), row
    )


def _left_out(columns: Sequence[str]) -> str:
    return f"{listed(columns)} {'is' if len(columns) == 1 else 'are'} left out"
