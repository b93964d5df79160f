"""`data.chat_template`: names, files and texts, and what each named template writes."""

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from evenfall.engine.config.run_config import ConfigError, DataConfig, RunConfig
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.row import SourceRow
from evenfall.engine.model.chat_template import read_chat_template, set_chat_template
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.presets.load import chat_template_names, demo_folder

SYSTEM = {"role": "system", "content": "S"}
TURNS = [
    {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"},
    {"role": "user", "content": "R"}, {"role": "assistant", "content": "B"},
]  # fmt: skip
_CHATML = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    "A<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
)
WRITTEN = {
    "alpaca": "S\n\n### Instruction:\nQ\n\n### Response:\nA</s>\n\n### Instruction:\nR\n\n### Response:\nB</s>\n\n",
    "chatml": _CHATML,
    "gemma": "<s><start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n"
    "<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nQ<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nR<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>",
    "mistral": "<s>[INST] S\n\nQ [/INST] A</s>[INST] R [/INST] B</s>",
    "phi": "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nR<|end|>\n"
    "<|assistant|>\nB<|end|>\n",
    "qwen": _CHATML,
    "vicuna": "<s>S USER: Q ASSISTANT: A</s> USER: R ASSISTANT: B</s>",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nQ</s>\n<|assistant|>\nA</s>\n<|user|>\nR</s>\n<|assistant|>\nB</s>\n",
}
LEARNT = {
    "alpaca": ["A</s>\n\n", "B</s>\n\n"], "chatml": ["A<|im_end|>\n", "B<|im_end|>\n"],
    "gemma": ["A<end_of_turn>\n", "B<end_of_turn>\n"], "llama-3": ["A<|eot_id|>", "B<|eot_id|>"],
    "mistral": [" A</s>", " B</s>"], "phi": ["A<|end|>\n", "B<|end|>\n"],
    "qwen": ["A<|im_end|>\n", "B<|im_end|>\n"], "vicuna": [" A</s>", " B</s>"],
    "zephyr": ["A</s>\n", "B</s>\n"],
}  # fmt: skip


@pytest.fixture
def named(make_tokenizer):
    def make(name):
        tokenizer = make_tokenizer(read_chat_template(name), eos="</s>", special=["<s>", "</s>"])
        tokenizer.bos_token = "<s>"
        return tokenizer

    return make


def rendered(tokenizer, value):
    source = SourceRow(file="f.json", number=1, value=value)
    row = normalise(source, detect([source]).format)
    assert isinstance(row, Conversation)
    (one,) = Renderer(tokenizer).render(row)
    assert one.spans is not None
    return one.text, [one.text[start:end] for start, end in one.spans]


def test_every_named_template_is_tried_here():
    assert sorted(WRITTEN) == sorted(LEARNT) == chat_template_names()


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_what_a_named_template_writes_and_what_of_it_is_learnt(named, name):
    text, learnt = rendered(named(name), {"messages": [SYSTEM, *TURNS]})
    assert text == WRITTEN[name]
    assert learnt == LEARNT[name]


@pytest.mark.parametrize("value", [
    {"instruction": "Do", "output": "Done"},
    {"instruction": "Do", "input": "this", "output": "Done"},
    {"instruction": "Do", "input": "this", "output": "Done", "system": "Be brief."},
])  # fmt: skip
def test_the_alpaca_template_writes_what_stanford_alpaca_did(named, value):
    text, learnt = rendered(named("alpaca"), value)
    source = SourceRow(file="f.json", number=1, value=value)
    row = normalise(source, "alpaca")
    assert isinstance(row, Conversation) and row.plain is not None
    assert text == row.plain[0] + "Done</s>\n\n"
    assert learnt == ["Done</s>\n\n"]


def test_a_file_and_jinja_text(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages[0].content }}")
    assert read_chat_template(str(file)) == "{{ messages[0].content }}"
    assert read_chat_template("{% if true %}x{% endif %}") == "{% if true %}x{% endif %}"


def test_what_is_neither_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.chat_template: 'llama3'.*llama-3.*a jinja file"):
        read_chat_template("llama3")
    file = tmp_path / "latin.jinja"
    file.write_bytes(b"\xff{{ x }}")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_chat_template(str(file))


@pytest.mark.parametrize("name", chat_template_names())
@pytest.mark.parametrize("begins", [True, False])
def test_a_named_template_begins_as_the_tokenizer_begins_a_text(make_tokenizer, name, begins):
    tokenizer = make_tokenizer(None, eos="</s>", special=["<s>", "</s>"])
    tokenizer.bos_token = "<s>"
    if begins:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    set_chat_template(tokenizer, name)
    text, _ = rendered(tokenizer, {"messages": TURNS})
    assert text.count("<s>") == (begins or WRITTEN[name].startswith("<s>"))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == text.count("<s>")


def test_the_tokenizer_of_a_run_has_it():
    config = RunConfig(data=DataConfig(chat_template="chatml"))
    assert load_tokenizer(config).chat_template == read_chat_template("chatml")
    own = AutoTokenizer.from_pretrained(str(demo_folder() / "model")).chat_template
    assert load_tokenizer(RunConfig()).chat_template == own
