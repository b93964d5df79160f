"""Helpers for tests of the screens: run an app at a size, read the screen as text, compare it.

A snapshot is the text that a terminal would show, one file a screen state, so that a diff can be
read. `EVENFALL_UPDATE_SNAPSHOTS=1` rewrites them.
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.data.report.report import DataReport, SourceReport
from evenfall.engine.model.patch.part import PatchedPart
from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.tui.app import EvenfallApp

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
def same_as_snapshot() -> Callable[..., None]:
    """`same_as_snapshot(app, name, hide="")`: the screen equals tests/tui/snapshots/NAME-WxH.txt.

    Lines that hold the start of `hide` (a path of this machine) are left out.
    """

    def check(app: App[Any], name: str, hide: str = "") -> None:
        width, height = app.size
        file = SNAPSHOTS / f"{name}-{width}x{height}.txt"
        shown = _hidden(screen_text(app), hide) if hide else screen_text(app)
        if os.environ.get("EVENFALL_UPDATE_SNAPSHOTS"):
            SNAPSHOTS.mkdir(exist_ok=True)
            file.write_text(shown, encoding="utf-8")
            return
        assert file.is_file(), f"{file} is missing: run with EVENFALL_UPDATE_SNAPSHOTS=1"
        assert shown == file.read_text(encoding="utf-8")

    return check


def _hidden(shown: str, secret: str) -> str:
    lines = shown.splitlines()
    return "\n".join(line for line in lines if secret[:12] not in line) + "\n"


class FakeSession:
    """A session without an engine: tests put events in and look at the commands that came."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.done = False
        self.state: ev.State = "idle"
        self.log_error: str | None = None
        self.commands: list[cmd.Command] = []
        self.attended = True
        self._events: list[ev.Event] = []

    def start(self) -> None:
        """The engine would begin here."""

    def tell(self, *events: ev.Event) -> None:
        """Number and stamp events as the log does, one second apart from a fixed time on."""
        for event in events:
            n = len(self._events) + 1
            self._events.append(replace(event, n=n, t=1_700_000_000.0 + n))
            if isinstance(event, ev.StateChanged):
                self.state = event.state

    def events_since(self, n: int) -> list[ev.Event]:
        return self._events[n:]

    def submit(self, command: cmd.Command) -> None:
        self.commands.append(command)

    def set_attended(self, attended: bool) -> None:
        self.attended = attended


def set_up(total: int = 3100, eval_rows: int = 250) -> list[ev.Event]:
    """The events of a run up to its first step."""
    return [
        ev.StateChanged("loading"),
        ev.RunStarted(run="0412-llama8b", pid=4242, device="NVIDIA H200", versions={"torch": "2.13.0"}),
        ev.Progress("reading rows", fraction=0.5),
        ev.Progress("loading weights", "shard 2 of 4", 0.5),
        ev.PartsPatched(
            [
                PatchedPart(
                    name="LlamaRMSNorm 4096",
                    kind="rms_norm",
                    count=65,
                    fast=True,
                    reason="proved itself",
                    error=2.1e-3,
                    eager_error=2.4e-3,
                ),
                PatchedPart(
                    name="LlamaMLP 14336",
                    kind="swiglu",
                    count=32,
                    fast=True,
                    reason="proved itself",
                    error=2.9e-3,
                    eager_error=3.0e-3,
                ),
                PatchedPart(
                    name="LlamaRotaryEmbedding",
                    kind="rope",
                    count=1,
                    fast=False,
                    reason="no kernel for this part",
                ),
            ]
        ),
        ev.ModelLoaded(
            name="llama-3.1-8b",
            family="llama",
            parameters=8_030_000_000,
            trainable=41_900_000,
            quantization="nf4",
            compute_dtype="bfloat16",
            weights_gb=5.6,
            seconds=9.3,
        ),
        ev.DataPrepared(
            DataReport(
                sources=[
                    SourceReport(
                        path="alpaca.json",
                        format="alpaca",
                        reason="keys instruction, output",
                        rows=12_431,
                        kept=12_417,
                        held_out=0,
                        dropped={"nothing to learn": 14},
                        cut=87,
                    )
                ],
                eval_rows=eval_rows,
                tokens=6_100_000,
                trained_tokens=2_870_000,
                bins=2_980,
                max_length=2048,
                lengths=[311] * 100,
                notes={},
            ),
            total_steps=total,
        ),
        ev.StateChanged("ready"),
    ]


def step(n: int, total: int = 3100, loss: float | None = None) -> ev.Step:
    """Step n of a run whose loss falls as losses do, with a little fixed noise."""
    wobble = 0.08 * math.sin(n * 12.9898) * math.cos(n * 78.233)
    falling = 0.95 + 2.1 * math.exp(-n / (total / 9)) + wobble
    return ev.Step(
        step=n,
        epoch=3.0 * n / total,
        loss=falling if loss is None else loss,
        learning_rate=2e-4 * (1 - n / total),
        grad_norm=0.41 + wobble,
        tokens=32_768,
        trained_tokens=15_000,
        seconds=2.91 + wobble,
        memory_gb=61.2 + wobble,
        memory_peak_gb=66.0,
        memory_total_gb=79.6,
        skipped=loss is not None and not math.isfinite(loss),
    )


def training(done: int = 1243, total: int = 3100) -> list[ev.Event]:
    """A run in the middle of its training."""
    events = [*set_up(total), ev.StateChanged("training")]
    for n in range(1, done + 1):
        events.append(step(n, total))
        if n % 400 == 0:
            events.append(ev.Evaluated(step=n, loss=1.0 + 1.6 * math.exp(-n / (total / 9)), rows=250, seconds=12.5))
        if n % 600 == 0:
            events.append(ev.CheckpointSaved(step=n, path=f"checkpoints/step-{n}", megabytes=168.0, seconds=1.9))
    return events


OOM = ev.OutOfMemory(
    step=1250,
    phase="step",
    message="CUDA out of memory",
    requested_gb=3.4,
    before_gb=61.2,
    at_gb=78.7,
    after_gb=60.8,
    limit_gb=79.6,
    rungs=[
        ev.Rung(
            id="recompute",
            title="Recompute activations",
            effect="the same result, slower",
            changes={"train.gradient_checkpointing": True},
            peak_gb=48.2,
            speed=0.75,
            keeps_result=True,
        ),
        ev.Rung(
            id="micro-batch",
            title="Batch 2, accumulation 8",
            effect="the same tokens an update",
            changes={"train.per_device_train_batch_size": 2},
            peak_gb=52.0,
            speed=0.94,
            keeps_result=True,
        ),
        ev.Rung(
            id="shorter",
            title="Cut rows to 1,024 tokens",
            effect="affects 87 rows (0.7 %)",
            changes={"data.max_length": 1024},
            peak_gb=40.5,
            speed=1.11,
            keeps_result=False,
        ),
    ],
)


def make_run(root: Path, name: str = "0412-llama8b") -> RunDirectory:
    """A run directory with a configuration and no events."""
    run = RunDirectory(root / name)
    run.path.mkdir(parents=True)
    run.write_config(
        parse_config(
            {
                "model": {"name_or_path": "meta-llama/llama-3.1-8b"},
                "data": {"path": "alpaca-clean.jsonl", "eval_fraction": 0.02},
                "train": {"num_train_epochs": 3, "eval_steps": 400, "save_steps": 600,
                          "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
            }
        )
    )  # fmt: skip
    return run


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    monkeypatch.chdir(tmp_path)  # so that a path on the screen is the same everywhere
    return make_run(Path("runs"))


@pytest.fixture
def session(run_directory: RunDirectory) -> FakeSession:
    return FakeSession(run_directory)


@pytest.fixture
def train_app(tmp_path: Path) -> EvenfallApp:
    """The app on its Train screen, over an empty folder of runs."""
    return EvenfallApp(root=tmp_path / "runs", first="train")


@pytest.fixture
def script() -> SimpleNamespace:
    """Events to tell a FakeSession, and helpers (test modules cannot import this file)."""
    return SimpleNamespace(
        set_up=set_up, step=step, training=training, OOM=OOM, FakeSession=FakeSession,
        make_run=make_run, settle=settle, begin=begin, hostile=HOSTILE, control_free=control_free,
    )  # fmt: skip


async def begin(pilot: Pilot[Any], session: FakeSession, *events: ev.Event) -> None:
    """Show a run that has told these events."""
    session.tell(*events)
    pilot.app.desk.begin(session)  # type: ignore[attr-defined]
    await settle(pilot)


HOSTILE = [
    "[/INST]", "[INST] x [/INST]", "[@click=app.quit]x[/]", "[bold", "\x1b]52;c;aGk=\x07",
    "\x1b[2J\x1b[31m", "\x9b31m\x90x\x9c", "a\x00b\x7f", "\u202egnp.exe", "مرحبا", "模型训练",
    "👨‍👩‍👧‍👦🏳️‍🌈", "line\nline\r\tend", "x" * 200_000, "", "\ud800",
]  # fmt: skip
"""Text that has broken screens: markup, terminal controls, odd widths, sizes, nothing."""


def control_free(app: App[Any]) -> bool:
    """No cell of the screen holds a control character (the terminal would obey it)."""
    text = "".join(strip.text for strip in app.screen._compositor.render_strips())
    return not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text)
