"""A packed batch, number by number."""

import numpy as np
import pytest
import torch

from evenfall.engine.data.pack.batch import collate
from evenfall.engine.data.pack.examples import Example


def example(ids, trained, number=1):
    return Example(ids=np.array(ids, np.int32), trained=np.array(trained, bool), number=number)


def test_a_batch_by_hand():
    batch = collate(
        [
            example([10, 11, 12, 13], [0, 0, 1, 1]),
            example([20, 21], [1, 1]),  # a first token is never learnt
            example([30], [0]),
            example([40, 41, 42], [0, 1, 0]),
        ]
    )
    assert batch.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 30, 40, 41, 42]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0, 1, 2]]
    assert batch.cu_seqlens.tolist() == [0, 4, 6, 7, 10]
    assert batch.label_positions.tolist() == [1, 2, 4, 7]
    assert batch.labels.tolist() == [12, 13, 21, 41]
    assert batch.lengths == (4, 2, 1, 3)
    assert (batch.tokens, batch.trained_tokens) == (10, 4)
    kinds = (batch.input_ids, batch.position_ids, batch.label_positions, batch.labels)
    assert {tensor.dtype for tensor in kinds} == {torch.int64}
    assert batch.cu_seqlens.dtype == torch.int32


def test_labels_are_the_next_tokens_of_the_same_document():
    random = np.random.default_rng(0)
    examples = [example(random.integers(0, 99, n), random.random(n) < 0.5) for n in (1, 7, 30, 2)]
    batch = collate(examples)
    assert torch.equal(batch.labels, batch.input_ids[0, batch.label_positions + 1])
    assert torch.all(batch.position_ids[0, batch.label_positions + 1] > 0)
    assert batch.trained_tokens == sum(int(one.trained[1:].sum()) for one in examples)


def test_a_copy_on_a_device_keeps_everything():
    batch = collate([example([1, 2], [0, 1])])
    copy = batch.to("cpu")
    assert copy.labels.tolist() == [2]
    assert copy.lengths == (2,)


def test_no_examples():
    with pytest.raises(ValueError, match="needs an example"):
        collate([])
