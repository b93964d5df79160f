"""Commands to live runs from a script: real processes, real sockets."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from served_run import Served, until

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import commands as cmd
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.run.owner import read_owner
from evenfall.tui.commands.main import main

COMMAND = [sys.executable, "-m", "evenfall.tui.commands.main"]


FINISHED = ev.Finished(reason="complete", step=0, seconds=0, tokens=0, adapter=None, first_loss=None, last_loss=None)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A live run, `night`, that refuses to save; started in another folder than the tests' own."""
    run = create_run(
        parse_config({"output_dir": str(tmp_path / "there"), "name": "night", "data": {"path": "a.jsonl"}})
    )
    served = Served(run)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield served
    if not served.over:
        served.end()


@pytest.mark.parametrize(
    "words, heard, says",
    [
        (["pause"], cmd.Pause(), "night: paused, after step 7"),
        (["pause", "night"], cmd.Pause(), "night: paused, after step 7"),
        (["resume", "ni"], cmd.Resume(), "night: goes on, after step 7"),
        (["eval"], cmd.EvaluateNow(), "night: evaluated, after step 7"),
        (["set", "train.learning_rate=5e-5"], cmd.SetLearningRate(5e-5, "scale"), "train.learning_rate=5e-05, after"),
        (["set", "night", "train.learning_rate=1e-4", "--hold"], cmd.SetLearningRate(1e-4, "hold"), "after step 7"),
    ],
)
def test_a_command_reaches_the_run_and_its_answer_the_script(
    served: Served, capsys, words: list[str], heard: cmd.Command, says: str
) -> None:
    assert main(words) == 0
    assert served.heard == [heard] and says in capsys.readouterr().out


def test_a_refusal_is_exit_code_1_with_the_reason(served: Served, capsys) -> None:
    assert main(["save"]) == 1
    assert "night: refused: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, says",
    [
        (["set", "data.max_length=3"], "only train.learning_rate can be changed while a run goes on"),
        (["set", "train.learning_rate=fast"], "takes a number, got 'fast'"),
        (["set", "train.learning_rate=nan"], "takes a number from 0 to 10, got 'nan'"),
        (["set", "night", "train.learning_rate=inf"], "takes a number from 0 to 10, got 'inf'"),
        (["set", "train.learning_rate=-1"], "takes a number from 0 to 10, got '-1'"),
        (["set", "night"], "takes one key=value"),
        (["set", "train.learning_rate=1", "train.learning_rate=2"], "takes one key=value"),
        (["pause", "day"], "no such run"),
        (["pause", "a" * 300], "a…: no such run"),
        (["wait", "a" * 5000], "a…: no such run"),
        (["resume", ""], "the run's name is empty"),
    ],
)
def test_what_cannot_be_asked_is_exit_code_2(served: Served, capsys, words: list[str], says: str) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err and served.heard == []


def test_a_dead_run_names_the_line_that_takes_it_up(served: Served, capsys) -> None:
    served.end()
    path = str(served.run.path)
    assert main(["resume", path]) == 2
    assert "no process trains it now\ntake it up: evenfall train --resume night" in capsys.readouterr().err
    assert main(["pause"]) == 2
    assert "no run is live" in capsys.readouterr().err


def test_a_run_without_a_socket_says_why(served: Served, capsys) -> None:
    served.end()
    with served.run.lock():
        assert main(["pause", str(served.run.path)]) == 2
    assert f"process {os.getpid()} has opened no socket" in capsys.readouterr().err


@pytest.mark.parametrize("last, code", [("finished", 0), ("failed", 1), ("out-of-memory", 3)])
def test_wait_ends_with_the_run_and_tells_how(served: Served, last: ev.State, code: int) -> None:
    waiting = subprocess.Popen([*COMMAND, "wait", "night"], stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    assert waiting.poll() is None
    if last == "finished":
        served.control.emit(FINISHED)
    else:
        served.control.emit(ev.Failed("it went wrong"))
    served.control.set_state(last)
    served.end()
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == code and out.startswith(f"night: {last} at step 0")


def test_runs_as_json_hold_what_a_script_needs(served: Served, capsys, tmp_path: Path) -> None:
    create_run(parse_config({"output_dir": "runs", "name": "old", "data": {"path": "a.jsonl"}}))
    assert main(["runs", "--json"]) == 0
    old, night = json.loads(capsys.readouterr().out)
    assert (old["name"], old["live"], old["state"], old["pid"]) == ("old", False, "new", None)
    assert (night["name"], night["live"], night["pid"]) == ("night", True, os.getpid())
    assert night["path"] == str(served.run.path) and night["here"] is True
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "live in other folders:" in out and str(served.run.path) in out


def test_a_live_run_is_listed_once_however_the_folder_is_spelt(served: Served, capsys, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for root in ("../there", "../here/../there", str(tmp_path / "link")):
        assert main(["runs", "--runs", root, "--json"]) == 0
        assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["night"]
        assert main(["runs", "--runs", root]) == 0
        out = capsys.readouterr().out
        assert out.count("night") == 1 and "other folders" not in out


def test_a_second_run_on_the_same_device_is_refused_with_the_flag_that_goes_ahead(
    served: Served, capsys, tmp_path: Path, tiny_model: Path, tiny_data: Path
) -> None:
    served.socket.find_device("cpu")
    Path("run.yaml").write_text(
        parse_config(
            {"model": {"name_or_path": str(tiny_model), "quantization": "none"}, "data": {"path": str(tiny_data)},
             "train": {"max_steps": 1, "device": "cpu"}, "name": "second"}
        ).to_yaml()
    )  # fmt: skip
    while True:
        code = main(["train", "run.yaml", "--plain"])
        err = capsys.readouterr().err
        assert code == 2 and not Path("runs/second").exists()
        if "trains on the same device already" in err:  # the device is written down by a thread
            break
    assert "--beside" in err and f"process {os.getpid()}" in err
    assert main(["demo", "--plain"]) == 2
    assert main(["train", "run.yaml", "--plain", "--beside"]) == 0
    served.end()
    capsys.readouterr()
    assert main(["train", "--resume", "second", "--plain", "train.max_steps=2"]) == 0


def test_to_take_up_a_run_that_is_live_says_so_first(served: Served, capsys) -> None:
    served.socket.find_device("cpu")
    path = served.run.path
    before = served.run.config_file.read_bytes()
    for words in (["night"], [str(path), "--beside"], ["night", "train.max_steps=9"]):
        assert main(["train", "--plain", "--resume", *words]) == 2
        err = capsys.readouterr().err
        assert f"{path}: is being trained by process {os.getpid()}" in err and "evenfall watch night opens it" in err
        assert "--beside" not in err and served.run.config_file.read_bytes() == before


def test_a_live_run_beside_is_told_by_the_way_that_opens_it(
    served: Served, capsys, tiny_model: Path, tiny_data: Path
) -> None:
    served.socket.find_device("cpu")
    until(lambda: (owner := read_owner(served.run.path)) and owner.device == "cpu")
    create_run(
        parse_config(
            {"model": {"name_or_path": str(tiny_model), "quantization": "none"}, "data": {"path": str(tiny_data)},
             "train": {"max_steps": 1, "device": "cpu"}, "name": "night", "output_dir": "runs"}
        )
    )  # fmt: skip
    assert main(["train", "--plain", "--resume", "night"]) == 2
    err = capsys.readouterr().err
    assert "trains on the same device already" in err and f"evenfall watch {served.run.path} opens it" in err


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path, tiny_data: Path) -> Callable[..., tuple[subprocess.Popen, RunDirectory]]:
    def start(*options: str, steps: int = 100_000) -> tuple[subprocess.Popen, RunDirectory]:
        (tmp_path / "run.yaml").write_text(
            parse_config(
                {"model": {"name_or_path": str(tiny_model), "quantization": "none"}, "data": {"path": str(tiny_data)},
                 "train": {"max_steps": steps, "device": "cpu", "save_steps": 100_000}, "name": "real"}
            ).to_yaml()
        )  # fmt: skip
        process = subprocess.Popen(
            [*COMMAND, "train", "run.yaml", "--plain", *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
            start_new_session=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return process, RunDirectory(tmp_path / "runs" / "real")

    return start


def test_a_real_run_is_paused_changed_and_stopped_by_a_script(start, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    process, run = start()
    end = time.monotonic() + 120
    while main(["pause"]) != 0:
        assert time.monotonic() < end
        time.sleep(0.3)
    assert main(["set", "train.learning_rate=1e-5", "--hold"]) == 0
    assert main(["resume"]) == 0 and main(["save"]) == 0
    capsys.readouterr()
    assert main(["stop"]) == 0
    assert "real: stopped at step" in capsys.readouterr().out
    process.communicate(timeout=60)
    assert process.returncode == 0 and run.adapter.is_dir()
    progress = run.progress()
    assert progress.steps[-1].learning_rate == pytest.approx(1e-5)
    assert [change.mode for change in progress.rate_changes] == ["hold"]
