"""Helpers for tests of the screens: run an app at a size, read the screen as text, compare it.

A snapshot is the text that a terminal would show, one file a screen state, so that a diff can be
read. `EVENFALL_UPDATE_SNAPSHOTS=1` rewrites them.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

SNAPSHOTS = Path(__file__).parent / "snapshots"
WIDE, SMALL = (120, 36), (80, 24)


def screen_text(app: App[Any]) -> str:
    """What the terminal shows, line by line, without colours and trailing blanks."""
    lines = [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]
    return "\n".join(lines) + "\n"


@pytest.fixture
def drive() -> Callable[..., None]:
    """`drive(app, scenario, size=WIDE)`: run `await scenario(pilot)` inside the headless app."""

    def run(
        app: App[Any],
        scenario: Callable[[Pilot[Any]], Awaitable[None]],
        size: tuple[int, int] = WIDE,
    ) -> None:
        async def main() -> None:
            async with app.run_test(size=size, notifications=True) as pilot:
                await settle(pilot)
                await scenario(pilot)

        asyncio.run(main())

    return run


async def settle(pilot: Pilot[Any]) -> None:
    """Let messages, layout and the app's poll come to rest."""
    for _ in range(3):
        await pilot.pause()
    poll = getattr(pilot.app, "poll", None)
    if poll:
        poll()
    for _ in range(2):
        await pilot.pause()


@pytest.fixture
def see() -> Callable[[App[Any]], str]:
    """`see(app)`: the screen as text."""
    return screen_text


@pytest.fixture
def same_as_snapshot() -> Callable[[App[Any], str], None]:
    """`same_as_snapshot(app, name)`: the screen equals tests/tui/snapshots/NAME-WxH.txt."""

    def check(app: App[Any], name: str) -> None:
        width, height = app.size
        file = SNAPSHOTS / f"{name}-{width}x{height}.txt"
        shown = screen_text(app)
        if os.environ.get("EVENFALL_UPDATE_SNAPSHOTS"):
            SNAPSHOTS.mkdir(exist_ok=True)
            file.write_text(shown, encoding="utf-8")
            return
        assert file.is_file(), f"{file} is missing: run with EVENFALL_UPDATE_SNAPSHOTS=1"
        assert shown == file.read_text(encoding="utf-8")

    return check
