"""Pairs of rows are judged as sets of pieces say, whatever is done at once."""

import math
from collections import Counter

import numpy as np
import pytest

from evenfall.engine.data.pack.examples import Example, Examples
from evenfall.engine.data.problems import near_duplicates as module
from evenfall.engine.data.problems import pieces
from evenfall.engine.data.problems.near_duplicates import SIMILAR, near_copies, near_duplicates


def rows_of(seed: int, count: int, vocabulary: int) -> Examples:
    """Some rows, many of which are another's with a few tokens changed; a few make several examples."""
    draw = np.random.default_rng(seed)
    bases = [draw.integers(0, vocabulary, draw.integers(1, 90)) for _ in range(1 + count // 3)]
    rows = []
    for number in range(count):
        parts = []
        for _ in range(1 + (draw.random() < 0.2)):
            ids = bases[draw.integers(len(bases))].copy()
            ids[draw.integers(0, len(ids), draw.integers(0, 4))] = draw.integers(0, vocabulary)
            parts.append(Example(ids=ids.astype(np.int32), trained=np.ones(len(ids), bool), number=number))
        rows.append(parts)
    return Examples.of_rows(rows)


def similarity(rows: Examples) -> np.ndarray:
    """Weighted Jaccard similarity of all pairs of rows, as the module's docstring has it, float64 [R, R]."""
    sets: list[set[tuple[int, ...]]] = [set() for _ in range(rows.row_count)]
    for example, row in zip(rows, rows.rows.tolist(), strict=True):
        ids = example.ids.tolist()
        sets[row] |= set(zip(ids, ids[1:], ids[2:], strict=False))
    counts = Counter(piece for one in sets for piece in one)
    weight = {piece: math.log((len(sets) + 1) / count) ** 2 for piece, count in counts.items()}
    told = [{piece for piece in one if counts[piece] <= len(sets) // 2} for one in sets]

    def weigh(some: set[tuple[int, ...]]) -> float:
        return sum(weight[piece] for piece in some)

    return np.array([[weigh(a & b) / w if (w := weigh(a | b)) else 0.0 for b in told] for a in told])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("vocabulary", [12, 5000])
@pytest.mark.parametrize("held", [True, False])
def test_pairs_are_alike_as_their_sets_are(seed, vocabulary, held, monkeypatch):
    if not held:  # pieces are made again, a few rows at a time
        monkeypatch.setattr(pieces, "_HELD", 0)
        monkeypatch.setattr(module, "_TOKENS_AT_ONCE", 300)
    rows = rows_of(seed, 60, vocabulary)
    one, other = np.triu_indices(rows.row_count, 1)
    told = similarity(rows)[one, other]
    sure = abs(told - SIMILAR) > 1e-9
    alike = module._Alike(rows)
    having, _ = alike.keys()
    asked = sure & np.isin(one, having) & np.isin(other, having)
    assert (alike.are(one[asked], other[asked]) == (told[asked] >= SIMILAR)).all()


def test_what_is_done_at_once_changes_nothing(monkeypatch):
    rows, tested = rows_of(1, 120, 5000), rows_of(1, 40, 5000)
    before = near_duplicates(rows), near_copies(rows, tested)
    assert before[0].any() and before[1].any()
    monkeypatch.setattr(pieces, "_HELD", 0)
    monkeypatch.setattr(pieces, "_BLOCK", 500)
    monkeypatch.setattr(module, "_TOKENS_AT_ONCE", 100)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)
    after = near_duplicates(rows), near_copies(rows, tested)
    assert all(np.array_equal(*both) for both in zip(before, after, strict=True))


def test_equal_rows_are_no_near_duplicates_but_copies():
    rows = rows_of(2, 1, 5000)
    both = Examples.joined([rows, rows])
    assert not near_duplicates(both).any()
    assert near_copies(rows, rows).all()


def test_rows_without_pieces_are_like_none():
    short = Examples.of(Example(ids=np.arange(2, dtype=np.int32), trained=np.ones(2, bool), number=n) for n in range(4))
    assert not near_duplicates(short).any()
    assert near_duplicates(Examples.of([])).shape == near_copies(Examples.of([]), Examples.of([])).shape == (0,)
