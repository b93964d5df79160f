"""Importing the heavy libraries behind the first paint, so that the first run starts sooner.

Two threads that import the same libraries crosswise can see them half made. So jobs that may import
them wait for the warm-up to end. (A session need not: it imports them as the warm-up does, and waits
for it there.)
"""

from collections.abc import Callable
from typing import Any

from ...engine.machine.jobs import Job
from ...engine.session.imports import import_engine


def _import(job: Job[None]) -> None:
    del job
    import_engine()


class WarmUp:
    """Begins when it is told to, or with the first job that may need it."""

    def __init__(self) -> None:
        self.wanted = True
        """Not where nobody waits, as in a headless app."""
        self._import: Job[None] | None = None

    def start(self) -> Job[None] | None:
        if self._import is None and self.wanted:
            self._import = Job(_import, "warm-up")
        return self._import

    @property
    def done(self) -> bool:
        return self._import is not None and self._import.done

    def job(self, work: Callable[[Job[Any]], Any], name: str) -> Job[Any]:
        """A Job that does `work` once the libraries are there."""
        warm = self.start()

        def after_warm_up(job: Job[Any]) -> Any:
            while warm and not warm.wait(0.1):
                job.report("loading libraries")
            return work(job)

        return Job(after_warm_up, name)
