"""Which token ends an answer, where the base itself does not stop there.

A base model that is trained with a chat template learns to end its turns as the template does (`<|im_end|>`), while its
own eos ends documents (`<|endoftext|>`). Whoever generates has to stop at both: the chat here, and servers that read
an export. What ends a turn is told by the template at work: the special tokens that it writes behind a probe's answer.
Light: no torch.
"""

from typing import TYPE_CHECKING

from ...config.run_config import ModelConfig
from ...model.source import ends_of_generation
from .chat_template import PROBE, ChatTemplate
from .special import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def unknown_turn_end(config: ModelConfig, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token id that ends an answer and is no end to the base: neither its tokenizer's eos nor named by its
    generation_config.json. None where there is none: the base stops by itself, or no special token ends an answer.

    Args:
        tokenizer: with the chat template that the run uses.
    """
    ends = _behind_an_answer(tokenizer)
    known = tokenizer.eos_token_id in ends or not ends_of_generation(config).isdisjoint(ends)
    return ends[-1] if ends and not known else None


def learnt_turn_end(config: ModelConfig, tokenizer: "PreTrainedTokenizerBase", chats: bool) -> int | None:
    """The same for a run: none where it learnt no conversations, whose turns the template ends.

    Args:
        chats: it learnt some.
    """
    return unknown_turn_end(config, tokenizer) if chats else None


def _behind_an_answer(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The special tokens that the chat template writes behind an answer, in order."""
    if not tokenizer.chat_template:
        return []
    text = ChatTemplate(tokenizer).try_render(
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}]
    )
    behind = tokenizer(text.rpartition(PROBE)[2] if PROBE in text else "", add_special_tokens=False)["input_ids"]
    special = special_ids(tokenizer)
    return [token for token in behind if token in special]
