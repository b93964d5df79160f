"""Which tokens are learnt: exact, for chat templates of every habit."""

from pathlib import Path

import pytest
from chat_templates import A1, A2, BARE, CHATML, CHATML_MARKED, REWRITES, U1, U2, encode, row

from evenfall.engine.data.errors import DataError
from evenfall.engine.data.render import mask
from evenfall.engine.data.render import template as t
from evenfall.engine.data.render import template_fit as fit
from evenfall.engine.data.render.template import Renderer
from evenfall.presets.load import chat_template


@pytest.mark.parametrize("template", [CHATML, CHATML_MARKED])
def test_answers_with_their_end_of_turn_are_learnt_and_nothing_else(make_tokenizer, template):
    texts, renderer = encode(make_tokenizer(template), {"messages": [U1, A1, U2, A2]})
    assert texts == [
        (
            (
                "<|im_start|>user\nHi é<|im_end|>\n<|im_start|>assistant\n 🎈 Yes<|im_end|>\n"
                "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\nNo.\n<|im_end|>\n"
            ),
            " 🎈 Yes<|im_end|>\nNo.\n<|im_end|>\n",
        )
    ]
    assert renderer.take_notes() == {}


def test_the_mask_token_by_token(chatml):
    renderer = Renderer(chatml)
    ((one,),) = [renderer.encode(renderer.render(row({"prompt": "a", "completion": "b"})))]
    #   <im_start>user\n = 6, a, <im_end>, \n, <im_start>assistant\n = 11: 20 tokens of prompt
    assert one.trained.tolist() == [False] * 20 + [True] * 3
    start, end = chatml.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert [place for place, i in enumerate(one.ids) if i == start] == [0, 9]
    assert one.ids[21] == end


@pytest.mark.parametrize("trim", [True, False])
def test_markers_give_the_mask_that_transformers_gives(make_tokenizer, trim):
    from tokenizers import processors

    tokenizer = make_tokenizer(CHATML_MARKED)
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    messages = [U1, {"role": "assistant", "content": "Yes, 3 <b>"}, U2, A2]
    renderer = Renderer(tokenizer)
    (one,) = renderer.encode(renderer.render(row({"messages": messages})))
    stock = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert one.ids.tolist() == stock["input_ids"]
    assert one.trained.tolist() == [bool(flag) for flag in stock["assistant_masks"]]


def test_all_tokens_are_learnt_without_assistant_only_loss(chatml):
    ((text, learnt),), _ = encode(chatml, {"messages": [U1, A1, U2]}, assistant_only=False)
    assert text == learnt.join(["<|im_start|>", ""])
    assert text.endswith("So?<|im_end|>\n")


def test_turns_after_the_last_answer_and_masked_answers_are_not_learnt(chatml, make_tokenizer):
    value = {"prompt": [U1, A1, U2], "completion": [A2, U1]}
    for tokenizer in (chatml, make_tokenizer(CHATML_MARKED)):
        ((text, learnt),), _ = encode(tokenizer, value)
        assert learnt == "No.\n<|im_end|>\n"
        assert text.endswith(learnt)


def test_an_end_of_turn_outside_of_the_markers_is_learnt_all_the_same(make_tokenizer):
    outside = CHATML_MARKED.replace(
        "{{ m.content }}<|im_end|>\n{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}<|im_end|>\n",
    )
    texts, _ = encode(make_tokenizer(outside), {"messages": [U1, A1, U2, A2]})
    assert texts[0][1] == " 🎈 Yes<|im_end|>No.\n<|im_end|>"


def test_a_last_character_of_several_tokens_is_learnt_whole(make_tokenizer):
    """As GPT-2's and Llama's vocabularies have them: the first token holds the space and half of an emoji."""
    outside = CHATML_MARKED.replace(
        "{{ m.content }}<|im_end|>\n{% endgeneration %}",
        "{{ m.content }}{% endgeneration %}<|im_end|>\n",
    )
    tokenizer = make_tokenizer(outside, merges=[("Ġ", "ð"), ("Ġð", "Ł")])
    messages = [U1, {"role": "assistant", "content": "Yes 🎈"}, U2, A2]
    ((_, learnt),), _ = encode(tokenizer, {"messages": messages})
    assert learnt == "Yes 🎈<|im_end|>No.\n<|im_end|>"


def test_a_token_across_the_edge_of_an_answer_is_parted_at_its_prompt_and_learnt_at_its_end(make_tokenizer):
    # Ċ is the byte-level alphabet's line break: `\n\n` and `\nu` are one token each.
    tokenizer = make_tokenizer(BARE, "<|endoftext|>", merges=[("Ċ", "Ċ"), ("Ċ", "u")])
    messages = [U1, {"role": "assistant", "content": "\nYes"}, U2, A2]
    ((text, learnt),), renderer = encode(tokenizer, {"messages": messages})
    assert learnt == "\nYes\nuNo.\n\n<|endoftext|>"
    assert text == "user:\nHi é\nassistant:\n\nYes\nuser:\nSo?\nassistant:\nNo.\n\n<|endoftext|>"
    assert renderer.take_notes() == {mask.TOKENS_APART: 1, mask.EOS_ADDED: 1}
    (one,) = renderer.encode(renderer.render(row({"messages": messages[:2]})))
    asked = tokenizer("user:\nHi é\nassistant:\n")["input_ids"]
    assert one.ids[: len(asked)].tolist() == asked and one.trained.tolist().index(True) == len(asked)


def test_eos_is_added_where_a_template_never_ends_an_answer(make_tokenizer):
    ((text, learnt),), renderer = encode(make_tokenizer(BARE, "<|endoftext|>"), {"messages": [U1, A2]})
    assert text == "user:\nHi é\nassistant:\nNo.\n\n<|endoftext|>"
    assert learnt == "No.\n\n<|endoftext|>"
    assert renderer.take_notes() == {mask.EOS_ADDED: 1}


# Reasoning and content are marked apart, an answer without either not at all; `<tool>` is not learnt.
IN_PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role != 'assistant' %}{{ m.content }}"
    "{% else %}{% if m.thinking %}{% generation %}{{ m.thinking }}{% endgeneration %}<tool>{% endif %}"
    "{% if m.content != 'No.\n' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% endif %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_spans_of_a_turn_are_told_by_rendering_and_not_by_their_number(make_tokenizer):
    tokenizer = make_tokenizer(IN_PARTS, special=["<tool>"])
    thinks = {"role": "assistant", "content": "Yes", "thinking": "Hm"}

    def learnt(messages, **last):
        renderer = Renderer(tokenizer, **last)
        (one,) = renderer.encode(renderer.render(row({"messages": messages})))
        return tokenizer.decode(one.ids[one.trained])

    # Two answers and two spans, both of the second answer.
    assert learnt([U1, A2, U2, thinks]) == "HmYes<|im_end|>"
    assert learnt([U1, A2, U2, thinks], last_only=True) == "HmYes<|im_end|>"
    assert learnt([U1, {**A2, "weight": 0}, U2, thinks]) == "HmYes<|im_end|>"
    unweighted, plain = {**thinks, "weight": 0}, {"role": "assistant", "content": "Ja"}
    assert learnt([U1, thinks, U2, plain]) == "HmYes<|im_end|>Ja<|im_end|>"
    assert learnt([U1, thinks, U2, unweighted, U2, plain]) == "HmYes<|im_end|>Ja<|im_end|>"
    assert learnt([U1, unweighted, U2, thinks, U2, plain], last_only=True) == "Ja<|im_end|>"
    with pytest.raises(DataError, match="leaves out message 4"):
        learnt([U1, unweighted, U2, A2])


def test_masks_where_the_markers_turns_cannot_be_told(make_tokenizer):
    counts = "{{ messages | length }}" + CHATML_MARKED
    texts, renderer = encode(make_tokenizer(counts), {"messages": [U1, A1, U2, A2]})
    assert [learnt for _, learnt in texts] == [" 🎈 Yes<|im_end|>\n", "No.\n<|im_end|>\n"]
    assert [text[0] for text, _ in texts] == ["1", "3"]  # as many as there are when it is asked
    assert renderer.take_notes() == {t.TURNS_SPLIT: 1}
    texts, _ = encode(make_tokenizer(counts), {"prompt": [U1, A1, U2], "completion": [A2]})
    assert [(text[0], learnt) for text, learnt in texts] == [("3", "No.\n<|im_end|>\n")]
    nowhere = CHATML_MARKED.replace("{{ m.content }}<|im_end|>\n{% endg", "{% endg")
    with pytest.raises(DataError, match="leaves out message 2"):
        encode(make_tokenizer(nowhere), {"messages": [U1, A1]})
    empty = CHATML_MARKED.replace(
        "{{ m.content }}<|im_end|>\n{% endgeneration %}", "{% endgeneration %}{{ m.content }}"
    )
    assert encode(make_tokenizer(empty), {"messages": [U1, A1]})[0][0][1] == " 🎈 Yes<|im_end|>"


@pytest.mark.parametrize("writes", ["m.content[0].text", "m.content | map(attribute='text') | join"])
def test_a_template_that_takes_content_as_blocks_gets_blocks(make_tokenizer, writes):
    tokenizer = make_tokenizer(CHATML.replace("m.content", writes))
    texts, renderer = encode(tokenizer, {"messages": [U1, A1, U2, A2]})
    assert texts == encode(make_tokenizer(), {"messages": [U1, A1, U2, A2]})[0]
    assert renderer.take_notes() == {}


def test_a_template_that_rewrites_earlier_turns_gives_an_example_for_each_answer(make_tokenizer):
    messages = [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "<think>x</think>a1"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "<think>y</think>a2"},
    ]
    texts, renderer = encode(make_tokenizer(REWRITES), {"messages": messages})
    head = "<|im_start|>user\nq1<|im_end|>\n<|im_start|>assistant\n"
    first, second = "<think>x</think>a1<|im_end|>\n", "<think>y</think>a2<|im_end|>\n"
    between = "a1<|im_end|>\n<|im_start|>user\nq2<|im_end|>\n<|im_start|>assistant\n"
    assert texts == [(head + first, first), (head + between + second, second)]
    assert renderer.take_notes() == {t.TURNS_SPLIT: 1}


def test_a_token_that_closes_the_whole_conversation_splits_nothing(make_tokenizer):
    closes = CHATML.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")  # as Phi-3's
    texts, _ = encode(make_tokenizer(closes, "<|endoftext|>"), {"messages": [U1, A1, U2, A2]})
    assert len(texts) == 1
    assert texts[0][1] == " 🎈 Yes<|im_end|>\nNo.\n<|im_end|>\n<|endoftext|>"


def test_system_text_is_folded_where_the_template_refuses_or_ignores_it(make_tokenizer):
    refuses = "{% if messages and messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    ignores = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    value = {"messages": [{"role": "system", "content": "Be brief."}, U1, A2]}
    for template in (refuses + CHATML, ignores):
        ((text, learnt),), renderer = encode(make_tokenizer(template), value)
        assert text.startswith("<|im_start|>user\nBe brief.\n\nHi é<|im_end|>")
        assert learnt == "No.\n<|im_end|>\n"
        assert renderer.take_notes() == {fit.SYSTEM_FOLDED: 1}
    assert encode(make_tokenizer(), value)[1].take_notes() == {}


SYSTEM = {"role": "system", "content": "NEW RULES"}


@pytest.mark.parametrize(
    ("name", "folded"),
    [("gemma", True), ("vicuna", True), ("mistral", True), ("alpaca", True), ("zephyr", False)],
)
def test_late_system_text_is_nowhere_lost(make_tokenizer, name, folded):
    tokenizer = make_tokenizer(chat_template(name))
    for assistant_only in (True, False):
        value = {"messages": [U1, A1, SYSTEM, SYSTEM, U2, A2]}
        ((text, learnt),), renderer = encode(tokenizer, value, assistant_only)
        assert text.count("NEW RULES") == 2
        assert ("NEW RULES\n\nNEW RULES\n\nSo?" in text) is folded
        assert ("NEW RULES" in learnt) is not assistant_only
        assert renderer.take_notes().get(fit.LATE_SYSTEM_FOLDED, 0) == folded
    masked = {"messages": [U1, {**A1, "weight": 0}, SYSTEM, U2, A2]}
    ((_, learnt),), _ = encode(tokenizer, masked)
    assert "No." in learnt and "Yes" not in learnt
    nowhere = {"messages": [U1, SYSTEM, A2]}
    if folded:
        with pytest.raises(DataError, match=r"row 7: .*no place for system text after a message of role user"):
            encode(tokenizer, nowhere)
        after = {"messages": [U1, A2, SYSTEM]}
        assert "NEW RULES" not in encode(tokenizer, after)[0][0][0]  # as all that follows the last answer
        with pytest.raises(DataError, match=r"row 7: .*data\.drop_system=true"):
            encode(tokenizer, after, assistant_only=False)


def test_system_text_stays_where_a_template_has_a_place_for_it(make_tokenizer):
    shown = "m.role != 'system' or loop.first or loop.previtem.role == 'assistant'"
    tokenizer = make_tokenizer(CHATML.replace("{{ m.content }}", "{{ m.content if " + shown + " }}"))
    first = {"role": "system", "content": "Be brief."}
    ((text, _),), renderer = encode(tokenizer, {"messages": [first, U1, A1, SYSTEM, U2, A2]})
    assert "system\nBe brief.<|im_end|>" in text and "system\nNEW RULES<|im_end|>" in text
    assert renderer.take_notes() == {}
    ((text, _),), renderer = encode(tokenizer, {"messages": [first, SYSTEM, U1, A1]})
    assert "system\nBe brief.<|im_end|>" in text and "user\nNEW RULES\n\nHi" in text
    assert renderer.take_notes() == {fit.LATE_SYSTEM_FOLDED: 1}


def test_a_template_that_leaves_out_what_a_role_says_is_refused(make_tokenizer):
    first = CHATML.replace("{{ m.content }}", "{{ m.content if loop.first or m.role != 'user' }}")
    for value in ({"messages": [U1, A1]}, {"messages": [U1, A1, U2, A2]}):
        with pytest.raises(DataError, match="row 7: the chat template leaves out what user messages say"):
            encode(make_tokenizer(first), value)


# Qwen3's: empty reasoning before the last answer, none before earlier ones.
LAST_THINKS = CHATML.replace(
    "{{ m.content }}",
    "{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}",
)
# Gemma 3's: system text as the beginning of the first user turn.
FOLDS = (
    "{% if messages[0].role == 'system' %}{% set head = messages[0].content + ' | ' %}"
    "{% set rest = messages[1:] %}{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}<|im_start|>{{ m.role }}\n{{ head if loop.first }}{{ m.content }}<|im_end|>\n{% endfor %}"
)  # fmt: skip
# GLM-4's: no line break before an answer that is empty.
TIGHT = CHATML.replace("\n{{ m.content }}", "{{ '\n' + m.content if m.content }}")
MERGED = BARE.replace("{% for", "{# its line breaks are tokens with what follows #}{% for")
PHI3 = CHATML.replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")


@pytest.mark.parametrize(
    ("template", "roles", "flagged", "unlearnt"),
    [
        (CHATML, "uaua", {1: {"weight": 0}}, "<|im_start|>assistant\nm1<|im_end|>\n"),
        (CHATML, "uaua", {2: {"train": False}}, "<|im_start|>user\nm2<|im_end|>\n"),
        (CHATML, "suaa", {0: {"loss": False}, 1: {"weight": 0}},
         "<|im_start|>system\nm0<|im_end|>\n<|im_start|>user\nm1<|im_end|>\n"),
        (CHATML, "uaua", {3: {"weight": 0}}, "<|im_start|>assistant\nm3<|im_end|>\n"),
        (CHATML, "uaua", {0: {"train": True}, 1: {"train": True}}, ""),
        (CHATML, "ueua", {}, "<|im_start|>assistant\n<|im_end|>\n"),
        (PHI3, "uaua", {1: {"weight": 0}}, "<|im_start|>assistant\nm1<|im_end|>\n"),
        (BARE, "uau", {2: {"weight": 0}}, "user:\nm2\n<|im_end|>"),
        (LAST_THINKS, "uaua", {1: {"weight": 0}}, "<|im_start|>assistant\nm1<|im_end|>"),
        (LAST_THINKS, "uaua", {3: {"weight": 0}}, "<|im_start|>assistant\n<think></think>m3<|im_end|>\n"),
        (LAST_THINKS, "ueua", {}, "<|im_start|>assistant\n<|im_end|>"),
        (TIGHT, "ueua", {}, "<|im_start|>assistant<|im_end|>\n"),
        (MERGED, "uaua", {1: {"weight": 0}}, "assistant:\nm1"),  # a token that is partly learnt is
        (FOLDS, "sua", {1: {"weight": 0}}, "m1<|im_end|>\n"),
        (FOLDS, "suau", {0: {"weight": 0}, 3: {"weight": 0}},
         "<|im_start|>user\nm0<|im_start|>user\nm3<|im_end|>\n"),
    ],
)  # fmt: skip
def test_flagged_messages_are_not_learnt_where_all_else_is(make_tokenizer, template, roles, flagged, unlearnt):
    of = {"s": "system", "u": "user", "a": "assistant", "e": "assistant"}
    messages = [
        {"role": of[role], "content": "" if role == "e" else f"m{place}", **flagged.get(place, {})}
        for place, role in enumerate(roles)
    ]
    eos = "<|endoftext|>" if template is PHI3 else "<|im_end|>"
    merges = [("Ċ", "u")] if template is MERGED else []
    renderer = Renderer(make_tokenizer(template, eos, merges=merges), assistant_only=False)
    (one,) = renderer.encode(renderer.render(row({"messages": messages})))
    trained = one.trained.copy()
    trained[0] = flagged.get(0, {"train": True}).get("train", False)  # it never is
    assert renderer.tokenizer.decode(one.ids[~trained]) == unlearnt


def test_flags_that_cannot_be_done_are_refused(make_tokenizer):
    doubled = CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}")
    for template in (doubled, "{{ messages | length }}" + doubled):
        with pytest.raises(DataError, match=r"row 7: `messages\[1\]\.weight`: .*cannot be told"):
            encode(make_tokenizer(template), {"messages": [U1, {**A1, "weight": 0}, U2, A2]}, False)
    own = {"messages": [{**SYSTEM, "train": False}, U1, A1]}
    gemma = make_tokenizer(chat_template("gemma"))
    with pytest.raises(DataError, match=r"row 7: `messages\[0\]\.train`: .*flag them alike"):
        encode(gemma, own, False)
    assert encode(gemma, own)[1].take_notes() == {fit.SYSTEM_FOLDED: 1, mask.EOS_ADDED: 1}
    asks = {"messages": [{**U1, "train": True}, A1]}
    with pytest.raises(DataError, match=r"row 7: `messages\[0\]\.train`: asks to learn a message of"):
        encode(make_tokenizer(), asks)
    assert encode(make_tokenizer(), asks, False)[0][0][1].endswith("Yes<|im_end|>\n")


def test_what_a_template_refuses_is_an_error_with_the_row(make_tokenizer):
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('user first') }}{% endif %}"
    with pytest.raises(DataError, match=r"f\.json: row 7: .*chat template refuses it: user first"):
        encode(make_tokenizer(strict + CHATML), {"messages": [A1, U1, A2]})


def test_models_without_a_template(make_tokenizer):
    tokenizer = make_tokenizer(None)
    texts, _ = encode(tokenizer, {"prompt": "2+2=", "completion": " 4"})
    assert texts == [("2+2= 4<|im_end|>", " 4<|im_end|>")]
    ((text, learnt),), _ = encode(tokenizer, {"instruction": "Add.", "input": "1", "output": "2"})
    assert text.endswith("### Instruction:\nAdd.\n\n### Input:\n1\n\n### Response:\n2<|im_end|>")
    assert learnt == "2<|im_end|>"
    with pytest.raises(DataError, match=r"row 7: .*no chat template.*data\.format=text"):
        encode(tokenizer, {"messages": [U1, A1]})


def test_documents_are_learnt_whole_and_end_once(chatml):
    assert encode(chatml, {"text": "ab"})[0] == [("ab<|im_end|>", "b<|im_end|>")]
    assert encode(chatml, {"text": "ab<|im_end|>"})[0] == [("ab<|im_end|>", "b<|im_end|>")]


@pytest.mark.parametrize(
    ("name", "special"),
    [
        ("llama3", ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]),
        ("gemma", ["<start_of_turn>", "<end_of_turn>"]),
        ("cohere", ["<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"]),
        ("phi3", ["<|end|>", "<|user|>", "<|assistant|>"]),
        ("qwen3", []),
    ],
)
def test_derivation_agrees_with_trl_on_its_templates(make_tokenizer, name, special):
    """TRL's hand-marked training template, and our derivation from one that TRL does not know."""
    trl = pytest.importorskip("trl.chat_template_utils")
    folder = Path(trl.__file__).parent / "chat_templates"
    original = (folder / f"{name}.jinja").read_text()
    tokenizer = make_tokenizer("{#- own -#}" + original, "<|endoftext|>", special)
    messages = [U1, {"role": "assistant", "content": "Yes."}]
    if name != "qwen3":  # it rewrites earlier turns, which TRL's variant of it does not
        messages += [U2, {"role": "assistant", "content": "No."}]
    renderer = Renderer(tokenizer)
    (one,) = renderer.encode(renderer.render(row({"messages": messages})))
    stock = tokenizer.apply_chat_template(
        messages,
        chat_template=(folder / f"{name}_training.jinja").read_text(),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    assert one.ids.tolist() == stock["input_ids"]
    assert one.trained.tolist() == [bool(flag) for flag in stock["assistant_masks"]]


@pytest.mark.parametrize(
    "text", ["<|endoftext|>once", "once<|im_end|>", "<|endoftext|>once<|im_end|>\n", " <|endoftext|>once"]
)
def test_a_document_that_has_its_ends_gets_them_once(make_tokenizer, text):
    tokenizer = make_tokenizer(None)
    from tokenizers.processors import TemplateProcessing

    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", begin)]
    )
    renderer = Renderer(tokenizer)
    (plain,), (one,) = (renderer.encode(renderer.render(row({"text": value}))) for value in ("once", text))
    assert (
        one.ids.tolist() == plain.ids.tolist() == [begin, *tokenizer("once")["input_ids"][1:], tokenizer.eos_token_id]
    )
    assert renderer.take_notes() == {t.ENDS_THERE: 1}


def test_a_begin_that_no_text_gets_stays_where_it_was_written(make_tokenizer):
    tokenizer = make_tokenizer(None)
    renderer = Renderer(tokenizer)
    (one,) = renderer.encode(renderer.render(row({"text": "<|endoftext|>once"})))
    assert one.ids[0] == tokenizer.bos_token_id and renderer.take_notes() == {}
