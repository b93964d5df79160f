"""`evenfall train`: what keeps a run from being made, and the sentence that says so."""

import pytest

from evenfall.tui.commands.main import main


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "# later\n", "{}\n", "null\n"])
def test_an_empty_run_yaml_trains_nothing(here, capsys, text):
    (here / "empty.yaml").write_text(text)
    (here / "runs" / "begun").mkdir(parents=True)
    (here / "runs" / "begun" / "run.yaml").write_text(text)
    for words in (
        ["train", "empty.yaml", "--plain"],
        ["data", "check", "empty.yaml"],
        ["train", "--resume", "begun", "--plain"],
    ):
        told = refused(capsys, *words)
        assert "yaml: is empty" in told and "write at least which model and which data" in told
    assert [folder.name for folder in (here / "runs").iterdir()] == ["begun"]
