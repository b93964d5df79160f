"""Words and their tokens give what the tokenizer gives for the whole text, ids and places of characters."""

import json

import pytest
from chat_templates import CHATML, encode
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evenfall.engine.data.render import template as t
from evenfall.engine.data.render.word_cache import WordCache
from evenfall.presets.load import demo_folder

_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _BLANKS
PARTS = (
    "a", "He", "naïve", "ß", " ", "  ", "\n", "\n\n", "\t", "\r\n", "0", "12", "3456", "'s", "'LL", "“x”", "—", "…",
    "€5", "\u00a0", "²", "日本", "e\u0301", "<|im_end|>", "<|im_start|>", "<|im", "don't", "x_y", "//", "!?",
)  # fmt: skip
SPLITS = {
    "gpt2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama3": [
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


def trained(parts, normalizer=None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with some merges of its own."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts) if len(parts) > 1 else parts[0]
    if normalizer is not None:
        backend.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    backend.train_from_iterator(["Hello naïve don't 'tis “so”\n\n  12345 x_y it's\r\n" * 3, "".join(PARTS)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")


def same(tokenizer, text: str) -> bool:
    """Whether the words tell of a text what the tokenizer does; False: they leave it to the tokenizer."""
    cache = WordCache.of(tokenizer)
    assert cache is not None
    for _ in range(2):  # the second time from the table
        made = cache.encode(text)
        if made is None:
            return False
        whole = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        assert made.ids == whole.ids and len(made) == len(whole)
        for place in range(len(text)):
            token = whole.char_to_token(place)
            assert token is None or made.char_to_token(place) == token
        for token in range(len(whole)):
            start, end = whole.token_to_chars(token) or (0, 0)
            first, last = made.token_to_chars(token)
            assert first <= start and last >= end  # the tokenizer may leave a blank out
    return True


TOKENIZERS = {name: trained(parts) for name, parts in SPLITS.items()}
TOKENIZERS["nfc"] = trained(SPLITS["llama3"], normalizers.NFC())
TOKENIZERS["demo"] = AutoTokenizer.from_pretrained(str(demo_folder() / "model"))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(TOKENIZERS)), parts=st.lists(st.sampled_from(PARTS), max_size=25))
def test_the_same_tokens_in_the_same_places(name, parts):
    text = "".join(parts)
    sure = not set(text) & set("\u00a0²日本\u0301")
    assert same(TOKENIZERS[name], text) is sure


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(sorted(TOKENIZERS)), text=st.text(max_size=40))
def test_any_text_is_the_same_or_left_to_the_tokenizer(name, text):
    same(TOKENIZERS[name], text.encode("utf-8", "replace").decode())


def test_tokenizers_of_another_kind_have_no_words():
    other = trained([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    spaces = trained([pre_tokenizers.Metaspace()])
    wide = trained(SPLITS["gpt2"])
    wide.add_tokens(["<wide>"], special_tokens=False)
    told = json.loads(wide.backend_tokenizer.to_str())
    told["added_tokens"][-1]["rstrip"] = True
    wide = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(told)))
    lower = trained(SPLITS["gpt2"], normalizers.Lowercase())
    for tokenizer in (other, spaces, wide, lower):
        assert WordCache.of(tokenizer) is None


@pytest.mark.parametrize("text", ["naïve\n\n don't ", "\nYes", "It’s 12 – “so”  \n", "日本 e\u0301"])
def test_rows_become_the_same_with_and_without(monkeypatch, text):
    roles = ["system", "user", "assistant", "user", "assistant"]
    messages = [{"role": role, "content": text + str(place)} for place, role in enumerate(roles)]
    values = ({"messages": messages}, {"text": text}, {"prompt": text, "completion": text})
    tokenizer = TOKENIZERS["llama3"]
    tokenizer.chat_template = CHATML
    made = [encode(tokenizer, value) for value in values]
    monkeypatch.setattr(t.WordCache, "of", lambda tokenizer: None)
    for value, (texts, renderer) in zip(values, made, strict=True):
        alone, other = encode(tokenizer, value)
        assert alone == texts and other.take_notes() == renderer.take_notes()
