"""Job: a long piece of work (a preview, an export, a chat answer) on a plain thread of its own.

Screens poll a job instead of being called by it: a terminal that stops reading then cannot stall the
work, and a closed one leaves nobody to call. The thread is a daemon because, unlike training, such
work is worth nothing once the process has no viewer.
"""

import threading
import traceback
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Cancelled(Exception):
    """Raised inside a job at its next report once it was asked to end."""


class Job(Generic[Result]):
    """Runs `work(job)` at once. `work` calls `job.report(...)` now and then.

    Attributes:
        message: the last report.
        fraction: how far it is, 0 to 1, where that is known.
        error: why it failed: one readable message; `trace` has the rest.
        exception: that error itself.
    """

    def __init__(self, work: Callable[["Job[Result]"], Result], name: str = "job") -> None:
        self.message = ""
        self.fraction: float | None = None
        self.error: str | None = None
        self.exception: BaseException | None = None
        self.trace = ""
        self.cancelled = False
        self._result: Result | None = None
        self._cancel = threading.Event()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=f"evenfall-{name}", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    @property
    def result(self) -> Result:
        """What `work` returned.

        Raises:
            RuntimeError: it is not done, failed, or was cancelled.
        """
        if not self.done or self.error is not None or self.cancelled:
            raise RuntimeError(self.error or "the job has no result")
        return self._result  # type: ignore[return-value]

    def report(self, message: str, fraction: float | None = None) -> None:
        """Say what the work is at. Raises Cancelled once somebody asked the job to end."""
        if self._cancel.is_set():
            raise Cancelled
        self.message, self.fraction = message, fraction

    def cancel(self) -> None:
        self._cancel.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False where it is still running after `timeout` seconds."""
        self._thread.join(timeout)
        return self.done

    def _run(self) -> None:
        try:
            self._result = self._work(self)
        except Cancelled:
            self.cancelled = True
        except BaseException as error:  # noqa: BLE001 - the viewer must hear of any failure
            self.error = str(error) or type(error).__name__
            self.exception = error
            self.trace = traceback.format_exc()


TellStage = Callable[[str, float | None], None]
"""Is told the stage of a long piece of work, and how far it is: 0 to 1, None where that is not known."""
