"""Text from files, models and disks, through every place of the four screens that shows it.

No crash, and no control byte in what would be written to the terminal.
"""

import json
import os
from types import SimpleNamespace

import pytest
import yaml
from fake_inspector import FakeInspector, checked, inspected
from textual.app import App
from waiting import until

from evenfall.engine.data.inspector.inspect import InspectedToken
from evenfall.engine.data.inspector.preview import DataPreview
from evenfall.engine.data.report.findings import Finding, Fix, Place
from evenfall.engine.data.report.report import DataReport, SourceReport
from evenfall.engine.run.directory import RunDirectory
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import chat as chat_screen
from evenfall.tui.screens import data as data_screen
from evenfall.tui.screens import export as export_screen
from evenfall.tui.screens import model as model_screen

HOSTILE = [
    "[/INST] [INST]x[/INST] [/foo]",
    "[@click=app.quit]press[/]",
    "\x1b]52;c;aGk=\x07\x1b[31mred\x1b]0;title\x07",
    "\x00\x01\x7f\x80\x9b31m\r\b",
    "\u202eevil\u202c \u2066x\u2069 \u200fשלום مرحبا",
    "日本語 한국어 👩‍👩‍👧‍👦🏳️‍🌈 é́́",
    "\ud800 lone",
    "x" * 1_000_000,
    "a\nb\r\nc\u2028d\te",
    "",
]


def assert_clean(app: App) -> None:
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            bad = [c for c in segment.text if ord(c) < 32 or 127 <= ord(c) < 160]
            bad += [c for c in segment.text if c in "\u202e\u202c\u2066\u2069\u200f"]
            assert not bad, f"{bad!r} in {segment.text!r}"


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return EvenfallApp()


@pytest.mark.parametrize(("many", "weight"), [(1, 1.0), (6, 0.5)])
@pytest.mark.parametrize("text", HOSTILE)
def test_data(app, drive, monkeypatch, text, many, weight):
    tokens = [
        InspectedToken(id=1, text=text, fate="read", special=False),
        InspectedToken(id=2, text=text, fate="trained", special=True),
        InspectedToken(id=3, text=text, fate="trained", special=False),
        InspectedToken(id=4, text=text, fate="cut", special=False),
    ]
    rows = [inspected(1, tokens, text, file=text), inspected(2, [], text, ("bad",), text, text)]
    report = DataReport(
        sources=[
            SourceReport(
                path=text, format=text, reason=text, rows=1, kept=1, held_out=0, dropped={text: 1}, cut=0, weight=weight
            )
        ]
        * many,
        eval_rows=0,
        tokens=3,
        trained_tokens=2,
        bins=1,
        max_length=64,
        lengths=[3],
        notes={text: 1},
    )
    places = (Place(text, 1), Place(text * 2, 2))
    findings = (
        Finding(
            code="bad",
            level="red",
            count=2,
            text=text,
            meaning=text,
            places=places,
            fixes=(Fix("drop", text, text),),
        ),
    )
    check = checked(report, findings)
    preview = DataPreview(report=report, inspector=FakeInspector(rows), check=check)  # type: ignore[arg-type]

    def load(config, job):
        job.report(text, 0.5)
        if config.train.seed == 1:
            raise ValueError(text)
        return preview

    monkeypatch.setattr(data_screen, "load_preview", load)

    async def scenario(pilot):
        await pilot.press("f3")
        await until(pilot, lambda: getattr(app.screen, "_preview", None) is not None)
        assert_clean(app)
        for key in ("t", "r", "p", "r", "g", "9", "enter", "f", "escape", "c", "enter"):
            await pilot.press(key)
            assert_clean(app)
        app.screen.query_one("#data-ask").value = text
        await pilot.press("enter")
        await pilot.pause()
        assert_clean(app)
        app.screen.query_one("#data-path").value = text
        await pilot.press("slash")
        await pilot.pause()
        assert_clean(app)
        await pilot.press("escape")
        app.desk.update_draft(["train.seed=1"])
        await until(pilot, lambda: app.screen._job is None)
        assert_clean(app)

    drive(app, scenario, (80, 24))


@pytest.mark.parametrize("text", HOSTILE)
def test_model(app, drive, monkeypatch, tmp_path, text):
    folder = tmp_path / "hf" / "hub" / "models--a--b" / "snapshots" / "1"
    folder.mkdir(parents=True)
    config = {
        "architectures": ["XForCausalLM"],
        "model_type": text,
        "max_position_embeddings": text,
    }
    (folder / "config.json").write_text(json.dumps(config))

    def broken(folder):
        raise OSError(text)

    monkeypatch.setattr(model_screen, "read_machine", broken)

    async def scenario(pilot):
        await until(pilot, lambda: app.screen._machine is None)
        await pilot.press("end")  # the cached model, with its family
        assert_clean(app)
        await pilot.press("slash")
        app.screen.focused.value = "./" + text
        await pilot.press("enter")
        assert_clean(app)
        await pilot.press("a", "tab")
        app.screen.focused.value = text
        await pilot.press("enter")
        await pilot.pause()
        assert_clean(app)

    drive(app, scenario)


@pytest.mark.parametrize("text", HOSTILE)
def test_chat(app, drive, monkeypatch, tmp_path, text):
    run = RunDirectory(tmp_path / "runs" / "r")
    run.adapter.mkdir(parents=True)
    run.config_file.write_text("{}")
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")

    def reply(messages, *, adapter, on_text, stop, **options):
        on_text(text)
        if len([message for message in messages if message["role"] == "user"]) > 1:
            raise RuntimeError(text)
        return SimpleNamespace(text=text, tokens=1, seconds=1.0, ended="eos")

    model = SimpleNamespace(device=text, system=text, takes_system=True, reply=reply, close=lambda: None)

    def open_chat(run, job):
        job.report(text)
        return model

    monkeypatch.setattr(chat_screen, "open_chat", open_chat)

    async def scenario(pilot):
        await pilot.press("f6")
        await until(pilot, lambda: getattr(app.screen, "_chat", None) is not None)
        for _ in range(2):  # the second one fails
            app.screen.query_one("#chat-prompt").value = f"x {text}"
            await pilot.press("enter")
            await until(pilot, lambda: app.screen._answering is None)
            assert_clean(app)
        await pilot.press("up")
        assert_clean(app)

    drive(app, scenario, (80, 24))


@pytest.mark.parametrize("text", [text for text in HOSTILE if 0 < len(text.encode("utf-8", "replace")) < 200])
def test_export_and_names_of_runs(app, drive, monkeypatch, tmp_path, text):
    name = text.replace("/", "|").replace("\x00", "")
    try:
        run = RunDirectory(tmp_path / "runs" / name)
        run.adapter.mkdir(parents=True)
    except (OSError, UnicodeError):
        pytest.skip("no such file name on this disk")
    run.config_file.write_text(yaml.safe_dump({"model": {"name_or_path": text}}))
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    (run.exports / name).mkdir(parents=True)

    def write(run, forms, checkpoint, job):
        job.report(text, 0.5)
        return [SimpleNamespace(form="adapter", path=run.exports / name, megabytes=1.0, check=text)]

    monkeypatch.setattr(export_screen, "write_export", write)

    async def scenario(pilot):
        await pilot.press("f5")
        await until(pilot, lambda: getattr(app.screen, "_facts", None) is not None)
        assert_clean(app)
        await pilot.press("x")
        await until(pilot, lambda: app.screen._writing is None)
        assert_clean(app)
        await pilot.press("r")
        await pilot.pause()
        assert_clean(app)

    assert os.path.isdir(run.path)
    drive(app, scenario, (80, 24))
