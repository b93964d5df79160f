"""Rows that are read here and that other tools have no words for are refused, not written wrongly."""

import json

import pytest

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.convert.report import ConvertError
from evenfall.engine.convert.rows_seen import all_rows_seen

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "data", "words"),
    [
        ({"query": "q", "response": "a", "history": [["x", "y"]]}, {}, "`history` beside a prompt"),
        ({"input": ["q"], "output": ["a"]}, {}, "`input`, which is no text"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": [{"text": "a"}]}]}, {}, "stands in parts"),
        ({"contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]}, {},
         "stands in parts"),
        ({"messages": TURNS, "system": [{"text": "s"}]}, {}, "`system`, which is no text"),
        ({"messages": [TURNS[0], {**TURNS[1], "loss_weight": 1}]}, {}, "`loss_weight`"),
        ({"messages": TURNS}, {"roles": {"Bot": "assistant"}}, "data.roles"),
        ({"id": "1", "up": None, **TURNS[1]}, {"columns": {"id": "id", "parent": "up"}}, "data.columns={id"),
    ],
)  # fmt: skip
def test_what_another_tool_has_no_words_for_is_refused(tmp_path, row, data, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    config = parse_config({"data": {"path": str(path), **data}})
    with pytest.raises(ConvertError, match=words):
        all_rows_seen(config.data, "TRL")
