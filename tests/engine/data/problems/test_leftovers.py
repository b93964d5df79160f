"""Placeholders and the like are found where they are planted, and nowhere else."""

import pytest

from evenfall.engine.data.formats.normal import Document, Learnable, conversation
from evenfall.engine.data.problems.leftovers import has_markup, has_placeholders
from evenfall.engine.data.row import SourceRow

SOURCE = SourceRow(file="f", number=1, value={})


def answer(text: str) -> Learnable:
    row = conversation(SOURCE, [{"role": "user", "content": "q {{ask}}"}, {"role": "assistant", "content": text}])
    assert not hasattr(row, "reason")
    return row  # type: ignore[return-value]


@pytest.mark.parametrize(
    "text",
    [
        "I am {{name}}, made by {{ author }}.",
        "Best wishes, {author}",
        "Call <INSERT NUMBER> now",
        "on [Insert date]",
        "Kind regards, [Your Name]",
        "Dear [Recipient's Name],",
        "Lorem ipsum dolor sit amet",
        "As an AI language model I cannot",
        "It\u00e2\u20ac\u2122s here",
        "Caf\u00c3\u00a9 au lait",
        "Fish &amp; chips",
    ],
)
def test_a_leftover_is_found_in_what_is_learnt(text):
    assert has_placeholders(answer(text)) and has_placeholders(Document(SOURCE, text))


@pytest.mark.parametrize(
    "text",
    [
        "A plain answer.",
        "Write ```html\n<p>{{ name }} &amp; {{author}}</p>\n``` in the template.",
        'print(f"{name} is {author}")',
        "the set {a, b} and \\frac{numerator}{denominator}",
        "R&D & sales; caf\u00e9, it\u2019s \u20ac 5",
        "${variable} and %{count}",
        "see [your guide](guide.md) and [yours]",
    ],
)
def test_what_is_meant_is_left_alone(text):
    assert not has_placeholders(answer(text))


def test_questions_and_answers_that_are_not_learnt_are_left_alone():
    turns = [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "{{name}}"},
        {"role": "user", "content": "{{name}}"}, {"role": "assistant", "content": "fine"},
    ]  # fmt: skip
    row = conversation(SOURCE, turns, masked={1})
    assert not has_placeholders(row) and not has_markup(row)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] Hi [/INST] Hello </s>",
        "<|im_start|>user\nHi<|im_end|>",
        "<start_of_turn>user\nHi<end_of_turn>",
        "<|start_header_id|>user<|end_header_id|>",
    ],
)
def test_markup_of_a_template_is_found_in_documents_and_answers(text):
    assert has_markup(Document(SOURCE, text)) and has_markup(answer(text))


def test_a_heading_of_a_prompt_is_markup_in_a_document_alone():
    text = "### Instruction:\nAdd.\n\n### Response:\nFour."
    assert has_markup(Document(SOURCE, text)) and not has_markup(answer(text))
    assert not has_markup(Document(SOURCE, "Write <user> and [INSTALL] and </s>."))
