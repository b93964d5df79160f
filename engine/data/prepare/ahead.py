"""Blocks in the order of their rows, made ahead on other cores and kept for the next time.

Where a data set is worth it, each of a few threads holds a process that renders and tokenises
(`row_process.py`), while the caller takes the blocks in order. Small data sets are done by the caller itself, before a
process would have started.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, local
from typing import TYPE_CHECKING, NamedTuple, Self

from ..read.slices import Slice
from ..render.template import Renderer
from .begun import are_begun, processes_for
from .block import Block, BlockSettings, make_block
from .cache import BlockCache, cache_folder
from .row_process import RowProcess

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORTH_KEEPING = 4_000_000
"""Bytes of rows whose tokens are kept on disk."""


class _Begun(NamedTuple):
    """A block that is being made: there, or here when it is its turn."""

    part: Slice
    settings: BlockSettings
    key: str
    future: Future[Block] | None


class Ahead:
    """Makes blocks for one tokenizer; a context manager, which ends its processes.

    Args:
        size: bytes of the rows, about.
        report: is told what goes on, and ends the work by raising.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        size: float,
        report: Callable[[str, float | None], None],
    ) -> None:
        self._tokenizer, self._report = tokenizer, report
        self._renderers: dict[tuple[bool, str], Renderer] = {}
        self._cache = (
            BlockCache(cache_folder(), tokenizer) if size > WORTH_KEEPING else None
        )  # fmt: skip
        self.processes = processes_for(size)
        self._threads = ThreadPoolExecutor(self.processes, "evenfall-rows") if self.processes else None
        self._own = local()
        self._lock = Lock()
        self._running: list[RowProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; what they are at is lost."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self.processes = 0
            for process in self._running:
                process.end()
            self._running.clear()

    def block(self, part: Slice, settings: BlockSettings) -> Block:
        """The block of one slice, made here and now where a process would still have to start.

        Raises:
            DataError: as `make_block`.
        """
        return self._finished(self._begun(part, settings, here=not are_begun()), 0, lambda rows: None)

    def blocks(
        self,
        slices: Iterable[Slice],
        settings: BlockSettings,
        name: str,
        at: Callable[[int], float | None],
    ) -> Generator[Block]:
        """The block of each slice, in order.

        Args:
            name: of the data set, for the report.
            at: how far a number of rows is, 0 to 1, where that is known.

        Raises:
            DataError: as `make_block`, when it is the block's turn.
        """
        waiting: deque[_Begun] = deque()
        done = 0

        def tell(rows: int) -> None:
            self._report(f"rendering {name}: {rows:,} rows", at(rows))

        try:
            for part in itertools.chain(slices, itertools.repeat(None)):
                if part is not None:
                    waiting.append(self._begun(part, settings))
                    kept = not done and waiting[0].future is None  # who waits for the first gets it
                    if len(waiting) <= 2 * self.processes and not kept:
                        continue
                if not waiting:
                    return
                block = self._finished(waiting.popleft(), done, tell)
                done += block.account.rows
                yield block
        finally:
            for begun in waiting:
                if begun.future is not None:
                    begun.future.cancel()

    def _begun(self, part: Slice, settings: BlockSettings, here: bool = False) -> "_Begun":
        key = self._cache.key(part, settings) if self._cache else ""
        if self._threads is None or here or (self._cache and self._cache.has(key)):
            return _Begun(part, settings, key, None)
        return _Begun(part, settings, key, self._threads.submit(self._made_there, part, settings, key))

    def _finished(self, begun: "_Begun", done: int, tell: Callable[[int], None]) -> Block:
        part, settings, key, future = begun
        if future is None:
            found = self._cache.load(key, part) if self._cache else None
            if found is not None:
                return found
            block = make_block(part.rows, settings, self._renderer(settings), lambda more: tell(done + more))
            return self._kept(key, part, block)
        while True:
            tell(done)
            try:
                return future.result(0.25)
            except TimeoutError:
                if future.done():
                    raise

    def _kept(self, key: str, part: Slice, block: Block) -> Block:
        if self._cache:
            self._cache.save(key, part, block)
        return block

    def _made_there(self, part: Slice, settings: BlockSettings, key: str) -> Block:
        return self._kept(key, part, self._made_by_process(part, settings))

    def _made_by_process(self, part: Slice, settings: BlockSettings) -> Block:
        process: RowProcess | None = getattr(self._own, "process", None)
        try:
            if process is None:
                with self._lock:
                    if not self.processes:
                        raise EOFError("closed")
                    process = self._own.process = RowProcess(self._tokenizer)
                    self._running.append(process)
            return process.make(part.rows, settings)
        except (OSError, EOFError):
            # It was killed (for its memory, say). What it was at is done here; a row that no process
            # survives then fails here, where that is seen.
            if not self.processes:
                raise
            self._own.process = None
            return make_block(part.rows, settings, settings.renderer(self._tokenizer))

    def _renderer(self, settings: BlockSettings) -> Renderer:
        kind = (settings.assistant_only_loss, settings.assistant_turns)
        if kind not in self._renderers:
            self._renderers[kind] = settings.renderer(self._tokenizer)
        return self._renderers[kind]
