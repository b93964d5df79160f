"""Packing: every example once, no bin too long, always the same, fast."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenfall.engine.data.pack.packing import pack


@given(st.integers(1, 64).flatmap(lambda most: st.tuples(
    st.just(most), st.lists(st.integers(1, most), max_size=200))))  # fmt: skip
def test_every_example_is_in_one_bin_and_no_bin_is_too_long(case):
    most, lengths = case
    bins = pack(lengths, most)
    assert sorted(i for one in bins for i in one) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in one) for one in bins]
    assert all(0 < total <= most for total in sums)
    # Best fit opens a bin only when no other has room, so no two bins fit into one.
    assert all(a + b > most for n, a in enumerate(sums) for b in sums[n + 1 :])
    assert pack(lengths, most) == bins


def test_best_fit():
    # 6 opens a bin, 5 another; 4 fits the first exactly, 3 goes to the second, 2 fills it.
    assert pack([3, 6, 2, 5, 4], 10) == [[0, 2, 3], [1, 4]]


def test_a_hundred_thousand_rows_take_seconds_and_fill_the_bins():
    lengths = np.random.default_rng(0).lognormal(5.5, 0.9, 100_000).clip(1, 2048).astype(int)
    start = time.thread_time()
    bins = pack(lengths.tolist(), 2048)
    assert time.thread_time() - start < 20
    assert lengths.sum() / (len(bins) * 2048) > 0.99


@pytest.mark.parametrize("length", [0, 11])
def test_an_impossible_length_is_refused(length):
    with pytest.raises(ValueError, match=f"example 1: length {length} is not within 1 to 10"):
        pack([3, length], 10)
