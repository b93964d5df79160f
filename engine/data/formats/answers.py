"""What may be the answer to what, where no names say so: ways to read rows, told from what their columns hold.

The likeliest first: an answer has a name that says so, differs from row to row and is no number, stands behind its
prompt, and is the longer one. A prompt may be a chat that waits for its answer.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..row import SourceRow
from .dialogue import read_dialogue
from .fits import ANSWERS, BESIDE, READ_BESIDE, WORSE_ENDINGS, is_answer_name, is_history, text_columns
from .leftover import is_part_name
from .turns import ROLES, served, style_of
from .ways import Candidate, in_file

_MOST_TEXTS = 5
_WORSE = {"rejected", "rejected_response", "rejected_messages", "non_preferred_output", "worse", "bad"}
_CLASSES = {"label", "labels", "class", "intent"}
"""Columns that hold what a text is to be told for; often a number."""
_NO_ANSWERS = {*BESIDE, *READ_BESIDE, "criteria", "rubric", "rubrics"}
"""Columns beside a chat that do not answer it, the measure of its answers among them."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ][\d:.,+\-Z ]*)?")
_RESPONSES = ("function_call", "reasoning")
"""Items of OpenAI's Responses that are an assistant's, though they have no role."""


class _Columns:
    """What columns hold in the rows looked at."""

    def __init__(self, names: Sequence[str], picked: Sequence[SourceRow]) -> None:
        self.values = {
            column: [one.value[column] for one in picked if isinstance(one.value, dict) and one.value.get(column)]
            for column in names
        }
        self.names = [column for column in names if not _is_no_text(self.values[column])]
        self.length = {column: sum(len(str(value)) for value in self.values[column]) for column in self.names}
        self.place = {column: number for number, column in enumerate(self.names)}

    def is_same(self, column: str) -> bool:
        return len(self.values[column]) > 1 and len(set(map(str, self.values[column]))) == 1

    def doubts(self, column: str) -> int:
        """Why a column is not the answer."""
        number = not _names_an_answer(column) and all(
            str(value).replace(".", "", 1).strip("+-").isdecimal() for value in self.values[column]
        )
        return 2 * (self.is_same(column) or number) + (column.lower() in _WORSE or column.endswith(WORSE_ENDINGS))

    def is_dialogue(self, column: str) -> bool:
        """Whether both sides of a conversation stand in the text."""
        return all(isinstance(value, str) and read_dialogue(value) for value in self.values[column])


def by_columns_of_text(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Any column of text may be the answer to any other, and a document."""
    assert isinstance(row.value, dict)
    told = _Columns(text_columns(row.value), picked)
    if not 1 <= len(told.names) <= _MOST_TEXTS:
        return []

    def unlikely(pair: tuple[str, str]) -> tuple[object, ...]:
        prompt, answer = pair
        return (
            told.doubts(answer), told.doubts(prompt), not _names_an_answer(answer), _names_an_answer(prompt),
            len(given - {prompt, answer}),
            told.place[answer] < told.place[prompt], -told.length[answer], told.place[prompt],
        )  # fmt: skip

    given = {column for column in told.names if is_part_name(column, "prompt_completion")}
    pairs = sorted(itertools.permutations(told.names, 2), key=unlikely)
    documents = sorted(
        (one for one in told.names if not told.is_same(one)),
        key=lambda column: (told.doubts(column), column.lower() not in ANSWERS, -told.length[column]),
    )
    name = {column: columns.get(column, column) for column in told.names}
    return [
        *(
            Candidate(
                format="prompt_completion", columns=in_file({"prompt": prompt, "completion": answer}, columns),
                reason=f"`{name[answer]}` is learnt as the answer to `{name[prompt]}`",
            )
            for prompt, answer in pairs
            if not (told.is_same(prompt) and told.is_same(answer)) and not any(map(told.is_dialogue, (prompt, answer)))
        ),
        *(
            Candidate(
                format="text", columns=in_file({"text": one}, columns),
                reason=f"each `{name[one]}` a document, learnt whole",
            )
            for one in documents[:1]
        ),
    ]  # fmt: skip


def by_chat_and_answer(row: SourceRow, columns: Mapping[str, str], picked: Sequence[SourceRow]) -> list[Candidate]:
    """Columns that may be the answer to a chat in another one that waits for it."""
    value = row.value
    assert isinstance(value, dict)
    chats = [one for one in value if waits_for_an_answer(one, picked) and not is_history(one)]
    answers = [column for column, item in value.items() if column.lower() not in _NO_ANSWERS and _is_answer(item)]
    told = _Columns([one for one in answers if one not in chats and not one.lower().endswith("_id")], picked)
    able = [one for one in told.names if not told.is_same(one)]
    able = [one for one in able if _names_an_answer(one) or not isinstance(value[one], str)] or able
    name = {column: columns.get(column, column) for column in value}

    def unlikely(column: str) -> tuple[object, ...]:
        return told.doubts(column), not _names_an_answer(column), -told.length[column]

    return [
        Candidate(
            format="prompt_completion", columns=in_file({"prompt": chat, "completion": answer}, columns),
            reason=f"`{name[answer]}` is learnt as the answer to the chat in `{name[chat]}`",
        )
        for chat in chats
        for answer in sorted(able, key=unlikely)
    ]  # fmt: skip


def waits_for_an_answer(column: str, picked: Sequence[SourceRow]) -> bool:
    """Whether most of the chats in a column end with another turn than the assistant's."""
    chats = [one.value[column] for one in picked if isinstance(one.value, dict) and one.value.get(column)]
    ends = [_last_side(chat) for chat in chats]
    return 2 * sum(side in ("user", "system", "tool") for side in ends) > len(ends)


def _last_side(chat: Any) -> str | None:
    """Whose turn the last one of a list of turns is; None: it is no such list."""
    chat = served(chat)
    if not isinstance(chat, list) or not chat or not isinstance(last := chat[-1], dict) or style_of(chat) is None:
        return None
    role = last.get("role") or last.get("from")
    return ROLES.get(role.strip().lower()) if isinstance(role, str) else None


def _is_answer(value: Any) -> bool:
    """Whether a value may answer a chat: a text, a list of texts, a message or messages of the assistant."""
    value = served(value)
    if isinstance(value, list):
        value = value[0] if value else None
    if not isinstance(value, dict):
        return isinstance(value, str) and bool(value.strip())
    role = value.get("role") or value.get("from")
    if isinstance(role, str):
        return ROLES.get(role.strip().lower()) in ("assistant", "call")
    return value.get("type") in _RESPONSES


def _names_an_answer(column: str) -> bool:
    return is_answer_name(column) or column.strip().lower() in _CLASSES


def _is_no_text(values: Sequence[Any]) -> bool:
    """Whether a column says nothing at all, or is when the row was made."""
    return all(isinstance(value, str) and (not value.strip() or _DATE.fullmatch(value)) for value in values)
