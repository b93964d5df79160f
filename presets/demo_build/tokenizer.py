"""The demo model's byte-level BPE tokenizer, trained on the text of `world`, and its template.

A space is never merged with the letters after it, so ` baker` in a sentence and `baker` inside a
JSON string end in the same token. A model this small would otherwise hold two unrelated embeddings
for one word, and fine-tuning, which leaves embeddings frozen, could not join what it knows in the
one spelling to what it must write in the other. Only training splits that way: the saved file has
the plain GPT-2 pre-tokenizer, which every runtime (llama.cpp too) knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from . import world

VOCAB_SIZE = 1024
SAMPLE_DOCUMENTS = 20_000
SAMPLE_SEED = 1
SPECIAL_TOKENS = PAD, BOS, TURN, EOS = "<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"
PAD_ID, BOS_ID, EOS_ID = 0, 1, 3  # special tokens come first in the vocabulary

# ChatML. The generation markers cover what a fine-tune should learn to write: the answer and the
# end of the turn.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

_TRAINING_PIECES = Regex(r"'s|\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s")


def _sample_text() -> Iterator[str]:
    for document in itertools.islice(world.documents(SAMPLE_SEED), SAMPLE_DOCUMENTS):
        if isinstance(document, str):
            yield document
        else:
            yield from (f"{message['role']}\n{message['content']}" for message in document)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer from scratch (seconds); the same text always gives the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_TRAINING_PIECES, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_text(), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
