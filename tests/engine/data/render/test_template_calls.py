"""Tool calls and reasoning: as a template wants them, or said to be lost."""

import re

import pytest
from chat_templates import A2, CHATML, U1, U2, encode

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.normal import EMPTY_NOT_LEARNT
from evenfall.engine.data.formats.normalise import NUMBERS_READ
from evenfall.engine.data.render import template_fit as fit

TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}" + CHATML.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ ARGUMENTS }}</call>{% endfor %}",
)
CALLS = {
    "tools": [{"name": "look", "parameters": {}}],
    "conversations": [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"at": "x"}}'},
        {"from": "observation", "value": "seen"},
        {"from": "gpt", "value": "a"},
    ],
}  # fmt: skip


@pytest.mark.parametrize("arguments", ["c.function.arguments | tojson", "c.function.arguments"])
def test_tool_calls_reach_the_template_as_it_wants_them(make_tokenizer, arguments):
    template = TOOLS.replace("ARGUMENTS", arguments)
    ((text, learnt),), renderer = encode(make_tokenizer(template), CALLS)
    assert '"name": "look"' in text.split("<|im_end|>")[0]
    assert learnt.replace(" ", "") == '<call>look{"at":"x"}</call><|im_end|>\na<|im_end|>\n'
    assert renderer.take_notes() == {}


def test_tools_that_a_template_would_lose_in_silence(make_tokenizer):
    ((text, learnt),), renderer = encode(make_tokenizer(), CALLS)
    assert learnt == '{"name":"look","arguments":{"at":"x"}}<|im_end|>\na<|im_end|>\n'
    assert "<|im_start|>tool\nseen<|im_end|>" in text
    assert renderer.take_notes() == {fit.TOOLS_LEFT_OUT: 1, fit.CALLS_AS_TEXT: 1}
    deaf = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    with pytest.raises(DataError, match=r"f\.json: row 7: holds tool results"):
        encode(make_tokenizer(deaf), CALLS)


def test_what_a_template_has_no_place_for_beside_and_among_calls_is_noted(make_tokenizer):
    calls = [{"name": "look", "arguments": {"at": place}} for place in ("x", "y")]
    value = {"messages": [U1, {"role": "assistant", "content": "Wait.", "tool_calls": calls}]}
    every = TOOLS.replace("ARGUMENTS", "c.function.arguments | tojson")
    one = every.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
    bare = every.replace("{{ m.content }}", "{{ '' if m.tool_calls else m.content }}")
    for template, notes in (
        (every, {}),
        (one, {fit.CALLS_LEFT_OUT: 1}),
        (bare, {fit.TEXT_LEFT_OUT: 1}),
    ):
        ((text, learnt),), renderer = encode(make_tokenizer(template), value)
        assert renderer.take_notes() == notes
        assert learnt.count("<call>") == 2 - (template is one)
        assert ("Wait." in text) is (template is not bare)


def _calls(*names):
    return [{"id": f"call_{name}", "function": {"name": name, "arguments": {"at": name}}} for name in names]


def _results(*names):
    return [{"role": "tool", "tool_call_id": f"call_{name}", "content": f"seen {name}"} for name in names]


ONE_CALL = (
    "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endfor %}"
)
ONE_CALL += TOOLS.replace("ARGUMENTS", "c.function.arguments | tojson")


@pytest.mark.parametrize("order", [("x", "y"), ("y", "x")])
def test_calls_made_at_once_are_written_one_after_the_other_where_a_template_takes_one(make_tokenizer, order):
    asks = {"role": "assistant", "content": "Wait.", "tool_calls": _calls("x", "y")}
    value = {"messages": [U1, asks, *_results(*order), A2]}
    ((text, learnt),), renderer = encode(make_tokenizer(ONE_CALL), value)
    call = '<call>{0} {{"at": "{0}"}}</call><|im_end|>\n'
    result = "<|im_start|>tool\nseen {0}<|im_end|>\n<|im_start|>assistant\n"
    both = [form.format(name) for name in ("x", "y") for form in (call, result)]
    assert text.endswith("".join(["Wait.", *both, "No.\n<|im_end|>\n"]))
    assert learnt == "Wait." + call.format("x") + call.format("y") + "No.\n<|im_end|>\n"
    assert renderer.take_notes() == {fit.CALLS_ONE_BY_ONE: 1}
    masked = {"messages": [U1, {**asks, "weight": 0}, *_results(*order), A2]}
    assert encode(make_tokenizer(ONE_CALL), masked)[0][0][1] == "No.\n<|im_end|>\n"


def test_a_single_call_that_a_template_does_not_end_is_told(make_tokenizer):
    several = TOOLS.replace("ARGUMENTS", "c.function.arguments | tojson")
    end = "{% if not m.tool_calls or m.tool_calls | length > 1 %}<|im_end|>{% endif %}"
    several = several.replace("<|im_end|>\n{% endfor %}{% if add", end + "\n{% endfor %}{% if add")
    one, two = ({"role": "assistant", "content": "", "tool_calls": _calls(*names)} for names in ("x", "xy"))
    assert encode(make_tokenizer(several), {"messages": [U1, one]})[1].take_notes()[fit.CALL_UNENDED] == 1
    assert encode(make_tokenizer(several), {"messages": [U1, two]})[1].take_notes() == {}


NINE = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if not c.id or c.id | length != 9 %}"
    "{{ raise_exception('ids have 9 letters') }}{% endif %}{% endfor %}{% endfor %}"
    + TOOLS.replace("ARGUMENTS", "c.function.arguments | tojson }} {{ c.id").replace(
        "{{ m.content }}", "{{ m.content }}{{ m.tool_call_id }}"
    )
)


def test_ids_of_calls_are_what_a_template_takes_and_stay_those_of_their_results(make_tokenizer):
    asks = {"role": "assistant", "content": "", "tool_calls": _calls("x", "y")}
    ((text, learnt),), renderer = encode(make_tokenizer(NINE), {"messages": [U1, asks, *_results("y", "x"), A2]})
    assert renderer.take_notes() == {fit.IDS_SHORTENED: 1}
    x, y = re.findall(r" (\w{9})</call>", learnt)
    assert x != y and f"seen y{y}" in text and f"seen x{x}" in text
    without = [{"function": call["function"]} for call in _calls("x")]
    unnamed = {"messages": [U1, {**asks, "tool_calls": without}, {"role": "tool", "content": "seen x"}, A2]}
    ((text, _),), renderer = encode(make_tokenizer(NINE), unnamed)
    assert "seen x000000001" in text and renderer.take_notes() == {fit.IDS_SHORTENED: 1}
    short = [{**call, "id": "abcdefgh1"} for call in _calls("x")]
    assert encode(make_tokenizer(NINE), {"messages": [U1, {**asks, "tool_calls": short}]})[1].take_notes() == {}


def test_calls_that_a_template_writes_only_where_content_is_null_are_written(make_tokenizer):
    null = TOOLS.replace("ARGUMENTS", "c.function.arguments")
    null = null.replace("m.tool_calls or []", "m.tool_calls or [] if m.content is none")
    null = null.replace("{{ m.content }}", "{{ m.content if m.content is not none }}")
    asks = {"role": "assistant", "content": "", "tool_calls": _calls("x")}
    ((_, learnt),), renderer = encode(make_tokenizer(null), {"messages": [U1, asks]})
    assert learnt == '<call>x {"at":"x"}</call><|im_end|>\n'
    assert renderer.take_notes() == {}
    ((_, learnt),), renderer = encode(make_tokenizer(null), {"messages": [U1, {**asks, "content": "Wait."}]})
    assert learnt == '<call>x {"at":"x"}</call><|im_end|>\n'
    assert renderer.take_notes() == {fit.TEXT_LEFT_OUT: 1}


THINKS = CHATML.replace(
    "{{ m.content }}",
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}",
)


def test_reasoning_that_a_template_would_lose_in_silence(make_tokenizer):
    value = {"messages": [U1, {**A2, "reasoning_content": "Hm."}]}
    ((_, learnt),), renderer = encode(make_tokenizer(THINKS), value)
    assert learnt == "<think>Hm.</think>No.\n<|im_end|>\n"
    assert renderer.take_notes() == {}
    ((text, _),), renderer = encode(make_tokenizer(), value)
    assert "Hm." not in text
    assert renderer.take_notes() == {fit.REASONING_LEFT_OUT: 1}
    other = {"messages": [U1, {**A2, "reasoning": "Hm."}]}
    assert encode(make_tokenizer(), other)[1].take_notes() == {fit.REASONING_LEFT_OUT: 1}
    # Beside calls only, as gpt-oss's.
    calls = [{"name": "look", "arguments": {}}]
    beside = THINKS.replace("if m.reasoning_content", "if m.tool_calls and m.reasoning_content")
    beside = beside.replace("{{ m.content }}", "{{ m.content }}{{ m.tool_calls }}")
    both = {"messages": [U1, {"role": "assistant", "reasoning_content": "Hm.", "tool_calls": calls}]}
    assert fit.REASONING_LEFT_OUT not in encode(make_tokenizer(beside), both)[1].take_notes()
    assert fit.REASONING_LEFT_OUT in encode(make_tokenizer(beside), value)[1].take_notes()


@pytest.mark.parametrize("assistant_only", [True, False])
def test_reasoning_without_an_answer_is_learnt_where_there_is_a_place_for_it(make_tokenizer, assistant_only):
    thinks = {"role": "assistant", "content": None, "reasoning_content": "Hm."}
    ((_, learnt),), _ = encode(make_tokenizer(THINKS), {"messages": [U1, thinks]}, assistant_only)
    assert learnt.endswith("<think>Hm.</think><|im_end|>\n")
    alone, renderer = encode(make_tokenizer(), {"messages": [U1, thinks]}, assistant_only)
    assert not alone and renderer.take_notes() == {fit.REASONING_LEFT_OUT: 1}
    ((_, learnt),), _ = encode(make_tokenizer(), {"messages": [U1, thinks, U2, A2]}, assistant_only)
    assert learnt.endswith("No.\n<|im_end|>\n")
    assert "assistant\n<|im_end|>" not in learnt


def test_what_was_done_to_a_row_to_read_it_is_noted(make_tokenizer):
    for template in (CHATML, None):
        _, renderer = encode(make_tokenizer(template), {"question": "2+2", "answer": 4})
        assert renderer.take_notes() == {NUMBERS_READ: 1}
    empty = {"role": "assistant", "content": ""}
    ((text, learnt),), renderer = encode(make_tokenizer(), {"messages": [U1, empty, U2, A2]})
    assert "assistant\n<|im_end|>" in text and learnt == "No.\n<|im_end|>\n"
    assert renderer.take_notes() == {EMPTY_NOT_LEARNT: 1}


def test_a_long_number_is_written_whole_with_and_without_a_place_for_calls(make_tokenizer):
    call = {"name": "look", "arguments": {"id": 123456789012345678901234}}
    value = {"messages": [U1, {"role": "assistant", "content": "", "tool_calls": [call]}]}
    for template in (CHATML, TOOLS.replace("ARGUMENTS", "c.function.arguments")):
        ((_, learnt),), _ = encode(make_tokenizer(template), value)
        assert '{"id":123456789012345678901234}' in learnt.replace(" ", "")
