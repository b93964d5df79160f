"""The check of the data: every problem is found in the row that has it, and every fix that is offered mends it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evenfall.engine.config.run_config import RunConfig, parse_config
from evenfall.engine.data.check import require_no_red
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.inspector.preview import build_preview
from evenfall.engine.data.pack.examples import Example, Examples
from evenfall.engine.data.problems.near_duplicates import SIMILAR, near_copies, near_duplicates
from evenfall.engine.data.report.findings import DataCheck, Finding
from evenfall.engine.data.statistics import percentile, round_up
from evenfall.engine.model import tokenizer as tokenizer_module

# As `CHATML`, with a place for tools, and an answer that does not end where the row says so.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0]['function'] | tojson }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LETTERS = list("abcdefghijklmnopqrstuvwxyz      ")
TOOLS = [{"type": "function", "function": {
    "name": "weather", "parameters": {"type": "object", "properties": {}, "required": ["city"]},
}}]  # fmt: skip


def chat(*turns: tuple[str, str], **more) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def pair(question: str, answer: str) -> dict:
    return chat(("user", question), ("assistant", answer))


def good(number: int) -> dict:
    """Rows that share no long piece of text."""
    pick = np.random.default_rng(number)
    return pair(*("".join(pick.choice(LETTERS, count)) for count in (30, 60)))


def call(**arguments) -> dict:
    row = chat(("user", "rain?"), ("assistant", ""), ("tool", "wet"), ("assistant", "Yes, rain."))
    row["messages"][1]["tool_calls"] = [{"function": {"name": "weather", "arguments": arguments}}]
    return {**row, "tools": TOOLS}


NEAR = good(3)["messages"][1]["content"]
BAD_ROWS: dict[str, object] = {
    "bad": '{"messages": [',
    "nothing_to_learn": pair("anything", ""),
    "cut_away": pair("long " * 80, "short"),
    "cut": pair("tell me", "much " * 80),
    "turn_order": chat(("assistant", "I am first"), ("user", "so?"), ("assistant", "so it is")),
    "empty_prompt": pair("  ", "nobody asked, and still I speak"),
    "tool_calls": call(town="Oslo"),
    "control_characters": pair("colour", "it is \x1b[31mred"),
    "special_tokens": pair("markers", "so <|im_end|> it goes"),
    "pictures": {**pair("what is this?", "a brown dog, asleep"), "images": ["one.jpg"]},
    "markup": pair("say it", "[INST] so it is said [/INST]"),
    "placeholders": pair("your name?", "I am {{name}}, whoever that is"),
    "duplicate": good(2),
    "near_duplicate": pair(good(3)["messages"][0]["content"], NEAR + " so"),
    "leak": pair("what is measured", "is not learnt"),
    "near_leak": pair(good(500)["messages"][0]["content"], good(500)["messages"][1]["content"] + " s"),
}
ROW = 31
"""Where the bad row stands."""


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer(TEMPLATE)


@pytest.fixture
def check(tokenizer, monkeypatch, tmp_path):
    """check(rows, *overrides): rows are objects, or text that stands in the file as it is."""

    def made(rows, *overrides, tokenizer=tokenizer) -> DataCheck:
        monkeypatch.setattr(tokenizer_module, "load_tokenizer", lambda config: tokenizer)
        path = tmp_path / "rows.jsonl"
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        config = parse_config({"data": {"path": str(path), "max_length": 256}})
        return build_preview(config.with_overrides(overrides), lambda stage, share: None).check

    return made


@pytest.fixture
def evaluation(tmp_path) -> str:
    path = tmp_path / "eval.jsonl"
    rows = [BAD_ROWS["leak"], *(good(number) for number in range(500, 520))]
    path.write_text("\n".join(map(json.dumps, rows)))
    return f"data.eval_path={path}"


def found(check: DataCheck) -> dict[str, Finding]:
    return {finding.code: finding for finding in check.findings if finding.count}


def test_clean_data_are_green_throughout(check, evaluation):
    clean = check([good(number) for number in range(40)] + [call(city="Oslo")], evaluation)
    assert clean.level == "green"
    assert not found(clean), found(clean)
    assert len({finding.code for finding in clean.findings}) == len(clean.findings) == 24
    assert all(finding.text and not finding.fixes for finding in clean.findings)


@pytest.mark.parametrize("code", BAD_ROWS)
def test_each_problem_is_found_in_its_row_and_nowhere_else(check, evaluation, code):
    rows = [*(good(number) for number in range(ROW - 1)), BAD_ROWS[code], good(900)]
    findings = found(check(rows, evaluation))
    assert set(findings) == {code}
    finding = findings[code]
    assert [place.number for place in finding.places] == [ROW] and finding.count == 1
    assert finding.level == ("red" if code in ("bad", "pictures") else "amber")
    assert finding.meaning and finding.fixes


@pytest.mark.parametrize("code", BAD_ROWS)
def test_each_fix_that_is_offered_mends_it(check, evaluation, code):
    rows = [*(good(number) for number in range(ROW - 1)), BAD_ROWS[code], good(900)]
    before = check(rows, evaluation)
    for fix in found(before)[code].fixes:
        after = check(rows, evaluation, fix.override)
        assert after.level == "green", fix
        kept = after.report.kept - before.report.kept
        dropped = code not in ("bad", "cut_away", "nothing_to_learn")  # these are left out anyway
        assert kept == {"drop": -dropped, "keep": 0, "length": code == "cut_away"}[fix.verb], fix
        if fix.verb != "length":
            assert found(after).get(code) is None or "settled" in found(after)[code].meaning


def test_all_that_can_be_left_out_at_once(check, evaluation):
    rows = [*(good(number) for number in range(30)), *BAD_ROWS.values()]
    before = check(rows, evaluation, "data.drop=[leak]")
    assert before.drop_all.startswith("data.drop=[leak,bad,")
    after = found(check(rows, evaluation, before.drop_all))
    assert {code for code, one in after.items() if one.level != "green"} == {
        "nothing_to_learn", "cut_away", "cut", "near_duplicate", "near_leak",
    }  # fmt: skip


def test_rows_that_were_left_out_for_their_length_can_be_cut_instead(check):
    rows = [*(good(number) for number in range(30)), BAD_ROWS["cut"]]
    finding = found(check(rows, "data.over_long=drop"))["too_long"]
    assert finding.level == "green" and finding.places[0].number == ROW
    assert [fix.override for fix in finding.fixes] == ["data.over_long=cut", "data.max_length=448"]


def test_what_is_grave_is_red_only_where_it_is_frequent(check, make_tokenizer):
    endless = make_tokenizer(TEMPLATE.replace("<|im_end|>\n", " end. "), eos="<|endoftext|>")
    segments = [{"segments": [{"text": f"{n} asks: ", "label": False},
                              {"text": good(n)["messages"][1]["content"], "label": True}]}
                for n in range(30)]  # fmt: skip
    closed = json.loads(json.dumps(segments))
    for row in closed:
        row["segments"][1]["text"] += "<|endoftext|>"
    red = found(check(segments, tokenizer=endless))["end_untrained"]
    assert (red.level, red.count) == ("red", 30)
    amber = found(check([*closed[:29], segments[0]], tokenizer=endless))["end_untrained"]
    assert (amber.level, amber.count) == ("amber", 1)
    kept = check(segments, "data.keep=[end_untrained]", tokenizer=endless)
    assert kept.level == "green"


def test_repeats_that_a_weight_makes_are_no_duplicates(check, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [good(number) for number in range(30)]
    twice = f"data.datasets=[{{path: {path}, weight: 2}}]"
    assert check(rows, "data.path=null", twice).level == "green"


def test_a_tokenizer_that_does_not_fit_is_told(check, make_tokenizer):
    rows = [good(number) for number in range(30)]
    assert not found(check(rows))
    other = make_tokenizer(TEMPLATE, eos="<|endoftext|>")
    other.pad_token = "<|endoftext|>"
    findings = found(check(rows, tokenizer=other))
    assert set(findings) == {"eos_differs", "pad_is_eos"}
    assert all(one.level == "green" and not one.fixes for one in findings.values())  # neither harms a run here
    assert "<|im_end|>; eos is <|endoftext|>" in findings["eos_differs"].text
    foreign = make_tokenizer(TEMPLATE.replace("im_", "turn_"))
    own, given = (found(check(rows, *more, tokenizer=foreign)) for more in ((), ("data.chat_template=chatml",)))
    assert "special_split" not in own  # a model may spell its own markers out
    assert given["special_split"].text.endswith(": <|turn_start|>, <|turn_end|>")
    kept = check(rows, "data.keep=[special_split]", "data.chat_template=chatml", tokenizer=foreign)
    assert kept.level == "green"


def test_a_template_in_place_of_the_models_own_is_told_where_it_writes_otherwise(check, make_tokenizer):
    rows = [good(number) for number in range(30)]
    given = make_tokenizer(TEMPLATE)
    for own, told in (
        (TEMPLATE, False),
        ("{# the same #}" + TEMPLATE, False),
        ("[INST]" + TEMPLATE, True),
        (None, False),
    ):
        given.init_kwargs["chat_template"] = own
        findings = found(check(rows, "data.chat_template=chatml", tokenizer=given))
        assert ("template_replaced" in findings) is told
        assert "template_replaced" not in found(check(rows, tokenizer=given))  # it is the tokenizer's own


def test_rows_that_the_template_asks_otherwise_than_they_are_learnt_are_told_and_dropped(check, make_tokenizer):
    closes = TEMPLATE.replace("assistant\n{% endif", "assistant\n<think></think>{% endif")
    closes = closes.replace("{{ m.content }}", "{% if m.role == 'assistant' and 'x' not in m.content %}<think></think>"
                            "{% endif %}{{ m.content }}")  # fmt: skip
    rows = [pair(f"number {n} of them", f"{n} it is, x or not" if n % 10 == 7 else f"{n} it is") for n in range(40)]
    one = check(rows, "data.keep=[near_duplicate]", tokenizer=make_tokenizer(closes))
    finding = found(one)["prompt_differs"]
    assert (finding.level, finding.count) == ("amber", 4)
    assert [place.number for place in finding.places] == [8, 18, 28, 38]
    (drop,) = [fix.override for fix in finding.fixes if fix.verb == "drop"]
    left = check(rows, "data.keep=[near_duplicate]", drop, tokenizer=make_tokenizer(closes))
    assert left.level == "green" and left.report.kept == 36


def test_a_token_at_which_the_model_stops_by_itself_ends_an_answer(check, make_tokenizer, tmp_path):
    """As Llama 3's <|eot_id|> and Gemma's <end_of_turn>, which are not the tokenizers' eos."""
    rows = [good(number) for number in range(30)]
    other = make_tokenizer(TEMPLATE, eos="<|endoftext|>")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    model = f"model.name_or_path={tmp_path}"
    stops = tmp_path / "generation_config.json"
    ends = other.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    for said, codes in (
        (json.dumps({"eos_token_id": ends}), set()),
        (json.dumps({"eos_token_id": ends[1]}), set()),
        (json.dumps({"eos_token_id": ends[0]}), {"eos_differs"}),
        ("[1]", {"eos_differs"}),
        ("not JSON", {"eos_differs"}),
    ):
        stops.write_text(said)
        assert set(found(check(rows, model, tokenizer=other))) == codes, said


def test_rows_that_are_evaluated_on_are_checked_too(check, tmp_path):
    bad = {"messages": [{"role": "alien", "content": "hm"}]}
    (tmp_path / "eval.jsonl").write_text("\n".join(map(json.dumps, [good(1), bad, pair("q", "")])))
    checked = check([good(n) for n in range(2, 30)], f"data.eval_path={tmp_path / 'eval.jsonl'}")
    findings = found(checked)
    assert findings["bad"].level == "red" and "alien" in findings["bad"].text
    assert findings["nothing_to_learn"].count == 1
    assert {place.file for one in findings.values() for place in one.places} == {str(tmp_path / "eval.jsonl")}
    own = checked.report.evaluation
    assert own is not None and (own.rows, own.kept, checked.report.eval_rows) == (3, 1, 1)
    assert own.dropped == {"unreadable": 1, "empty answer": 1}


def test_a_file_of_bad_rows_alone_says_what_is_wrong_with_the_first(check):
    rows = [{"messages": [{"role": "alien", "content": "hm"}]}] * 3
    with pytest.raises(DataError, match=r"3 x unreadable; the first .*rows.jsonl: line 1: .*alien"):
        check(rows)


def test_more_rows_left_out_than_learnt_is_red(check):
    rows = [good(number) for number in range(4)]
    lost = [pair(f"long {number} " * 80, "short") for number in range(5)]
    assert found(check(rows + lost))["cut_away"].level == "red"
    assert found(check(rows + lost[:4]))["cut_away"].level == "amber"


def test_what_is_not_looked_for_is_not_green(check, evaluation):
    rows = [good(number) for number in range(30)]
    codes = {one.code for one in check(rows).findings}
    assert {one.code for one in check(rows, evaluation).findings} - codes == {"leak", "near_leak"}


def test_no_length_beyond_the_models_context_is_proposed(check, tmp_path):
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 320}}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    model = f"model.name_or_path={tmp_path}"
    rows = [*(good(number) for number in range(30)), BAD_ROWS["cut"]]
    checked = check(rows, model)
    (longer,) = [one for one in found(checked)["cut"].fixes if one.verb == "length"]
    assert longer.override == "data.max_length=320" and "no more context" in longer.meaning
    assert checked.statistics.context == 320
    assert not any(one.verb == "length" for one in found(check(rows, model, longer.override))["cut"].fixes)
    beyond = found(check(rows, model, "data.max_length=512"))["beyond_context"]
    assert beyond.level == "amber" and "512 tokens, it has 320" in beyond.text
    for fix in beyond.fixes:
        after = found(check(rows, model, "data.max_length=512", "data.drop=[]", fix.override))
        assert fix.verb == "length" or after["beyond_context"].level == "green"
    assert "beyond_context" not in found(check(rows, model, beyond.fixes[0].override))


def test_documents_ask_for_no_length(check):
    figures = check([{"text": "long " * 200}, {"text": "short " * 3}]).statistics
    assert figures.documents and figures.recommended_length == 256


def test_the_first_rows_alone_are_said_to_be(check):
    rows = [good(number) for number in range(30)]
    assert "only the first 20 rows of" in check(rows, "data.max_rows=20").notes[0]
    assert not any("first" in note for note in check(rows, "data.max_rows=50").notes)


# Figures


def test_figures_of_an_epoch_and_a_run(check):
    rows = [good(number) for number in range(40)]
    figures = check(rows, "train.per_device_train_batch_size=2", "train.num_train_epochs=3").statistics
    report = check(rows).report
    assert figures.tokens == report.tokens and figures.bins == report.bins
    assert figures.packing == report.tokens / (report.bins * 256)
    per_update = 2 * RunConfig().train.gradient_accumulation_steps
    assert figures.steps == 3 * -(-report.bins // per_update)
    assert figures.seconds is None
    assert figures.percentiles["longest"] == max(report.lengths)
    assert figures.over_recommended == sum(n > figures.recommended_length for n in report.lengths)


def test_lengths_are_those_before_anything_is_cut(check):
    lengths = check([*(good(number) for number in range(30)), BAD_ROWS["cut"]]).report.lengths
    assert len(lengths) == 31 and lengths == sorted(lengths)
    assert lengths[-1] > 400 and lengths[-2] < 256  # max_length is 256


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200), st.floats(0.01, 1))
def test_percentiles_are_those_of_a_sorted_list(lengths, share):
    counts = {length: lengths.count(length) for length in lengths}
    assert percentile(counts, share) == sorted(lengths)[int(np.ceil(share * len(lengths))) - 1]


def test_recommended_lengths_are_round():
    assert [round_up(n) for n in (1, 64, 65, 512, 513, 1331)] == [64, 64, 128, 512, 768, 1536]


# Near-duplicates


def rows_of(*ids: list[int]) -> Examples:
    return Examples.of(
        Example(ids=np.array(row, np.int32), trained=np.ones(len(row), bool), number=place)
        for place, row in enumerate(ids)
    )


def pieces(row: list[int]) -> set[tuple[int, ...]]:
    return {tuple(row[at : at + 3]) for at in range(len(row) - 2)}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 600), st.integers(1, 12))
def test_near_duplicates_are_those_of_the_exact_similarity(seed, length, changed):
    """Below twenty rows no piece counts as the template's, so the definition can be written down."""
    pick = np.random.default_rng(seed)
    base = pick.integers(0, 1000, length).tolist()
    other = list(base)
    for at in pick.integers(0, length, changed):
        other[at] = int(pick.integers(0, 1000))
    one, two = pieces(base), pieces(other)
    similar = len(one & two) / len(one | two)
    got = near_duplicates(rows_of(base, pick.integers(0, 1000, length).tolist(), other)).tolist()
    assert got[:2] == [False, False]
    if similar < SIMILAR or other == base:
        assert not got[2]
    elif similar > SIMILAR + 0.05:  # at the threshold itself a pair is missed once in a thousand
        assert got[2]


@pytest.mark.parametrize(
    ("count", "prompts", "length"),
    [(40, 4, 500), (40, 4, 800), (15, 1, 150), (200, 10, 300), (1000, 4, 1000)],
)
def test_a_shared_prompt_makes_no_rows_alike(count, prompts, length):
    pick = np.random.default_rng(1)
    frames = [pick.integers(0, 900, length).tolist() for _ in range(prompts)]
    rows = [frames[n % prompts] + pick.integers(0, 900, 30).tolist() for n in range(count)]
    assert not near_duplicates(rows_of(*rows)).any()
    rows.append([*rows[7][:-1], 901])
    assert near_duplicates(rows_of(*rows)).nonzero()[0].tolist() == [count]


def test_near_copies_are_of_the_other_set():
    pick = np.random.default_rng(2)
    rows = [pick.integers(0, 900, 60).tolist() for _ in range(30)]
    tested = [pick.integers(0, 900, 60).tolist() for _ in range(10)]
    rows[5] = [*rows[4][:-1], 901]  # alike among themselves
    rows[11], rows[20] = [*tested[3][:-1], 902], list(tested[7])
    assert near_copies(rows_of(*rows), rows_of(*tested)).nonzero()[0].tolist() == [11, 20]


def test_a_template_makes_no_rows_alike():
    pick = np.random.default_rng(0)
    frame = list(range(1000, 1200))
    rows = [frame + pick.integers(0, 900, 20).tolist() for _ in range(40)]
    assert not near_duplicates(rows_of(*rows)).any()
    rows.append([*rows[7][:-1], 901])
    assert near_duplicates(rows_of(*rows)).nonzero()[0].tolist() == [40]


def test_a_few_placeholders_among_many_rows_are_told_and_no_alarm(check):
    rows = [good(number) for number in range(80)]
    one = check([*rows, BAD_ROWS["placeholders"]])
    assert (one.level, found(one)["placeholders"].level, found(one)["placeholders"].count) == ("green", "green", 1)
    assert (
        found(check([*rows, *[pair(f"who {n}?", f"I am {{{{name}}}} number {n}") for n in range(3)]]))[
            "placeholders"
        ].level
        == "amber"
    )


def test_pictures_end_a_run_unless_they_are_dropped_or_meant(check):
    rows = [*(good(number) for number in range(10)), BAD_ROWS["pictures"]]
    with pytest.raises(DataError, match=r"data\.drop=\[pictures\].*data\.keep=\[pictures\]"):
        require_no_red(check(rows))
    for setting in ("data.drop=[pictures]", "data.keep=[pictures]"):
        require_no_red(check(rows, setting))


@pytest.mark.parametrize(
    "turn",
    [
        {"content": "What is it?", "images": ["a.png"]},
        {"content": "<img>a.png</img>What is it?"},
        {"content": "<|vision_start|><|image_pad|><|vision_end|>What is it?"},
        {"content": "What is it? ![](data:image/png;base64,AAAA)"},
    ],
)
def test_pictures_stand_in_turns_and_in_texts(check, turn):
    rows = [{"messages": [{"role": "user", **turn}, {"role": "assistant", "content": "A cup."}]}]
    with pytest.raises(DataError, match=r"data\.keep=\[pictures\]"):
        require_no_red(check(rows))


def test_markup_of_a_page_is_no_picture(check):
    rows = [pair("Write a page.", '<img src="a.png"> <audio src="b.mp3"></audio> <!-- <img> -->')]
    require_no_red(check(rows))


def model_of(tmp_path, **config) -> str:
    """The setting of a model of which only the config.json is looked at."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    return f"model.name_or_path={tmp_path}"


@pytest.mark.parametrize("name", ["n_positions", "max_seq_len", "seq_length", "max_position_embeddings"])
def test_the_context_is_read_under_every_configurations_own_name(check, tmp_path, name):
    rows = [good(number) for number in range(10)]
    assert check(rows, model_of(tmp_path, **{name: 320})).statistics.context == 320


def test_rows_longer_than_learnt_positions_are_red_and_no_length_beyond_them_is_recommended(check, tmp_path):
    rows = [*(good(number) for number in range(9)), *(pair(f"tell {n}", "much " * 80) for n in range(9))]
    model = model_of(tmp_path, model_type="gpt2", n_positions=128)
    checked = check(rows, model)
    beyond = found(checked)["beyond_context"]
    assert beyond.level == "red" and [fix.override for fix in beyond.fixes] == ["data.max_length=128"]
    assert checked.statistics.recommended_length == 128 and checked.statistics.over_recommended == 9
    assert "beyond_context" not in found(check(rows, model, "data.max_length=128"))
    with pytest.raises(DataError, match=r"data\.max_length=128"):
        require_no_red(check(rows, model, "data.keep=[beyond_context]"))


def test_a_token_beyond_the_embeddings_is_found_with_its_row(check, tokenizer, tmp_path):
    rows = [good(number) for number in range(10)]
    largest = len(tokenizer)
    check(rows, model_of(tmp_path, vocab_size=largest))
    marker = tokenizer.convert_tokens_to_ids("<|im_start|>")
    with pytest.raises(
        DataError, match=rf"rows\.jsonl: row 1: .*<\|im_start\|>.*number {marker}, .*for {marker} tokens"
    ):
        check(rows, model_of(tmp_path, vocab_size=marker))
