"""What the Data screen shows: the very examples that the loop would get, as text.

Nothing here is made for display. `prepare` runs as it does before training, and its first examples
are taken apart into runs of tokens that share one fate: learnt or not, special or not. So a wrong
mask is seen before GPU time is spent on it.

Light: what needs torch or transformers is imported inside `build_preview`.
"""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from ..config import RunConfig
from ..jobs import Job
from .report import DataReport

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .examples import Example
    from .row import SourceRow

_ROWS = 50
_RAW_CHARACTERS = 20_000


@dataclass(frozen=True)
class TokenRun:
    """Consecutive tokens of one fate."""

    text: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class PreviewRow:
    """One example."""

    number: int
    """The row (the line, for JSON Lines) of the file."""
    tokens: int
    trained: int
    """Of these, tokens that are learnt."""
    runs: tuple[TokenRun, ...]


@dataclass(frozen=True)
class DataPreview:
    report: DataReport
    rows_shown: tuple[PreviewRow, ...]
    """The first examples, at most 50."""
    raw: str
    """The first of these rows as it stands in the file."""


def build_preview(config: RunConfig, job: Job[Any]) -> DataPreview:
    """Prepare the data with the model's tokenizer (no weights) and show what comes of it.

    Raises:
        DataError: as `prepare`.
        LoadError: the model has no tokenizer.
    """
    job.report("loading the tokenizer")
    from ..tokenizer import load_tokenizer
    from .prepare import prepare

    tokenizer = load_tokenizer(config)
    prepared = prepare(config, tokenizer, job.report, shown=1)
    first = prepared.train.window(0, 0)
    prepared.train.close()
    assert first is not None
    return DataPreview(
        prepared.report,
        tuple(_row(example, tokenizer) for example in first.examples[:_ROWS]),
        _raw(prepared.shown[0]),
    )


def _row(example: "Example", tokenizer: "PreTrainedTokenizerBase") -> PreviewRow:
    special = {
        *tokenizer.all_special_ids,
        *(number for number, token in tokenizer.added_tokens_decoder.items() if token.special),
    }
    ids = example.ids.tolist()
    fates = [(bool(t), i in special) for t, i in zip(example.trained, ids, strict=True)]
    runs, end, before = [], 0, ""
    for (trained, is_special), group in itertools.groupby(fates):
        end += len(list(group))
        # Decoded with all that comes before: alone, a run would lose its first space with
        # tokenizers that take it for the start of a text.
        text = tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        runs.append(TokenRun(text[len(before) :], trained, is_special))
        before = text
    return PreviewRow(example.number, len(ids), example.trained_tokens, tuple(runs))


def _raw(row: "SourceRow") -> str:
    if isinstance(row.value, str):
        text = row.value
    else:
        text = orjson.dumps(row.value, default=str, option=orjson.OPT_INDENT_2).decode()
    if len(text) > _RAW_CHARACTERS:
        text = text[:_RAW_CHARACTERS] + f"\n... {len(text) - _RAW_CHARACTERS:,} more characters"
    return text
