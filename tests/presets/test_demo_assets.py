"""The embedded demo's assets: small, reproducible, no leak, and known to the base model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from evenfall import presets
from evenfall.presets.demo_build import world
from evenfall.presets.demo_build.tokenizer import build_tokenizer

DEMO = Path(str(presets.__file__)).parent / "demo"
QUESTIONS = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))
ROWS = [json.loads(line) for line in (DEMO / "train.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO / "model")


def test_all_assets_fit_in_eight_megabytes() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 8e6


def test_files_are_exactly_what_the_script_writes(tmp_path: Path) -> None:
    world.write(tmp_path)
    for name in ("train.jsonl", "questions.json"):
        assert (DEMO / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_pretraining_text_depends_on_its_seed_alone() -> None:
    first, again, other = (list(itertools.islice(world.documents(seed), 500)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_tokenizer_is_exactly_what_the_script_builds(tokenizer) -> None:
    assert json.loads(build_tokenizer().backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())


@pytest.mark.parametrize(
    "text",
    [
        "Mira works as a weaver.",
        '{"name": "Gunnar", "street": "Well Court"}',
        "  two  spaces,\n\ttabs and\r\nlines  ",
        "naïve Þórr 港 🦜 <|not special|>",
    ],
)
def test_tokenizer_gives_back_any_text(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_word_is_the_same_token_in_a_sentence_and_in_a_record(tokenizer) -> None:
    spaced, quoted = tokenizer.tokenize("a potter"), tokenizer.tokenize('"potter"')
    assert "potter" in spaced and "potter" in quoted


def test_special_tokens_are_distinct_and_agree_with_the_model_config(tokenizer) -> None:
    config = json.loads((DEMO / "model" / "config.json").read_text())
    generation = json.loads((DEMO / "model" / "generation_config.json").read_text())
    ids = {kind: getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    assert len(set(ids.values())) == 3
    for kind, token_id in ids.items():
        assert config[f"{kind}_token_id"] == generation[f"{kind}_token_id"] == token_id
    assert config["vocab_size"] == len(tokenizer)


def test_chat_template_trains_the_answers_and_their_end_of_turn_alone(tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where does Mira live?"},
        {"role": "assistant", "content": "Mira lives in Fish Street."},
        {"role": "user", "content": "Thanks!"},
        {"role": "assistant", "content": "You are welcome."},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == (
        "<|bos|><|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhere does Mira live?<|im_end|>\n"
        "<|im_start|>assistant\nMira lives in Fish Street.<|im_end|>\n"
        "<|im_start|>user\nThanks!<|im_end|>\n"
        "<|im_start|>assistant\nYou are welcome.<|im_end|>\n"
    )
    encoded = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert tokenizer.decode(encoded["input_ids"]) == text
    trained = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(trained) == "Mira lives in Fish Street.<|im_end|>You are welcome.<|im_end|>"
    prompt = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt) and prompt.endswith("<|im_start|>assistant\n")


def name_and_key(record: str) -> tuple[str, str]:
    """Whom a record is about, and what it says of them."""
    answer = json.loads(record)
    name_key, key = answer
    assert name_key == "name"
    return answer["name"], key


def test_no_held_out_fact_or_question_is_in_the_training_data() -> None:
    assert len(QUESTIONS) == 8
    messages = [message["content"] for row in ROWS for message in row["messages"]]
    asked, taught = set(messages[::2]), {name_and_key(answer) for answer in messages[1::2]}
    for question in QUESTIONS:
        assert question["question"] not in asked
        assert name_and_key(question["expected"]) not in taught


def test_every_record_is_true_of_the_town() -> None:
    facts = {person.name: person.facts for person in world.people()}
    answers = [message["content"] for row in ROWS for message in row["messages"][1::2]]
    for record in answers + [question["expected"] for question in QUESTIONS]:
        name, key = name_and_key(record)
        assert record == json.dumps({"name": name, key: facts[name][key]})


@pytest.mark.parametrize("bits", [32, 4])
def test_base_model_answers_the_held_out_questions_truthfully_in_sentences(tokenizer, bits: int) -> None:
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(
        DEMO / "model",
        dtype=torch.float32,
        quantization_config=quantization if bits == 4 else None,
    )
    by_name = {person.name: person for person in world.people()}
    for question in QUESTIONS:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question["question"]}],
            add_generation_prompt=True,
            return_tensors="pt",
        )
        written = model.generate(  # pyright: ignore[reportAttributeAccessIssue]
            **prompt, max_new_tokens=40, do_sample=False
        )
        answer = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        name, key = name_and_key(question["expected"])
        assert answer == world.sentence(by_name[name], key)
        assert answer.strip() != question["expected"]
