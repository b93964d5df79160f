"""Which tokens of a tokenizer are markers, not text."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Tokens that stand for no text: those that the tokenizer names, and added ones that are marked special."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(number for number, token in added if token.special)}
