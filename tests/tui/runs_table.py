"""What the tests of the Runs screen share."""

from evenfall.engine.run import events as ev
from evenfall.tui.screens.runs import RunsScreen

FINISHED = ev.Finished(
    reason="complete",
    step=3100,
    seconds=9000.0,
    tokens=101_000_000,
    adapter="adapter",
    first_loss=2.912,
    last_loss=0.961,
)
NOW = 1_700_100_000.0


def shown(app) -> RunsScreen:
    assert isinstance(app.screen, RunsScreen)
    return app.screen


async def look(pilot, settle):
    """Let the scan end and the table fill."""
    for _ in range(100):
        shown(pilot.app).look()
        await pilot.pause(0.02)
        if shown(pilot.app).rows:
            break
    await settle(pilot)
