"""From a file to bins: every row is accounted for, whatever the file holds."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.pack.examples import Examples
from evenfall.engine.data.pack.windows import Bins
from evenfall.engine.data.prepare.block import CUT_AWAY, TOO_LONG


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def pairs(count, length=5):
    return [{"prompt": f"q{n}", "completion": f"{n:0{length}}"} for n in range(count)]


def answers(bins, tokenizer):
    return [tokenizer.decode(one.ids[one.trained])[:-11] for one in bins.examples]


def test_counts_of_a_small_file(run, chatml, tmp_path):
    rows = [*pairs(3), {"prompt": "q", "completion": ""}]
    prepared = run(write(tmp_path / "a.jsonl", rows), max_length=64)
    # 21 tokens of prompt (q and a digit), 5 of the answer, 2 of the end of turn
    assert [len(one) for one in prepared.train.window(0, 0).examples] == [28] * 3
    report = prepared.report
    assert (report.format, report.rows, report.kept, report.eval_rows) == (
        "prompt_completion",
        4,
        3,
        0,
    )
    assert report.dropped == {"empty answer": 1}
    assert (report.tokens, report.trained_tokens, report.bins) == (84, 21, 2)
    assert report.lengths == [28] * 3
    assert prepared.train.window(0, 0).bins == ((0, 1), (2,))
    assert prepared.evaluation is None
    assert [one.number for one in prepared.train.window(0, 0).examples] == [1, 2, 3]
    batch = prepared.train.window(0, 0).batch([1, 0])
    assert batch.lengths == (28, 28, 28)
    assert chatml.decode(batch.labels[:5]) == "00002"


def test_over_long_rows_are_cut_or_dropped_and_counted(run, chatml, tmp_path):
    rows = [*pairs(1), *pairs(1, length=40), {"prompt": "q" * 60, "completion": "a"}]
    path = write(tmp_path / "a.jsonl", rows)
    cut = run(path, max_length=40)
    assert cut.report.cut == 1
    assert cut.report.dropped == {CUT_AWAY: 1}
    assert [len(one) for one in cut.train.window(0, 0).examples] == [28, 40]
    last = cut.train.window(0, 0).examples[1]
    assert chatml.decode(last.ids[last.trained]) == "0" * 19
    dropped = run(path, max_length=40, over_long="drop")
    assert dropped.report.cut == 0
    assert dropped.report.dropped == {TOO_LONG: 2}
    assert dropped.report.kept == 1


def test_a_document_becomes_pieces_in_which_every_token_is_learnt_once(run, chatml, tmp_path):
    text = "".join(chr(97 + n % 26) for n in range(100))
    (tmp_path / "a.txt").write_text(text)
    for over_long in ("cut", "drop"):
        prepared = run(tmp_path / "a.txt", max_length=10, over_long=over_long)
        examples = prepared.train.window(0, 0).examples
        assert max(len(one) for one in examples) == 10
        learnt = "".join(chatml.decode(one.ids[one.trained]) for one in examples)
        assert learnt == text[1:] + "<|im_end|>"
        report = prepared.report
        assert (report.rows, report.kept, report.cut, report.dropped) == (1, 1, 0, {})
        assert report.trained_tokens == 100


def test_held_out_rows_are_never_trained_on(run, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", pairs(40))
    prepared = run(path, eval_fraction=0.1)
    kept, held = answers(prepared.train.window(0, 0), chatml), answers(prepared.evaluation, chatml)
    assert (len(kept), len(held)) == (36, 4)
    assert sorted(kept + held) == [f"{n:05}" for n in range(40)]
    again = run(path, eval_fraction=0.1)
    assert answers(again.evaluation, chatml) == held
    assert len(run(path, eval_fraction=0.001).evaluation.examples) == 1
    assert (prepared.report.kept, prepared.report.eval_rows) == (36, 4)


def test_an_evaluation_file_of_its_own(run, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", pairs(3))
    other = write(tmp_path / "b.jsonl", [{"text": "something else"}])
    prepared = run(path, eval_path=str(other))
    assert len(prepared.train.window(0, 0).examples) == 3
    (held,) = prepared.evaluation.examples
    assert chatml.decode(held.ids) == "something else<|im_end|>"
    assert prepared.report.eval_rows == 1


def test_a_folder_is_evaluated_on_by_its_split_for_that(run, chatml, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, count in (("train", 5), ("test", 3)):
        rows = [{"prompt": f"{split}{n}", "completion": f"{split}{n}"} for n in range(count)]
        write(folder / f"{split}.jsonl", rows)
    prepared = run(folder, eval_path=str(folder))
    assert len(prepared.train.window(0, 0).examples) == 5
    assert answers(prepared.evaluation, chatml) == ["test0", "test1", "test2"]
    (folder / "dev.jsonl").write_text((folder / "test.jsonl").read_text().replace("test", "dev"))
    assert answers(run(folder, eval_path=str(folder)).evaluation, chatml)[0] == "dev0"


@pytest.mark.parametrize("names", [("Frage", "Antwort"), ("prompt", "completion")])
def test_evaluation_rows_may_have_the_columns_of_the_others_or_the_formats_own(run, chatml, tmp_path, names):
    path = write(tmp_path / "rows.jsonl", [{"Frage": f"q{n}", "Antwort": f"a{n}"} for n in range(4)])
    tested = write(tmp_path / "eval.jsonl", [{names[0]: "held", names[1]: "out"}])
    columns = {"prompt": "Frage", "completion": "Antwort"}
    prepared = run(path, eval_path=str(tested), columns=columns)
    assert answers(prepared.evaluation, chatml) == ["out"]


def test_only_the_first_rows(run, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", [*pairs(3), {"broken": 1}])
    assert answers(run(path, max_rows=2).train.window(0, 0), chatml) == ["00000", "00001"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (pairs(1), {"eval_fraction": 0.1}, "there is 1 row.*data.eval_path"),
        ([{"prompt": "q", "completion": ""}] * 3, {}, "nothing .* of 3 rows: 3 x empty answer"),
        (pairs(2, 90), {"max_length": 16}, f"2 x {CUT_AWAY}; raise data.max_length .now 16"),
        (pairs(2), {"format": "alpaca"}, "line 1: is not alpaca: expected `instruction`"),
        ([*pairs(500), {"text": "t"}, *pairs(500)], {}, "line 501: is not prompt_completion"),
    ],
)
def test_errors_say_what_to_do(run, tmp_path, rows, settings, message):
    with pytest.raises(DataError, match=message):
        run(write(tmp_path / "a.jsonl", rows), **settings)


def test_the_order_of_an_epoch_never_changes():
    bins = Bins(Examples.of([]), tuple((n,) for n in range(10)))
    assert bins.order(0, 42, True) == [4, 8, 1, 9, 3, 6, 0, 7, 2, 5]
    assert bins.order(1, 42, True) == [1, 2, 8, 5, 3, 9, 6, 0, 4, 7]
    assert bins.order(1, 42, False) == list(range(10))
    assert sorted(bins.order(5, 7, True)) == list(range(10))


def test_whoever_asked_for_the_work_can_end_it(run, tmp_path):
    class Cancelled(Exception):
        pass

    def report(message, fraction):
        if fraction is not None:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(write(tmp_path / "a.jsonl", pairs(2)), report=report)


TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["", " ", "<|im_end|>", "<|im_start|>assistant\n", "\u2028", "\r\n", "\ud800", "{{ 7 * 7 }}",
     "\x1b[2J", "🎈", '"]}', "\x00", "\ufeff"]
)  # fmt: skip
VALUES = st.none() | st.booleans() | st.integers() | TEXTS | st.lists(TEXTS, max_size=2)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "king"]), "content": TEXTS | VALUES}
)  # fmt: skip
ROW = (
    st.fixed_dictionaries({"instruction": TEXTS, "output": TEXTS}, optional={"input": VALUES})
    | st.fixed_dictionaries({"prompt": TEXTS | VALUES, "completion": TEXTS})
    | st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)})
    | st.fixed_dictionaries({"text": TEXTS})
    | st.dictionaries(TEXTS, VALUES, max_size=3)
)


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_file_is_read_to_the_last_row_or_refused_with_a_place(run, data):
    """Mixed shapes, wrong types, hostile texts, cut files, BOM and CRLF."""
    kinds = data.draw(st.sampled_from(["one shape", "mixed"]))
    one = st.fixed_dictionaries({"prompt": TEXTS, "completion": TEXTS})
    rows = data.draw(st.lists(one if kinds == "one shape" else ROW, min_size=1, max_size=6))
    array = data.draw(st.booleans())
    escape = data.draw(st.booleans())
    try:
        lines = [json.dumps(row, ensure_ascii=escape) for row in rows]
        content = (f"[{', '.join(lines)}]" if array else "\n".join(lines)).encode()
    except UnicodeEncodeError:  # a lone surrogate, not escaped, cannot be in a file
        return
    if data.draw(st.booleans()):
        content = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n\r\n")
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / data.draw(st.sampled_from(["a.json", "a.jsonl", "a.txt"]))
        path.write_bytes(content[:cut])
        try:
            prepared = run(path, max_length=32, eval_fraction=data.draw(st.sampled_from([0, 0.5])))
        except DataError as error:
            assert str(error).startswith(f"{path}: "), error
            return
    report = prepared.report
    assert report.rows == report.kept + report.eval_rows + sum(report.dropped.values())
    if cut == len(content) and path.suffix != ".txt":
        assert report.rows == len(rows)
    assert report.trained_tokens > 0
    assert all(0 < len(example) <= 32 for example in prepared.train.window(0, 0).examples)
    assert all(example.trained.any() for example in prepared.train.window(0, 0).examples)
