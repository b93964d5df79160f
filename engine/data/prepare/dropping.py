"""What `data.drop` does to blocks, and where copies of rows are found.

Blocks come in their order, so of equal rows the first is kept, and the same rows are dropped every time the data are
read. The order between data sets is that in which their blocks come: of data that are held whole one after
the other, of a stream in turn.
"""

from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from ..pack.examples import Examples
from ..problems.codes import BAD, DROP_CODES, DUPLICATE, LEAK, NEAR_DUPLICATE, NEAR_LEAK, in_words
from ..problems.duplicates import Seen, row_hashes
from ..problems.near_duplicates import near_duplicates
from ..problems.rows import BIT
from .block import Block, found_in, note_rows

LEAVE_OUT = "or data.drop=[bad] leaves such rows out (evenfall data check lists them)"
"""How to go on without rows that cannot be read."""
NEAR = (NEAR_DUPLICATE, NEAR_LEAK)
"""What takes all rows at once to be told."""


class Dropping:
    """Takes the rows out of blocks that `data.drop` names; one for each pass over the data.

    Args:
        drop: codes of problems.
        evaluation: hashes of the rows of a separate evaluation set.
    """

    def __init__(self, drop: Sequence[str], evaluation: np.ndarray | None = None) -> None:
        self._drop = [code for code in DROP_CODES if code in drop]
        self._seen = Seen()
        self._evaluation = Seen(evaluation)

    def of(self, block: Block) -> Block:
        """The block without these rows, its account with them.

        Raises:
            DataError: a row cannot be read or rendered, and `data.drop` does not name `bad`.
        """
        if block.account.errors and BAD not in self._drop:
            file, text = block.account.errors[0]
            raise DataError(f"{file}{text}; {LEAVE_OUT}")
        problems = block.problems
        keep = np.ones(len(problems), bool)
        for code in self._drop:
            if code in BIT:
                keep = self._without(block, keep, (problems & BIT[code]) != 0, code)
        if DUPLICATE in self._drop or LEAK in self._drop:
            hashes = row_hashes(block.examples)
            if DUPLICATE in self._drop:
                again = np.ones(len(keep), bool)
                again[keep] = ~self._seen.add(hashes[keep])
                keep = self._without(block, keep, again, DUPLICATE)
            if LEAK in self._drop:
                keep = self._without(block, keep, self._evaluation.has(hashes), LEAK)
        if keep.all():
            return block
        return _with_rows(block, keep)

    def _without(self, block: Block, keep: np.ndarray, found: np.ndarray, code: str) -> np.ndarray:
        note_rows(block.account.dropped, in_words(code), block.examples, keep & found)
        return keep & ~found


def without_near_duplicates(blocks: Sequence[Block]) -> list[Block]:
    """All data sets, each one block, without the rows that nearly repeat an earlier one of any of them; their
    accounts with these.

    Which pieces of text say something, and which rows are compared, is told from all rows together: so this is
    for data that are held whole, and done until no such row is left.
    """
    everything = Examples.joined([block.examples for block in blocks])
    keep = np.arange(everything.row_count)
    while (near := near_duplicates(everything.of_these_rows(keep))).any():
        keep = keep[~near]
    found = np.ones(everything.row_count, bool)
    found[keep] = False
    left, start = [], 0
    for block in blocks:
        part = found[start : start + block.examples.row_count]
        note_rows(block.account.dropped, in_words(NEAR_DUPLICATE), block.examples, part)
        left.append(_with_rows(block, ~part))
        start += len(part)
    return left


def _with_rows(block: Block, keep: np.ndarray) -> Block:
    """Some rows of a block; what its account has found is of these."""
    rows = np.flatnonzero(keep)
    left = Block(block.examples.of_these_rows(rows), block.account, block.problems[rows])
    block.account.found = found_in(left)
    return left
