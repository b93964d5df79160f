"""A process that makes blocks: rows in at its standard input, blocks out at its standard output.

    python -m evenfall.engine.data.prepare.row_process

Plain pipes instead of `multiprocessing`: the end of its input ends it, so no process outlives a training that was
killed, and nothing of the parent (a terminal in raw mode, a GPU context, its main module) is taken over.
What goes through the pipes is pickled by one process of ours for another.

Light: no torch, so that a process takes as little memory as it can.
"""

import os
import pickle
import struct
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import DataError
from ..render.template import Renderer
from ..row import SourceRow
from .begun import end, take_process
from .block import Block, BlockSettings, make_block

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class RowProcess:
    """The parent's end of one such process."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._process = take_process()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        _send(self._to, tokenizer)

    def make(self, rows: Sequence[SourceRow], settings: BlockSettings) -> Block:
        """`make_block` over there.

        Raises:
            DataError: as `make_block`.
            OSError, EOFError: the process has ended.
        """
        _send(self._to, (list(rows), settings))
        answer = _receive(self._from)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        end(self._process)


def _send(stream: Any, value: Any) -> None:
    data = pickle.dumps(value, protocol=5)
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: BinaryIO | Any) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def main() -> None:
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    import_module("transformers.tokenization_utils_tokenizers")  # before the parent has a tokenizer
    tokenizer = _receive(source)
    renderers: dict[tuple[bool, str], Renderer] = {}
    while True:
        try:
            rows, settings = _receive(source)
        except EOFError:
            return
        kind = (settings.assistant_only_loss, settings.assistant_turns)
        if kind not in renderers:
            renderers[kind] = settings.renderer(tokenizer)
        try:
            answer: Block | DataError = make_block(rows, settings, renderers[kind])
        except DataError as error:
            answer = error
        _send(answers, answer)


if __name__ == "__main__":
    main()
