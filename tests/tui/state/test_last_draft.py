"""What was chosen last comes back after a restart."""

from pathlib import Path

from waiting import until

from evenfall.engine.config.run_config import parse_config
from evenfall.tui.app import EvenfallApp
from evenfall.tui.state.last_draft import keep_draft, last_draft_file, read_last_draft


def kept() -> str:
    file = last_draft_file()
    return file.read_text() if file.is_file() else ""


def test_what_was_chosen_comes_back(drive, see, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"text": "a"}\n')
    first = EvenfallApp(root=tmp_path / "runs")

    async def choose(pilot):
        first.desk.update_draft(["model.name_or_path=org/other", "data.path=mine.jsonl", "adapter.r=64", "name=once"])
        await until(pilot, lambda: first.poll() or "r: 64" in kept())

    drive(first, choose)
    monkeypatch.chdir("/")
    second = EvenfallApp(root=tmp_path / "elsewhere")

    async def look(pilot):
        draft = second.desk.draft
        assert (draft.model.name_or_path, draft.adapter.r) == ("org/other", 64)
        assert draft.data.path == str(tmp_path / "mine.jsonl")
        assert draft.name is None and draft.output_dir == str(tmp_path / "elsewhere")
        assert "other" in see(second) and "2 Data ✓" in see(second)

    drive(second, look)


def test_a_configuration_that_was_given_comes_first(drive, tmp_path: Path) -> None:
    keep_draft(parse_config({"adapter": {"r": 64}}))
    app = EvenfallApp(parse_config({"adapter": {"r": 8}}), root=tmp_path)

    async def look(pilot):
        assert app.desk.draft.adapter.r == 8

    drive(app, look)


def test_what_cannot_be_read_is_said_and_the_defaults_stand(drive, see, tmp_path: Path) -> None:
    keep_draft(parse_config({"adapter": {"r": 64}}))
    last_draft_file().write_text("adapter:\n  rank: 3\n")
    app = EvenfallApp(root=tmp_path)

    async def look(pilot):
        assert "What was chosen last cannot be used" in see(app)
        assert app.desk.draft.adapter.r == parse_config({}).adapter.r

    drive(app, look)


def test_a_state_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    keep_draft(parse_config({}))
    assert read_last_draft(tmp_path) is None
