"""What the tests of the Data screen share: rows, a preview, an app that previews at once."""

import re

import pytest
from fake_inspector import FakeInspector, checked, inspected
from waiting import until

from evenfall.engine.data.inspector.inspect import InspectedRow, InspectedToken
from evenfall.engine.data.inspector.preview import DataPreview
from evenfall.engine.data.report.report import DataReport, SourceReport
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import data as data_screen

SIZES = [(120, 36), (80, 24)]


def row(number: int, problems=(), left_out="", tail="") -> InspectedRow:
    question = f"\nRow {number}: name two primes, and say in one or two sentences why they are primes."
    answer = "2 and 3: no number but 1 and themselves divides them."
    tokens = [
        InspectedToken(id=256, text="<|user|>", fate="read", special=True),
        *(InspectedToken(id=n, text=word, fate="read", special=False) for n, word in enumerate(words(question))),
        InspectedToken(id=258, text="<|end|>", fate="read", special=True),
        InspectedToken(id=10, text="\n", fate="read", special=False),
        InspectedToken(id=257, text="<|assistant|>", fate="read", special=True),
        InspectedToken(id=10, text="\n", fate="read", special=False),
        *(InspectedToken(id=n, text=word, fate="trained", special=False) for n, word in enumerate(words(answer))),
        InspectedToken(id=258, text="<|end|>", fate="trained", special=True),
        *(InspectedToken(id=n, text=word, fate="cut", special=False) for n, word in enumerate(words(tail))),
    ]
    raw = f'{{\n  "prompt": "Row {number}",\n  "completion": "2 and 3{tail}"\n}}'
    return inspected(number, tokens, raw, problems, left_out)


def words(text: str) -> list[str]:
    return re.findall(r"\s?\S+", text)


REPORT = DataReport(
    sources=[
        SourceReport(
            path="chats.jsonl",
            format="messages",
            reason="column `messages` holds lists of {role, content}",
            rows=12_431,
            kept=12_269,
            held_out=120,
            dropped={"empty answer": 28, "nothing to learn after rendering": 14},
            cut=12,
        )
    ],
    eval_rows=120,
    tokens=1_200_345,
    trained_tokens=402_111,
    bins=612,
    max_length=256,
    lengths=[20] * 50 + [70] * 400 + [130] * 300 + [256] * 50 + [300] * 12,
    notes={},
)
PREVIEW = DataPreview(
    report=REPORT,
    inspector=FakeInspector([  # type: ignore[arg-type]
        row(1), row(2), row(3, left_out="empty answer"), row(4, ("cut",), tail=" and so are 5 and 7"),
        row(1200),
    ]),
    check=checked(REPORT),
)  # fmt: skip


@pytest.fixture(name="app")
def data_app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return EvenfallApp()


@pytest.fixture(name="asked")
def data_asked(monkeypatch):
    """Configurations that a preview was asked for; each gets PREVIEW at once."""
    configs = []

    def preview(config, job):
        configs.append(config)
        return PREVIEW

    monkeypatch.setattr(data_screen, "load_preview", preview)
    return configs


async def show_data(pilot) -> None:
    await pilot.press("f3")
    await until(pilot, lambda: getattr(pilot.app.screen, "NAME", "") == "data")
    await until(pilot, lambda: pilot.app.screen._job is None)
