"""Answers are learnt behind what asks for them, whatever a template does to ask."""

import datetime

import pytest
from chat_templates import A1, A2, CHATML, CHATML_MARKED, REWRITES, U1, U2, encode, row

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.render import template as t
from evenfall.engine.data.render import template_fit as fit
from evenfall.engine.data.render.template import Renderer


def test_an_answer_that_does_not_go_on_from_the_generation_prompt(make_tokenizer):
    thinks = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    thinks = thinks.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    texts, renderer = encode(make_tokenizer(thinks), {"messages": [U1, A2]})
    assert texts[0][1] == "\n</think>\n\nNo.\n<|im_end|>\n"
    assert texts[0][0].endswith("assistant\n<think>\n" + texts[0][1])
    assert renderer.take_notes() == {}
    inside = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nNo."}
    for answer in (inside, {"role": "assistant", "content": "No.", "reasoning_content": "Hm."}):
        texts, renderer = encode(make_tokenizer(thinks), {"messages": [U1, answer]})
        assert texts[0][1] == "Hm.\n</think>\n\nNo.<|im_end|>\n"
        assert renderer.take_notes() == {}


def test_a_prompt_that_goes_on_otherwise_than_any_answer_is_told(make_tokenizer):
    closed = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
    renderer = Renderer(make_tokenizer(closed))
    (one,) = renderer.encode(renderer.render(row({"messages": [U1, A2]})))
    assert one.prompt_differs
    assert renderer.tokenizer.decode(one.ids[one.trained]) == "No.\n<|im_end|>\n"


def test_what_the_assistant_says_first_is_learnt_though_nobody_can_ask_for_it(make_tokenizer):
    first = "{{ messages[0].role }}:" + CHATML_MARKED
    texts, _ = encode(make_tokenizer(first), {"messages": [A2, U1, A1]})
    assert [learnt for _, learnt in texts] == ["No.\n<|im_end|>\n 🎈 Yes<|im_end|>\n"]


NEEDS_A_USER = (
    "{% set ns = namespace(user=false) %}"
    "{% for m in messages if m.role == 'user' %}{% set ns.user = true %}{% endfor %}"
    "{% if not ns.user %}{{ raise_exception('no user turn') }}{% endif %}"
)


@pytest.mark.parametrize("answers_only", [True, False])
@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED])
def test_a_greeting_behind_system_text_costs_no_row(make_tokenizer, template, answers_only):
    """As Qwen 3.5's template, which asks for nothing before a user has spoken."""
    messages = [{"role": "system", "content": "Be brief."}, A2, U1, A1]
    ((_, learnt),), _ = encode(make_tokenizer(NEEDS_A_USER + template), {"messages": messages}, answers_only)
    assert learnt.endswith(" 🎈 Yes<|im_end|>\n")


def test_what_comes_first_and_cannot_be_asked_for_is_context(make_tokenizer):
    first = "{{ messages[0].role }}:" + REWRITES
    texts, renderer = encode(make_tokenizer(first), {"messages": [A2, U1, {**A1, "content": "<think>x</think>a"}]})
    assert [learnt for _, learnt in texts] == ["<think>x</think>a<|im_end|>\n"]
    assert renderer.take_notes() == {t.FIRST_UNASKED: 1}
    with pytest.raises(DataError, match="chat template refuses it"):
        encode(make_tokenizer(first), {"messages": [A2]})


def test_text_before_reasoning_that_the_template_drops_is_told(make_tokenizer):
    drops = CHATML.replace(
        "{{ m.content }}",
        "{% if '</think>' in m.content %}<think>{{ m.content.split('</think>')[0].split('<think>')[-1] }}</think>"
        "{% endif %}{{ m.content.split('</think>')[-1] }}",
    )
    answer = {"role": "assistant", "content": "First. Use <think>x</think> in it."}
    texts, renderer = encode(make_tokenizer(drops), {"messages": [U1, answer]})
    assert "First." not in texts[0][1] and renderer.take_notes() == {fit.HEAD_LEFT_OUT: 1}
    plain = {"role": "assistant", "content": "<think>x</think> Yes"}
    assert encode(make_tokenizer(drops), {"messages": [U1, plain]})[1].take_notes() == {}
    assert encode(make_tokenizer(), {"messages": [U1, answer]})[1].take_notes() == {}


def test_prompts_that_are_learnt_too_are_held_against_what_is_asked(make_tokenizer):
    thinks = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    system = {"role": "system", "content": "Be brief."}
    for template, messages, differs in (
        (CHATML, [system, U1, A1, U2, A2], False),
        (thinks, [U1, A2], True),
        (REWRITES, [U1, {**A1, "content": "<think>x</think>a"}, U2, A2], False),
        (LAST_USER, [system, U1, A1], False),
        (LAST_USER, [system, U1, A1, U2, A2], True),
    ):
        (one,) = Renderer(make_tokenizer(template), assistant_only=False).render(row({"messages": messages}))
        assert one.prompt_differs is differs


def test_reasoning_inside_an_answer_that_the_template_drops_is_told(make_tokenizer):
    drops = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    inside = {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nNo."}
    texts, renderer = encode(make_tokenizer(drops), {"messages": [U1, inside]})
    assert texts[0][1] == "\n\nNo.<|im_end|>\n"
    assert renderer.take_notes() == {fit.REASONING_LEFT_OUT: 1}
    assert encode(make_tokenizer(), {"messages": [U1, inside]})[1].take_notes() == {}


# As Llama 3's was first published: the generation prompt stands behind every conversation.
ALWAYS = CHATML.partition("{% if add_generation_prompt %}")[0] + "{{ '<|im_start|>assistant\n' }}"


def test_a_generation_prompt_that_is_always_there_is_not_learnt(make_tokenizer):
    for messages in ([U1, A1], [U1, A1, U2, A2]):
        texts, renderer = encode(make_tokenizer(ALWAYS), {"messages": messages})
        assert texts == encode(make_tokenizer(CHATML), {"messages": messages})[0]
        assert renderer.take_notes() == {t.TAIL_LEFT_OUT: 1}


# As Mistral's: system text goes into the last user turn, and only if that is the last turn of all.
LAST_USER = (
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set said = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}[INST]{% if loop.last and said %}{{ said + '\n\n' }}{% endif %}"
    "{{ m.content }}[/INST]{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)


def test_system_text_that_is_written_into_the_last_user_turn_alone(make_tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, U1, A1, U2, A2]
    texts, renderer = encode(make_tokenizer(LAST_USER), {"messages": messages})
    assert texts == [
        ("[INST]Be brief.\n\nHi é[/INST] 🎈 Yes<|im_end|>", " 🎈 Yes<|im_end|>"),
        ("[INST]Hi é[/INST] 🎈 Yes<|im_end|>[INST]Be brief.\n\nSo?[/INST]No.\n<|im_end|>", "No.\n<|im_end|>"),
    ]
    assert renderer.take_notes() == {t.TURNS_SPLIT: 1}
    ((text, _),), _ = encode(make_tokenizer(LAST_USER), {"messages": messages}, assistant_only=False)
    assert text.startswith("[INST]Be brief.\n\nHi é[/INST]")


def test_the_day_that_a_template_writes_is_the_one_given(make_tokenizer):
    tokenizer = make_tokenizer("{{ strftime_now('%d %b %Y') }}" + CHATML)
    value = row({"messages": [U1, A2]})
    texts = [
        Renderer(tokenizer, date=date).render(value)[0].text
        for date in (datetime.date(2024, 7, 26), datetime.date(2026, 1, 2))
    ]
    assert [text.partition("<")[0] for text in texts] == ["26 Jul 2024", "02 Jan 2026"]
