"""The rows that every stack trains on, in the order in which it does.

Random rows are tokens drawn from a seed, all of them learnt. There are only two steps' worth: from tokens that
never come again nothing can be learnt, so even a stack that does not update its adapter would have the
right losses; rows seen before show it. Real rows are prepared and packed as a run prepares them, and
only whole steps are taken: a short last one would be another amount of work. What is written is bin after
bin, so that every stack has the same documents in the same updates, whether it packs them or pads
them. Once they are used up they begin again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from ..config.run_config import parse_config
from ..data.pack.examples import Example, Examples
from ..data.pack.windows import Bins
from .shapes import ModelShape
from .work import SEED, BenchError, Work

_SPECIAL = 16
"""The tokenizer's special tokens are below this id: a random row holds none of them."""

_VOCABULARY = 32_768
"""Tokens of the tokenizer for real rows: enough that English rows are as long as a Llama 3 makes them."""

RANDOM_STEPS = 2
"""Steps until random rows come again."""

_TEXTS = 5_000
"""Rows that the tokenizer is made from."""


def random_rows(shape: ModelShape, count: int, length: int) -> Bins:
    """`count` bins of one row of `length` tokens each; every token but the first is learnt."""
    draw = np.random.default_rng(SEED)
    ids = draw.integers(_SPECIAL, shape.vocabulary, (count, length), dtype=np.int32)
    trained = np.ones(length, dtype=bool)
    trained[0] = False
    examples = Examples.of(Example(ids=row, trained=trained, number=number) for number, row in enumerate(ids, 1))
    return Bins(examples, tuple((index,) for index in range(count)))


def real_rows(path: str, tokens: int, per_step: int, shape: ModelShape, tell: Callable[[str], None]) -> Bins:
    """The rows of a file in bins of `tokens`, as many as make whole steps of `per_step` bins.

    A random model has no tokenizer, so one is made from the rows: byte-level BPE with the demo's chat
    template.

    Raises:
        BenchError: there are fewer bins than a step takes.
        DataError: the file cannot be read.
    """
    from ..data.prepare.prepare import prepare

    config = parse_config({"data": {"path": path, "max_length": tokens, "shuffle": False}})
    tokenizer = _tokenizer_of(config.data, path, min(_VOCABULARY, shape.vocabulary))
    prepared = prepare(config, tokenizer, lambda text, fraction: tell(text))
    bins = prepared.train.window(0, 0)
    prepared.train.close()
    assert bins is not None
    whole = len(bins) // per_step * per_step
    if not whole:
        raise BenchError(
            f"{path}: makes {len(bins)} bins of {tokens} tokens, fewer than the {per_step} of a step: "
            "lower --rows or --pack"
        )
    return Bins(bins.examples, bins.bins[:whole])


def _tokenizer_of(data: Any, path: str, size: int) -> Any:
    from transformers import AutoTokenizer

    from ...presets.load import demo_folder
    from ..config.run_config import DatasetConfig
    from ..data.read.read import read_rows

    demo = AutoTokenizer.from_pretrained(str(demo_folder() / "model"))
    rows = (row.value for row, _ in zip(read_rows(DatasetConfig(path=path)), range(_TEXTS), strict=False))
    texts = (text for row in rows for text in _texts(row))
    made = demo.train_new_from_iterator(texts, size, show_progress=False)
    made.chat_template = demo.chat_template
    return made


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def write_rows(bins: Bins, file: Path) -> None:
    """Write the examples of each bin, bin after bin."""
    order = [index for one in bins.bins for index in one]
    examples = [bins.examples[index] for index in order]
    save_file(
        {
            "ids": np.concatenate([example.ids for example in examples]).astype(np.int32),
            "trained": np.concatenate([example.trained for example in examples]),
            "lengths": np.array([len(example) for example in examples], dtype=np.int32),
            "documents": np.array([len(one) for one in bins.bins], dtype=np.int32),
        },
        str(file),
    )


def read_bins(file: Path) -> Bins:
    """What `write_rows` wrote."""
    stored = load_file(str(file))
    ends = np.cumsum(stored["lengths"])
    examples = Examples.of(
        Example(
            ids=stored["ids"][end - length : end],
            trained=stored["trained"][end - length : end],
            number=number,
        )
        for number, (length, end) in enumerate(zip(stored["lengths"], ends, strict=True), 1)
    )
    stops = np.cumsum(stored["documents"])
    bins = tuple(
        tuple(range(stop - count, stop))
        for count, stop in zip(stored["documents"].tolist(), stops.tolist(), strict=True)
    )
    return Bins(examples, bins)


def bins_of_step(bins: Bins, per_step: int, step: int) -> list[tuple[int, ...]]:
    """The bins (indices of examples) of step `step`, from 0."""
    first = step * per_step % len(bins)
    return list(bins.bins[first : first + per_step])


@dataclass(frozen=True)
class StepSize:
    """What a step trains on."""

    lengths: tuple[int, ...]
    """Tokens of each document."""
    trained: int

    @property
    def tokens(self) -> int:
        return sum(self.lengths)


def step_sizes(bins: Bins, work: Work) -> list[StepSize]:
    """The size of each step, timed or not."""
    sizes = []
    for step in range(work.total_steps):
        documents = [bins.examples[index] for one in bins_of_step(bins, work.bins, step) for index in one]
        trained = sum(document.trained_tokens for document in documents)
        sizes.append(StepSize(tuple(len(document) for document in documents), trained))
    return sizes
