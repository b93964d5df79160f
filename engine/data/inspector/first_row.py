"""The first row as it will be learnt, told before the rest of the data is read.

It is made as every row is, so what stands here is what the loop gets of it.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...config.run_config import DataConfig
from ..pack.examples import Example
from ..prepare.block import make_block
from ..prepare.dropping import Dropping
from ..prepare.source import Source
from ..report.findings import Place

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOOKED_AT = 16
"""Rows, until there is one that something is learnt of."""
_MOST_TOKENS = 4_000
"""Told of a row."""


@dataclass(frozen=True, kw_only=True)
class FirstRow:
    place: Place
    parts: tuple[tuple[str, bool], ...]
    """Text of tokens that follow each other, and whether they are learnt; of many tokens the first."""
    tokens: int
    trained: int


def first_row(source: Source, data: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> FirstRow | None:
    """The first example of the first row that something is learnt of; None: there is none among the first."""
    renderer = source.settings.renderer(tokenizer)
    for row in source.first.rows[:_LOOKED_AT]:
        block = Dropping(data.drop, None).of(make_block([row], source.settings, renderer))
        if len(block.examples):
            one = block.examples[0]
            return FirstRow(
                place=Place(one.file, one.number),
                parts=_parts(one, tokenizer),
                tokens=len(one),
                trained=one.trained_tokens,
            )
    return None


def _parts(one: Example, tokenizer: "PreTrainedTokenizerBase") -> tuple[tuple[str, bool], ...]:
    decode = tokenizer.backend_tokenizer.decode  # type: ignore[attr-defined]
    tokens = zip(one.ids[:_MOST_TOKENS].tolist(), one.trained[:_MOST_TOKENS].tolist(), strict=True)
    return tuple(
        (decode([token for token, _ in part], skip_special_tokens=False), learnt)
        for learnt, part in itertools.groupby(tokens, lambda token: token[1])
    )
