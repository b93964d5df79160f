"""Garbage is not looked for among what stays.

Python looks through all that lives each few seconds while screens change: beside a history of 20,000 steps that takes
a tenth of a second, in which no key acts, and no step of a run in this process goes on. So what stays for good is
looked through once, after it has come and while nobody types, and then set aside (`gc.freeze`): the modules, the
history of a run, each of the six screens once it was made. Among the rest it is looked for less often.
"""

import gc
import time
from collections.abc import Hashable

QUIET_SECONDS = 1.0
"""How long nobody has typed when the look is taken, which takes some hundredths of a second."""

THRESHOLDS = (10_000, 10, 10)
"""Python's own begin with 700, for programs that make less at a time than one painted screen."""


class Garbage:
    """Begins with the first paint where collecting was left to it until then (`gc.disable`); else it does nothing."""

    def __init__(self) -> None:
        self._in_charge = False
        self._kept: Hashable = None
        self._typed_at = float("-inf")

    def first_paint(self) -> None:
        self._in_charge = not gc.isenabled()
        if self._in_charge:
            gc.freeze()
            gc.set_threshold(*THRESHOLDS)
            gc.enable()

    def typed(self) -> None:
        """Somebody is at the keys."""
        self._typed_at = time.monotonic()

    def keep(self, what: Hashable) -> None:
        """Set aside what lives now, if `what` names other things than the last time."""
        if not self._in_charge or what == self._kept or time.monotonic() - self._typed_at < QUIET_SECONDS:
            return
        self._kept = what
        gc.collect()
        gc.freeze()
