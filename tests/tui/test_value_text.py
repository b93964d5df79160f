"""Numbers and places in words."""

import pytest

from evenfall.engine.data.report.findings import Place
from evenfall.tui.value_text import counted, places_text, share_text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (0.0031, "0.31 %"), (0.05, "5 %"), (0.413, "41 %"), (0.9996, "99.9 %"), (1, "100 %")],
)  # fmt: skip
def test_what_is_nearly_all_is_not_called_all(share, text):
    assert share_text(share) == text


def test_one_is_no_plural():
    assert [counted(n, "row") for n in (0, 1, 2500)] == ["0 rows", "1 row", "2,500 rows"]


def test_places_name_their_file_unless_there_is_but_one():
    here = [Place("a.jsonl", 3), Place("a.jsonl", 1200)]
    assert places_text(here, 2, "a.jsonl") == "rows 3, 1,200"
    assert places_text(here, 14, "data/") == "rows 3, 1,200 and 12 more of a.jsonl"
    assert places_text(here[:1], 1) == "row 3 of a.jsonl"
    assert places_text([*here, Place("b.jsonl", 3)], 3) == "rows a.jsonl:3, a.jsonl:1200, b.jsonl:3"
