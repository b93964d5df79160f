"""Waiting in tests of the screens for what a thread brings."""

import asyncio
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot


async def until(pilot: Pilot[Any], condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until `condition()` holds and its messages are handled; fail after `seconds`."""
    for _ in range(round(50 * seconds)):
        if condition():
            await pilot.pause()
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"did not come about within {seconds:g} s")
