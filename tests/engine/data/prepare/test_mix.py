"""Several data sets as one, columns under other names, and which turns are learnt."""

import itertools
import json

import pytest

from evenfall.engine.config.run_config import ConfigError, RunConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.prepare import prepare as prepare_module


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def pairs(count, word):
    return [{"prompt": f"{word}{n}", "completion": str(n)} for n in range(count)]


def prompts(bins, tokenizer):
    texts = [tokenizer.decode(one.ids) for one in bins.examples]
    return sorted(text.split("user\n")[1].split("<")[0] for text in texts)


@pytest.fixture
def two(tmp_path):
    alpaca = [{"instruction": f"b{n}", "output": str(n)} for n in range(10)]
    return write(tmp_path / "a.jsonl", pairs(4, "a")), write(tmp_path / "b.jsonl", alpaca)


def mixed(run, first, second, *, weights=(1, 1), **more):
    return run(
        None,
        datasets=[
            {"path": first, "weight": weights[0]}, {"path": second, "weight": weights[1]}
        ],
        **more,
    )  # fmt: skip


def test_each_data_set_keeps_its_format_and_its_account(run, chatml, two):
    report = mixed(run, *two).report
    assert [source.format for source in report.sources] == ["prompt_completion", "alpaca"]
    assert [source.path for source in report.sources] == list(two)
    assert (report.rows, report.kept, report.format) == (14, 14, "prompt_completion + alpaca")


def test_a_weight_is_passes_over_a_data_set(run, chatml, two):
    found = prompts(mixed(run, *two, weights=(2.5, 0.3)).train.window(0, 0), chatml)
    of_a = [text for text in found if text.startswith("a")]
    assert len(of_a) == 10 and all(of_a.count(f"a{n}") in (2, 3) for n in range(4))
    of_b = [text for text in found if text.startswith("b")]
    assert len(of_b) == 3 and len(set(of_b)) == 3
    again = prompts(mixed(run, *two, weights=(2.5, 0.3)).train.window(0, 0), chatml)
    assert again == found
    assert len(prompts(mixed(run, *two, weights=(1, 0.001)).train.window(0, 0), chatml)) == 5


def test_a_row_that_is_taken_twice_is_never_also_held_out(run, chatml, two):
    prepared = mixed(run, *two, weights=(3, 2), eval_fraction=0.3)
    train = set(prompts(prepared.train.window(0, 0), chatml))
    held = prompts(prepared.evaluation, chatml)
    assert len(held) == len(set(held)) == 4 and not train & set(held)
    report = prepared.report
    assert sum(source.held_out for source in report.sources) == report.eval_rows == 4
    assert report.kept == 10


def test_a_data_set_with_nothing_to_learn_is_named(run, two, tmp_path):
    empty = write(tmp_path / "c.jsonl", [{"prompt": "x", "completion": ""}])
    with pytest.raises(DataError, match=r"c\.jsonl: nothing is left to learn"):
        mixed(run, two[0], empty)


def test_one_data_set_or_several():
    def sources(*overrides):
        return [each.path for each in RunConfig().with_overrides(overrides).data.sources]

    assert sources("data.datasets=[{path: a}, {path: b, weight: 2}]") == ["a", "b"]
    assert sources("data.datasets=[{path: a}]", "data.path=c") == ["c"]
    assert RunConfig.model_validate({"data": {"datasets": [{"path": "a"}]}}).data.path is None
    for wrong, said in (
        ("data.datasets=[{path: a, wieght: 2}]", "did you mean data.datasets.weight"),
        (
            "data.datasets=[{path: a, weight: 0}]",
            "data.datasets.weight: got 0, takes number above 0",
        ),
        ("data.datasets=[]", ""),
        ("data.path=null", "several data sets in data.datasets"),
    ):
        if not said:
            assert sources(wrong) == ["demo"]
            continue
        with pytest.raises(ConfigError, match=said):
            RunConfig().with_overrides([wrong])


def test_columns_under_other_names(run, chatml, tmp_path):
    rows = [{"frage": "q", "antwort": "a", "prompt": "another", "note": 3}]
    prepared = run(write(tmp_path / "a.jsonl", rows), columns={"prompt": "frage", "completion": "antwort"})
    assert prepared.report.format == "prompt_completion"
    (one,) = prepared.train.window(0, 0).examples
    assert "user\nq<" in chatml.decode(one.ids)


def test_turns_under_other_names(run, chatml, tmp_path):
    turns = [{"who": "human", "says": "q"}, {"who": "gpt", "says": "a"}]
    prepared = run(
        write(tmp_path / "a.jsonl", [{"dialogue": turns}]),
        columns={"conversations": "dialogue", "from": "who", "value": "says"},
    )
    assert prepared.report.format == "sharegpt" and prepared.report.kept == 1


def test_a_column_that_is_not_there_is_named_with_its_row(run, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"frage": "q", "antwort": "a"}, {"frage": "q"}])
    with pytest.raises(DataError, match=r"a\.jsonl: line 2: has no `antwort`, which `completion`.*`frage`"):
        run(path, columns={"prompt": "frage", "completion": "antwort"})


CHAT = {
    "messages": [
        {"role": "system", "content": "be kind"}, {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a2"},
    ]
}  # fmt: skip


def test_the_last_answer_alone_is_learnt(run, chatml, tmp_path):
    path = write(tmp_path / "a.jsonl", [CHAT])
    (every,) = run(path).train.window(0, 0).examples
    (last,) = run(path, assistant_turns="last").train.window(0, 0).examples
    assert chatml.decode(every.ids[every.trained]) == "a1<|im_end|>\na2<|im_end|>\n"
    assert chatml.decode(last.ids[last.trained]) == "a2<|im_end|>\n"
    assert list(every.ids) == list(last.ids)


def test_system_messages_are_left_out(run, chatml, tmp_path):
    row = {**CHAT, "messages": [*CHAT["messages"][:2], {**CHAT["messages"][2], "weight": 0},
                                *CHAT["messages"][3:]]}  # fmt: skip
    (one,) = run(write(tmp_path / "a.jsonl", [row]), drop_system=True).train.window(0, 0).examples
    assert "kind" not in chatml.decode(one.ids)
    assert chatml.decode(one.ids[one.trained]) == "a2<|im_end|>\n"


def test_a_file_that_is_named_twice_is_refused_with_the_weight_to_set(run, two, tmp_path):
    first, second = two
    link = tmp_path / "link.jsonl"
    link.symlink_to(first)
    for again in (first, str(tmp_path / "." / "a.jsonl"), str(link)):
        with pytest.raises(DataError, match=r"data.datasets\[1\]: .* weight: 2"):
            run(None, datasets=[{"path": first}, {"path": again}])
    turned = {"path": first, "columns": {"prompt": "completion", "completion": "prompt"}}
    assert run(None, datasets=[{"path": first}, turned, {"path": second}]).report.rows == 18


@pytest.mark.parametrize("streamed", [False, True])
def test_rows_of_another_format_far_behind_the_first_are_no_silent_guess(run, tmp_path, monkeypatch, streamed):
    monkeypatch.setattr(prepare_module, "SLICE_BYTES", 2000)
    monkeypatch.setattr(prepare_module, "STREAM_ABOVE", 1000 if streamed else 10**9)
    labelled = [{**one, "label": place % 2 == 0} for place, one in enumerate(pairs(200, "late"))]
    path = write(tmp_path / "late.jsonl", pairs(300, "early") + labelled)
    with pytest.raises(DataError, match=r"late.jsonl: line \d+.* kto .*prompt_completion"):
        list(windows(run(path, max_length=64)))
    odd = write(tmp_path / "odd.jsonl", [*pairs(300, "early"), {"what": 1}, *pairs(30, "late")])
    with pytest.raises(DataError, match="line 301: "):
        list(windows(run(odd, max_length=64)))


def windows(prepared):
    for index in itertools.count():
        window = prepared.train.window(0, index)
        if window is None:
            return
        yield window
