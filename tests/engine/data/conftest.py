"""A tokenizer whose tokens are bytes and special tokens, so that every expected mask can be written
down by hand; and templates with and without generation markers."""

from collections.abc import Callable, Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.prepare.prepare import PreparedData, prepare

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    def make(
        template: str | None = CHATML,
        eos: str = "<|im_end|>",
        special: Sequence[str] = (),
        merges: Sequence[tuple[str, str]] = (),
    ) -> PreTrainedTokenizerFast:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = [*alphabet, *(first + second for first, second in merges)]
        model = models.BPE({token: place for place, token in enumerate(tokens)}, list(merges))
        backend = Tokenizer(model)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|endoftext|>", *special])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token=eos)
        tokenizer.chat_template = template
        return tokenizer

    return make


@pytest.fixture(scope="session")
def chatml(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def run(chatml: PreTrainedTokenizerFast) -> Callable[..., PreparedData]:
    """Prepare a path with `data.` settings: run(path, max_length=64, ...)."""

    def prepared(path, tokenizer=chatml, report=lambda message, fraction: None, **data):
        config = RunConfig.model_validate({"data": {"path": path and str(path), **data}})
        return prepare(config, tokenizer, report)

    return prepared
