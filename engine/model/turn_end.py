"""Which token ends an answer, where the base itself does not stop there.

A base model that is trained with a chat template learns to end its turns as the template does (`<|im_end|>`), while its
own eos ends documents (`<|endoftext|>`). Whoever generates has to stop at both: the chat here, and servers that read
an export. What ends a turn is told by the template at work: the special tokens that it writes behind a probe's answer.
Light: no torch.
"""

import contextlib
from typing import TYPE_CHECKING, Any

from ..config.run_config import ModelConfig
from .source import ends_of_generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Probe7Q"


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
    added = tokenizer.added_tokens_decoder
    special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
    for blocks in (False, True):  # some templates take content only as a list of blocks
        said: Any = [{"type": "text", "text": _PROBE}] if blocks else _PROBE
        asked: Any = [{"type": "text", "text": "Hi"}] if blocks else "Hi"
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        with contextlib.suppress(Exception):  # a template raises what the operations in it raise
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
            if _PROBE in text:
                tail = tokenizer(text.rpartition(_PROBE)[2], add_special_tokens=False)["input_ids"]
                return [token for token in tail if token in special]
    return []
