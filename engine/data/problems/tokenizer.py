"""Whether a tokenizer and its chat template fit each other, told from the examples that were made with them."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ..pack.examples import Examples
from ..render.special import special_ids
from .codes import EOS_DIFFERS, PAD_IS_EOS, SPECIAL_SPLIT, TEMPLATE_REPLACED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOOKED_AT = 200  # examples
_TAIL = 4  # tokens at the end of an answer: templates put a line break behind the one that ends it
_TURNS = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=False)]
_MARKER = re.compile(r"<\|[A-Za-z0-9_]{2,40}\|>|<(?:start|end)_of_turn>|</s>|\[/?INST\]|\[/?SYSTEM_PROMPT\]")
"""What templates write that is meant as one token."""


def check_tokenizer(
    tokenizer: "PreTrainedTokenizerBase",
    examples: Examples,
    own_template: bool,
    stops: Collection[int] = (),
) -> dict[str, str]:
    """Code of a problem -> what it is about, in words: tokens and markers by name.

    Args:
        own_template: the chat template came with the tokenizer. Some models' own spell their markers out in
            ordinary tokens (Llama 2's [INST], Zephyr's <|user|>), and were trained so.
        stops: token ids at which the model's own settings stop generation, besides eos. Llama 3 and Gemma name
            there what ends a turn.
    """
    found: dict[str, str] = {}
    if tokenizer.pad_token is not None and tokenizer.pad_token == tokenizer.eos_token:
        found[PAD_IS_EOS] = str(tokenizer.eos_token)
    ends = _ends(tokenizer, examples)
    if ends and tokenizer.eos_token_id not in ends and ends.isdisjoint(stops):
        names = " and ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(ends))))
        found[EOS_DIFFERS] = f"{names}; eos is {tokenizer.eos_token}"
    if not own_template and _writes_otherwise(tokenizer):
        found[TEMPLATE_REPLACED] = "leave data.chat_template out to take the model's own"
    split = [] if own_template else _split_markers(tokenizer)
    if split:
        found[SPECIAL_SPLIT] = ", ".join(split[:6])
    return found


def _writes_otherwise(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer came with a chat template that writes turns otherwise than the one it has now."""
    import jinja2

    own = tokenizer.init_kwargs.get("chat_template")
    if not own or own == tokenizer.chat_template:
        return False

    def written(template: object, turns: list[dict[str, str]]) -> object:
        try:
            return tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)  # type: ignore[arg-type]
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
            return None

    rows = (_TURNS, [{"role": "system", "content": "Be brief."}, *_TURNS])
    return any(written(None, turns) != written(own, turns) for turns in rows)


def _ends(tokenizer: "PreTrainedTokenizerBase", examples: Examples) -> set[int]:
    """The tokens that end answers: none where what is learnt ends otherwise."""
    special, ends = special_ids(tokenizer), set()
    for example in examples[:_LOOKED_AT]:
        learnt = np.flatnonzero(example.trained)
        if not len(learnt) or example.trained[1:].all():
            continue
        last = learnt[-1] + 1
        tail = example.ids[max(0, last - _TAIL) : last].tolist()
        closing = [token for token in tail if token in special]
        if closing:
            ends.add(closing[-1])
    return ends


def _split_markers(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    template = tokenizer.chat_template
    if not isinstance(template, str):
        return []
    markers = dict.fromkeys(_MARKER.findall(template))
    return [marker for marker in markers if len(tokenizer.encode(marker, add_special_tokens=False)) > 1]
