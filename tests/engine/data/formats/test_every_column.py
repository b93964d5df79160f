"""Every column of a row is read, named as not read, or asked about: none is left over in silence."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.ask import ask_about_the_rest
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.formats.ways import UndecidedFormat
from evenfall.engine.data.row import SourceRow

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHARE = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
BASES: list[dict[str, Any]] = [
    {"messages": CHAT}, {"conversations": SHARE}, {"contents": [{"role": "user", "parts": [{"text": "q"}]},
     {"role": "model", "parts": [{"text": "a"}]}]},
    {"instruction": "i", "output": "o"}, {"instruction": "i", "input": "x", "output": "o"},
    {"Instruct": "i", "Output": "o"},
    {"prompt": "p", "completion": "c"}, {"question": "p", "answer": "c"}, {"query": "p", "response": "c"},
    {"prompt": CHAT[:1], "completion": CHAT[1:]}, {"input": ["p"], "output": ["c"]},
    {"text": "t"}, {"content": "t"}, {"input_ids": [1, 2, 3]}, {"segments": [{"text": "t", "label": True}]},
    {"prompt": "p", "chosen": "c", "rejected": "r"}, {"chosen": CHAT, "rejected": CHAT},
    {"prompt": "p", "completion": "c", "label": True},
]  # fmt: skip
NAMES = st.sampled_from(
    ["system", "system_prompt", "tools", "functions", "history", "context", "input", "label", "labels", "id", "source",
     "role", "parent_id", "score", "images", "reasoning", "choices", "topic", "Notes", "text", "rejected", "prompt",
     "attention_mask", "kto_tag", "title", "weight", "train", "systemInstruction", "toolConfig", "response_k"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(["words", "other words"]), st.integers(0, 1), st.booleans(), st.just(["one", "two"]),
    st.just([["a", "b"]]), st.just({"key": "value"}), st.just([1, 1, 1]), st.just([{"name": "f"}]),
)  # fmt: skip


def told(value: dict[str, Any]) -> tuple[Any, tuple[str, ...]] | None:
    """What a row becomes and the columns that are named as not read; None where it is asked about or refused."""
    row = SourceRow(file="f", number=1, value=value)
    try:
        found = detect([row])
        ask_about_the_rest(found, [row], {})
        normal = normalise(row, found.format, found.settled)
    except (UndecidedFormat, DataError):
        return None
    shown = {key: item for key, item in vars(normal).items() if key != "source"}
    made = {key: item.tolist() if hasattr(item, "tolist") else item for key, item in shown.items()}
    return {"kind": type(normal).__name__, "format": found.format, **made}, found.unread


def changed(item: Any) -> list[Any]:
    if isinstance(item, bool) or item in (0, 1):
        return [not item]
    if isinstance(item, str):
        return [f"{item}, changed"]
    if isinstance(item, dict):
        return [{**item, "other": "x"}]
    return [[*item, item[0]], [0, *item[1:]]]


@given(st.sampled_from(BASES), st.dictionaries(NAMES, VALUES, max_size=3))
def test_no_column_is_left_over_in_silence(base, more):
    value = {**more, **base}
    whole = told(value)
    if whole is None:
        return
    made, unread = whole
    if made["kind"] == "Dropped":  # for its label: nothing else of it matters
        return
    for column, item in value.items():
        if column in unread or item in ("", [], {}):
            continue
        others = [{key: one for key, one in value.items() if key != column}]
        others += [{**value, column: other} for other in changed(item)]
        # Taken away or changed, a column that is read changes what is learnt, or the row is none that is understood.
        assert any(other is None or other[0] != made for other in map(told, others)), column
