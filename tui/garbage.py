"""Garbage is not looked for among what stays.

Python looks through all that lives each few seconds while screens change: beside a history of 20,000 steps that takes
a tenth of a second, in which no key acts, and no step of a run in this process goes on. So what stays for good is set
aside once it has come (`gc.freeze`, which takes no time): the modules, the history of a run, each of the six screens
once it was made. What is garbage just then stays with it. Among the rest garbage is looked for less often.
"""

import gc
from collections.abc import Hashable

THRESHOLDS = (10_000, 10, 10)
"""Python's own begin with 700, for programs that make less at a time than one painted screen."""


class Garbage:
    """Begins with the first paint where collecting was left to it until then (`gc.disable`); else it does nothing."""

    def __init__(self) -> None:
        self._in_charge = False
        self._kept: Hashable = None

    def first_paint(self) -> None:
        self._in_charge = not gc.isenabled()
        if self._in_charge:
            gc.freeze()
            gc.set_threshold(*THRESHOLDS)
            gc.enable()

    def keep(self, what: Hashable) -> None:
        """Set aside what lives now, if `what` names other things than the last time."""
        if self._in_charge and what != self._kept:
            self._kept = what
            gc.freeze()
