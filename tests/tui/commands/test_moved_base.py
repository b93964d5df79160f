"""A run works from any folder, and where its base has moved every command is told the new place."""

import json
import shutil
from pathlib import Path

import pytest

from evenfall.engine.run.directory import RunDirectory
from evenfall.tui.commands.main import main


@pytest.fixture
def run(tiny_model: Path, tiny_data: Path, tmp_path: Path, monkeypatch) -> RunDirectory:
    """Trained with relative paths, in a folder that is left afterwards."""
    project, other = tmp_path / "project", tmp_path / "other"
    other.mkdir()
    shutil.copytree(tiny_model, project / "models" / "tiny")
    shutil.copy(tiny_data, project / "rows.jsonl")
    (project / "run.yaml").write_text(
        "name: r\nmodel: {name_or_path: models/tiny}\nadapter: {r: 4}\ndata: {path: rows.jsonl, max_length: 64}\n"
        "train: {max_steps: 2, gradient_accumulation_steps: 1, device: cpu, warmup_steps: 0}\n"
    )
    monkeypatch.chdir(project)
    assert main(["train", "run.yaml", "--plain"]) == 0
    monkeypatch.chdir(other)
    return RunDirectory(project / "runs" / "r")


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    return " ".join(capsys.readouterr().err.split())


def test_a_run_works_from_any_folder_and_is_told_where_its_base_moved(run, tmp_path, monkeypatch, capsys):
    base = tmp_path / "project" / "models" / "tiny"
    assert run.config().model.name_or_path == str(base)
    assert run.config().data.path == str(tmp_path / "project" / "rows.jsonl")
    told = json.loads((run.adapter / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(base)
    name = str(run.path)
    assert main(["train", "--resume", name, "train.max_steps=3", "--plain"]) == 0

    base.rename(tmp_path / "elsewhere")
    capsys.readouterr()
    for words in (["chat", name], ["export", name], ["train", "--resume", name, "--plain"], ["data", "check", name]):
        told = refused(capsys, *words)
        assert f"{base} does not exist" in told and "model.name_or_path=PLACE" in told
    monkeypatch.chdir(tmp_path)
    place = "model.name_or_path=elsewhere"
    monkeypatch.setattr("sys.stdin", (tmp_path / "ask").open("w+"))
    assert main(["chat", name, place]) == 0
    assert main(["export", name, "adapter", "merged", place]) == 0
    told = json.loads((run.exports / "adapter" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(tmp_path / "elsewhere")
    assert main(["data", "check", name, place]) == 0
    assert run.config().model.name_or_path == str(base)  # it was said for those commands alone
    assert main(["train", "--resume", name, place, "train.max_steps=4", "--plain"]) == 0
    assert run.config().model.name_or_path == str(tmp_path / "elsewhere")


def test_an_override_that_fits_nothing_is_refused(run, capsys):
    for command in ("chat", "export"):
        assert "did you mean" in refused(capsys, command, str(run.path), "model.name_or_pth=x")
