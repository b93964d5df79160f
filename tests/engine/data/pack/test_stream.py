"""Data larger than memory: every row once an epoch, the same rows in the same order whenever it is taken up."""

import itertools
import json
import time

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.pack.stream import Stream, rounds_of
from evenfall.engine.data.pack.windows import Bins
from evenfall.engine.data.prepare import prepare as prepare_module


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Streams from 2 kB on, in slices of a few rows."""
    monkeypatch.setattr(prepare_module, "STREAM_ABOVE", 2000)
    monkeypatch.setattr(prepare_module, "SLICE_BYTES", 1000)
    monkeypatch.setattr(prepare_module, "_SMALLEST_SLICE", 100)


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def pairs(count, word="q"):
    return [{"prompt": f"{word}{n}", "completion": f"{n:0{3 + n % 7}}"} for n in range(count)]


def windows(prepared, epoch=0, first=0) -> list[Bins]:
    found = []
    for index in itertools.count(first):
        bins = prepared.train.window(epoch, index)
        if bins is None:
            return found
        found.append(bins)
    raise AssertionError


def answers(all_bins, tokenizer):
    """The answer of each example, window after window, bin after bin."""
    return [
        tokenizer.decode(example.ids[example.trained])[:-11]
        for bins in all_bins
        for index in range(len(bins))
        for example in bins.rows(index)
    ]


def wait_for(reached):
    until = time.monotonic() + 300
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def taken(run):
    """As `run`, and ends the streams afterwards."""
    made = []

    def prepared(*args, **data):
        made.append(run(*args, **data))
        assert isinstance(made[-1].train, Stream)
        return made[-1]

    yield prepared
    for one in made:
        one.train.close()


def test_every_row_is_in_one_window_of_each_epoch(taken, chatml, tmp_path):
    rows = pairs(200)
    path = write(tmp_path / "a.jsonl", rows)
    prepared = taken(path, max_length=64)
    wanted = sorted(row["completion"] for row in rows)
    first = windows(prepared)
    assert len(first) > 4
    assert sorted(answers(first, chatml)) == wanted
    assert sorted(answers(windows(prepared, epoch=1), chatml)) == wanted
    assert all(sum(len(one) for one in bins.rows(n)) <= 64 for bins in first for n in range(len(bins)))


def test_any_window_can_be_the_first_that_is_asked_for(taken, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", pairs(200))
    whole = windows(taken(path, max_length=64))
    for first in (1, 2, 5):
        again = windows(taken(path, max_length=64), epoch=3, first=first)
        assert answers(again, chatml) == answers(whole[first:], chatml)
    prepared = taken(path, max_length=64)
    assert answers([prepared.train.window(0, 4)], chatml) == answers([whole[4]], chatml)
    assert answers([prepared.train.window(0, 1)], chatml) == answers([whole[1]], chatml)
    assert whole[2].order(0, 42, True, 2) != whole[2].order(1, 42, True, 2)


def test_rounds_follow_each_other():
    taken = [number for window in range(9) for number in rounds_of(window)]
    assert taken == list(range(len(taken)))
    assert [len(rounds_of(window)) for window in range(6)] == [1, 1, 2, 4, 4, 4]


def test_a_mix_is_mixed_in_every_window(taken, chatml, tmp_path):
    first = write(tmp_path / "a.jsonl", pairs(300))
    second = write(tmp_path / "b.jsonl", [{"instruction": f"b{n}", "output": f"b{n}"} for n in range(150)])
    prepared = taken(None, datasets=[{"path": first}, {"path": second, "weight": 2}], max_length=64)
    found = windows(prepared)
    every = answers(found, chatml)
    assert sorted(one for one in every if one[0] == "b") == sorted(f"b{n}" for n in range(150) for _ in (1, 2))
    assert sum(one[0] != "b" for one in every) == 300
    for bins in found[:-1]:
        of_second = sum(one[0] == "b" for one in answers([bins], chatml))
        assert 0.2 < of_second / len(bins.examples) < 0.8


def test_half_of_a_data_set_by_weight_is_the_same_half_every_time(taken, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", pairs(200))
    config = {"datasets": [{"path": path, "weight": 0.5}], "max_length": 64}
    once = answers(windows(taken(None, **config)), chatml)
    assert 80 <= len(once) <= 120 and len(set(once)) > 70
    assert answers(windows(taken(None, **config)), chatml) == once


def test_rows_held_out_are_in_no_window(taken, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": f"q{n}", "completion": f"{n:05}"} for n in range(300)])
    prepared = taken(path, max_length=64, eval_fraction=0.02)
    held = answers([prepared.evaluation], chatml)
    assert 4 <= len(held) <= 8
    for epoch in (0, 1):
        kept = answers(windows(prepared, epoch), chatml)
        assert not set(kept) & set(held) and len(kept) == 300 - len(held)
    assert prepared.report.eval_rows == len(held)


def test_the_bins_of_an_epoch_are_estimated_from_the_first_window(taken, tmp_path):
    prepared = taken(write(tmp_path / "a.jsonl", pairs(2000)), max_length=64)
    begin = prepared.report
    assert 0 < begin.share < 0.1 and begin.rows < 100
    real = sum(map(len, windows(prepared)))
    assert prepared.train.bins_in_epoch == pytest.approx(real, rel=0.1)


def test_a_bad_row_is_named_when_its_window_is_asked_for(taken, tmp_path):
    rows = [*pairs(150), {"prompt": "q", "completion": {}}, *pairs(150)]
    prepared = taken(write(tmp_path / "a.jsonl", rows), max_length=64)
    assert prepared.train.window(0, 0) is not None
    with pytest.raises(DataError, match=r"a\.jsonl: line 151: `completion\[0\]\.role`: expected"):
        windows(prepared)


def test_only_a_few_windows_are_made_ahead(taken, tmp_path):
    prepared = taken(write(tmp_path / "a.jsonl", pairs(2000)), max_length=64)
    wait_for(lambda: prepared.train.ready(0, 1))
    time.sleep(0.3)
    assert 10 < len(prepared.train.lengths()) < 400


def test_a_stream_trains_and_resumes_bit_for_bit(tiny_stream_config):
    from evenfall.engine.run import events as ev
    from evenfall.engine.run.find import create_run
    from evenfall.engine.session.session import Session

    def losses(events):
        return {one.step: one.loss for one in events if isinstance(one, ev.Step)}

    def finished(session):
        session.start()
        assert session.wait(600)
        return session.events_since(0)

    whole = finished(Session(create_run(tiny_stream_config("whole"))))
    assert isinstance(whole[-1], ev.StateChanged | ev.Finished)
    directory = create_run(tiny_stream_config("parts"))
    short = directory.config().with_overrides(["train.max_steps=9"])
    directory.write_config(short)
    finished(Session(directory))
    directory.write_config(directory.config().with_overrides(["train.max_steps=30"]))
    second = finished(Session(directory, resume=True))
    assert len(losses(whole)) == 30
    assert losses(second) == losses(whole)
    epochs = [one.epoch for one in whole if isinstance(one, ev.Step)]
    assert epochs == sorted(epochs) and epochs[0] > 0 and epochs[-1] > 0.5


@pytest.fixture
def tiny_stream_config(tiny_model, tmp_path):
    path = write(tmp_path / "a.jsonl", pairs(60))

    def make(name):
        return RunConfig.model_validate(
            {
                "name": name,
                "output_dir": str(tmp_path / "runs"),
                "model": {"name_or_path": str(tiny_model)},
                "adapter": {"r": 4, "lora_alpha": 8},
                "data": {"path": path, "max_length": 64},
                "train": {
                    "max_steps": 30, "gradient_accumulation_steps": 3, "device": "cpu",
                    "lr_scheduler_type": "constant", "warmup_steps": 0, "save_steps": 1000,
                },
            }
        )  # fmt: skip

    return make


def test_the_account_grows_with_what_was_read(taken, tmp_path):
    rows = pairs(1000)
    for place in (10, 500, 990):
        rows[place] = {"prompt": "q", "completion": ""}
    prepared = taken(write(tmp_path / "a.jsonl", rows), max_length=64)
    begin = prepared.report
    assert begin.share < 0.2 and begin.rows < 200
    for epoch in (0, 1):  # a row is counted once
        windows(prepared, epoch)
        whole = prepared.report
        assert (whole.share, whole.rows, whole.kept) == (1.0, 1000, 997)
        assert whole.dropped == {"empty answer": 3}


@pytest.mark.parametrize("code", ["near_duplicate", "near_leak"])
def test_what_takes_all_rows_at_once_is_refused(taken, tmp_path, code):
    path = write(tmp_path / "rows.jsonl", pairs(200))
    with pytest.raises(DataError, match=f"data.drop: {code} needs all rows at once"):
        taken(path, drop=[code])
