"""The inspector: every row as the loop gets it, and why a row is not trained on."""

import json

import numpy as np
import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.inspector.inspect import Inspector
from evenfall.engine.data.inspector.token_text import token_texts
from evenfall.engine.data.prepare.prepare import prepare
from evenfall.engine.data.report.findings import DataCheck, Finding, Place, Statistics


@pytest.fixture
def inspect(tmp_path, chatml):
    """`inspect(rows, **data)`: an inspector of a file of these rows (or of these lines, as text), and its bins."""

    def make(rows, tokenizer=chatml, **data):
        path = tmp_path / "rows.jsonl"
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text)
        config = RunConfig.model_validate({"data": {"path": str(path), **data}})
        prepared = prepare(config, tokenizer, lambda message, fraction: None)
        bins = prepared.train.window(0, 0)
        assert bins is not None
        return Inspector(config, tokenizer, prepared.sources, bins), bins

    return make


def asked(count: int, answer: str = "a") -> list[dict[str, str]]:
    return [{"prompt": f"q{n}", "completion": f"{answer}{n}"} for n in range(1, count + 1)]


def at(inspector: Inspector, number: int) -> Place:
    return Place(inspector.places[0].file, number)


def test_tokens_and_fates_are_those_of_the_batch(inspect):
    inspector, bins = inspect(asked(40), max_length=64)
    assert [place.number for place in inspector.places] == list(range(1, 41))
    for place in inspector.places:
        row = inspector.look(place)
        batch = bins.batch([row.bin])
        starts = batch.cu_seqlens.tolist()
        document = [one.number for one in bins.rows(row.bin)].index(place.number)
        start, end = starts[document], starts[document + 1]
        assert [token.id for token in row.tokens] == batch.input_ids[0, start:end].tolist()
        learnt = {p + 1 for p in batch.label_positions.tolist() if start <= p < end}
        fates = [token.fate == "trained" for token in row.tokens]
        assert np.flatnonzero(fates).tolist() == sorted(p - start for p in learnt)
        assert (row.length, row.trained, row.left_out) == (end - start, len(learnt), "")


def test_a_cut_row_shows_its_tail(inspect):
    inspector, _ = inspect([*asked(2), {"prompt": "q", "completion": "x" * 60}], max_length=40)
    row = inspector.look(at(inspector, 3))
    assert (row.length, row.problems) == (40, ("cut",))
    assert [token.fate for token in row.tokens[40:]] == ["cut"] * (len(row.tokens) - 40)
    assert "".join(token.text for token in row.tokens).endswith("x<|im_end|>\n")
    assert "cut" not in [token.fate for token in inspector.look(at(inspector, 1)).tokens]


@pytest.mark.parametrize("text", ["é", "日本", "👩‍👩‍👧 a", " b", "\ufffd", "a\ufffd\ufffd\ufffd\ufffd\ufffdé"])
def test_characters_that_span_tokens_come_out_whole(chatml, text):
    ids = chatml(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(chatml, ids)
    assert "".join(texts) == text and len(texts) == len(ids)


def test_bytes_that_are_no_text_hold_nothing_up(chatml):
    stray = chatml("é", add_special_tokens=False)["input_ids"][:1] * 9
    a = chatml("a", add_special_tokens=False)["input_ids"]
    texts = token_texts(chatml, [*stray, *a])
    assert len(texts) == 10 and texts[-1].endswith("a")


def test_a_row_that_is_left_out_says_why(inspect):
    rows = [*asked(3), {"prompt": "q", "completion": ""}, {"prompt": "p" * 90, "completion": "a"},
            {"prompt": "q", "completion": "a\u202eb"}, {"prompt": "q1", "completion": "a1"},
            {"prompt": {}, "completion": "a"}]  # fmt: skip
    drop = ["bad", "control_characters", "duplicate"]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "{broken\n"
    inspector, _ = inspect(lines, max_length=64, drop=drop)
    assert [place.number for place in inspector.places] == [1, 2, 3]
    said = {n: inspector.look(at(inspector, n)) for n in range(4, 10)}
    assert said[4].left_out == "empty answer"
    assert said[5].left_out == "answer cut away by data.max_length"
    assert {token.fate for token in said[5].tokens} == {"cut"}
    assert said[6].left_out == "control characters"
    assert said[6].problems == ("control_characters",)
    assert said[7].left_out == "duplicate"
    assert "row" in said[8].left_out or "line 8" in said[8].left_out
    assert said[8].problems == said[9].problems == ("bad",)
    assert json.loads(said[8].raw) == rows[7] and said[8].tokens == ()
    assert "line 9" in said[9].left_out and said[9].raw == "{broken"
    with pytest.raises(DataError, match="there is no row 10"):
        inspector.look(at(inspector, 10))


def test_rows_that_are_held_out_say_so(inspect):
    inspector, _ = inspect(asked(10), eval_fraction=0.3)
    inside = {place.number for place in inspector.places}
    assert len(inside) == 7
    for number in set(range(1, 11)) - inside:
        assert inspector.look(at(inspector, number)).left_out == "held out for evaluation"


def test_a_document_in_pieces_lies_piece_after_piece(inspect):
    inspector, bins = inspect([{"text": "word " * 40}], max_length=50)
    row = inspector.look(inspector.places[0])
    assert len(row.starts) == len(bins.examples) > 1
    assert row.length == bins.examples.tokens == len(row.tokens)


def test_rows_that_are_taken_twice_are_one_place(tmp_path, inspect):
    (tmp_path / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked(4)))
    sources = [{"path": str(tmp_path / "two.jsonl"), "weight": 2.5}]
    inspector, _ = inspect(asked(1), path=None, datasets=sources)
    assert [place.number for place in inspector.places] == [1, 2, 3, 4]
    look = inspector.look(inspector.places[0])
    assert len(look.starts) == 1


def test_find_goes_both_ways_and_round(inspect):
    inspector, _ = inspect([*asked(5), {"prompt": "q", "completion": "THE Word"}, *asked(700)])
    one = at(inspector, 1)
    assert inspector.find("the word", one) == at(inspector, 6)
    assert inspector.find("the word", at(inspector, 6)) == at(inspector, 6)
    assert inspector.find("the word", at(inspector, 7)) == at(inspector, 6)
    assert inspector.find("q3", one) == at(inspector, 3)
    assert inspector.find("q3", one, back=True).number == 6 + 399
    assert inspector.find("q699", None) == at(inspector, 6 + 699)
    assert inspector.find("nowhere", one) is None


def test_steps_back_and_far_jumps_find_their_rows(inspect):
    inspector, _ = inspect(asked(1500))
    for number in (1, 1400, 1399, 1500, 2, 700, 699, 1, 1500):
        assert f'"q{number}"' in inspector.look(at(inspector, number)).raw


def test_the_next_problem_is_found_by_itself_or_by_the_check(inspect):
    rows = asked(200)
    rows[149]["completion"] = "\x1b[31m"
    inspector, _ = inspect(rows)
    one = at(inspector, 1)
    assert inspector.next_problem(one) == at(inspector, 150)
    assert inspector.next_problem(at(inspector, 150)) == at(inspector, 150)
    found = Finding(code="duplicate", level="amber", count=1, text="1 row", places=(at(inspector, 20),))
    check = DataCheck(
        report=None,  # type: ignore[arg-type] - not looked at
        findings=(found,),
        statistics=Statistics(
            percentiles={},
            recommended_length=1,
            over_recommended=0,
            trained_share=1.0,
            packing=1.0,
            tokens=1,
            bins=1,
            steps=1,
        ),
    )  # type: ignore[arg-type]
    assert inspector.next_problem(one, check) == at(inspector, 20)
    assert inspector.next_problem(at(inspector, 150), check) == at(inspector, 20)


def test_a_file_that_is_gone_leaves_the_tokens(inspect, tmp_path):
    inspector, _ = inspect(asked(3))
    (tmp_path / "rows.jsonl").unlink()
    row = inspector.look(inspector.places[1])
    assert row.trained and "no such file" in row.raw
