"""What is evaluated on: a file of its own, or rows that are held out of those that are trained on."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...config.run_config import DataConfig, RunConfig
from ..errors import DataError
from ..pack.examples import Examples
from ..pack.windows import Bins, random_keys
from ..problems.codes import DUPLICATE, LEAK
from ..problems.duplicates import Seen, row_hashes
from ..read.read import size_of, split_to_evaluate
from ..read.slices import SLICE_BYTES
from .ahead import Ahead
from .block import Account
from .dropping import Dropping
from .source import Source, begin, whole_block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EVALUATION_STREAM = 2**32 - 1  # no epoch has this number


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What is evaluated on."""

    bins: Bins
    examples: Examples
    source: Source | None = None
    """The file of its own that the rows are of; None: they are held out."""
    account: Account | None = None
    """Of that file's rows."""

    @property
    def hashes(self) -> np.ndarray:
        return row_hashes(self.examples)


def evaluation_file(
    config: RunConfig,
    tokenizer: "PreTrainedTokenizerBase",
    report: Callable[[str, float | None], None],
) -> Tested:
    """The rows of `data.eval_path`. It keeps its duplicates: they weigh what they weigh there.

    Raises:
        DataError: as `prepare`.
    """
    data = config.data
    assert data.eval_path is not None
    report(f"reading {data.eval_path}", None)
    source = _begun(data, data.eval_path)
    dropping = Dropping([code for code in data.drop if code not in (DUPLICATE, LEAK)])
    with Ahead(tokenizer, source.size, report) as ahead:
        block = whole_block(source, ahead, data, dropping)
    bins = Bins.packed(block.examples, data.max_length)
    return Tested(bins=bins, examples=block.examples, source=source, account=block.account)


def _begun(data: DataConfig, path: str) -> Source:
    """The evaluation set, of the split that is for it, and under `data.columns` where it has them: a file of
    another origin may have the format's own names.
    """
    own = data.read_alike(path)
    own = own.model_copy(update={"split": split_to_evaluate(own)})
    size = size_of(own)
    try:
        return begin(data, own, size, SLICE_BYTES)
    except DataError:
        if not own.columns:
            raise
        with contextlib.suppress(DataError):
            plain = own.model_copy(update={"columns": {}})
            return begin(data, plain, size, SLICE_BYTES)
        raise


def held_out(parts: list[Examples], held: list[np.ndarray], max_length: int) -> Tested:
    each = [part.of_these_rows(rows) for part, rows in zip(parts, held, strict=True)]
    examples = Examples.joined(each)
    return Tested(bins=Bins.packed(examples, max_length), examples=examples)


def leaks_of(part: Examples, evaluated: Seen, held: np.ndarray) -> np.ndarray:
    """Which rows of a data set are in the evaluation set, those that are held out for it apart, bool [R]."""
    found = evaluated.has(row_hashes(part))
    found[held] = False
    return found


def hold_out(counts: Sequence[int], fraction: float, seed: int, path: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Choose a random share of the rows (at least one) for evaluation.

    Args:
        counts: rows of each data set.

    Returns:
        The rows of each data set that are trained on, and those that are held out; in order.

    Raises:
        DataError: fewer than two rows.
    """
    total = sum(counts)
    if total < 2:
        raise DataError(
            f"{path}: data.eval_fraction={fraction} holds rows out, but there is {total} row "
            "to learn from; set data.eval_path to a file of its own, or data.eval_fraction=0"
        )
    count = min(max(1, round(fraction * total)), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.argsort(random_keys(total, seed, _EVALUATION_STREAM), kind="stable")[:count]] = True
    each = np.split(chosen, np.cumsum(counts)[:-1])
    return [np.flatnonzero(~one) for one in each], [np.flatnonzero(one) for one in each]
