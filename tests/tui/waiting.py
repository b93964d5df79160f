"""Waiting in tests of the screens for what a thread brings."""

import asyncio
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Wait until `condition()` holds and its messages are handled; fail after 5 s."""
    for _ in range(250):
        if condition():
            await pilot.pause()
            return
        await asyncio.sleep(0.02)
    raise AssertionError("did not come about within 5 s")
