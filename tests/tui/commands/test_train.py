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


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", ""], "the path of the run.yaml is empty"),
        (["train", "--resume", ""], "the run's name is empty"),
        (["train", "run.yaml", "model.name_or_path="], "model.name_or_path: is empty, takes text"),
        (["train", "run.yaml", "data.path="], "data.path is empty"),
        (["train", "run.yaml", "output_dir="], "output_dir: is empty, takes text"),
        (["data", "check", ""], "the path of the data is empty"),
        (["data", "check", "demo", "model.name_or_path="], "model.name_or_path: is empty"),
        (["watch", ""], "the run's name is empty"),
        (["export", ""], "the run's name is empty"),
        (["chat", ""], "the run's name is empty"),
    ],
)
def test_an_empty_path_is_said_to_be_empty(here, capsys, words, told):
    (here / "run.yaml").write_text("model: {name_or_path: demo}\ndata: {path: demo}\n")
    (here / "runs" / "only").mkdir(parents=True)  # every name starts with an empty one
    (here / "runs" / "only" / "run.yaml").write_text("model: {name_or_path: demo}\n")
    assert told in refused(capsys, *words)
    assert [folder.name for folder in (here / "runs").iterdir()] == ["only"]


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        (["runs", "--runs", ""], "--runs"),
        (["import", ""], "FILE"),
        (["import", "x.yaml", "-o", ""], "-o/--output"),
        (["bench", "tiny", "--data", ""], "--data"),
        (["bench", "tiny", "--keep", ""], "--keep"),
    ],
)
def test_an_empty_path_is_not_this_folder(capsys, words, argument):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and f"argument {argument}: the path is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["data.path=nope.jsonl"], "data.path: nope.jsonl: no such file; did you mean nose.jsonl or"),
        (["data.eval_path=./nope.jsonl"], "data.eval_path: ./nope.jsonl: no such file"),
        (['data={datasets: [{path: "rows.jsonl"}, {path: "no/such/rows.jsonl"}]}'], "data.datasets: no/such/rows"),
        (["data.chat_template=nope"], "data.chat_template: 'nope'"),
        (["model.name_or_path=./nope"], "model.name_or_path: ./nope does not exist"),
        (["name=a/b"], "letters, digits"),
    ],
)
def test_what_is_not_there_makes_no_run(here, capsys, words, told):
    for name in ("rows.jsonl", "nose.jsonl"):
        (here / name).write_text('{"text": "one"}\n')
    (here / "run.yaml").write_text("model: {name_or_path: demo}\n")
    assert told in refused(capsys, "train", "run.yaml", "--plain", *words)
    assert not (here / "runs").exists()


def test_a_key_in_place_of_the_run_yaml_is_no_file(capsys):
    assert "name a run.yaml" in refused(capsys, "train", "train.max_steps=20", "--plain")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["chat", "only", "--max-new-tokens", "0"], "0 is no whole number from 1"),
        (["chat", "only", "--max-new-tokens", "-3"], "-3 is no whole number from 1"),
        (["chat", "only", "--temperature", "-1"], "-1 is no number from 0"),
        (["chat", "only", "--temperature", "nan"], "nan is no number from 0"),
        (["chat", "only", "--temperature", "hot"], "hot is no number from 0"),
        (["runs", "--runs", "run.yaml"], "run.yaml is a file; it takes a folder"),
        (["trian"], "argument COMMAND: invalid choice: 'trian'"),
    ],
)
def test_an_option_says_what_it_takes(here, capsys, words, told):
    (here / "run.yaml").write_text("model: {name_or_path: demo}\n")
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2 and told in capsys.readouterr().err


def test_a_folder_without_weights_makes_no_run(here, capsys):
    (here / "mine").mkdir()
    (here / "mine" / "config.json").write_text("{}")
    (here / "run.yaml").write_text("model: {name_or_path: mine}\n")
    told = refused(capsys, "train", "run.yaml", "--plain")
    assert "model.name_or_path: mine holds no *.safetensors" in told
    assert not (here / "runs").exists()
