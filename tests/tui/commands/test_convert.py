"""`evenfall import` and `evenfall config --to`."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evenfall.engine.config.run_config import load_config, parse_config
from evenfall.engine.config.yaml12 import dump_yaml
from evenfall.tui.commands.main import main

AXOLOTL = {
    "base_model": "example/m", "adapter": "qlora", "lora_r": 8, "lora_alpha": 16,
    "lora_target_linear": True, "learning_rate": 1e-4,
    "datasets": [{"path": "a.jsonl", "type": "alpaca"}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(**more) -> None:
    Path("other.yaml").write_text(dump_yaml(AXOLOTL | more))


def test_an_import_writes_a_run_that_can_be_read(capsys):
    put()
    assert main(["import", "other.yaml", "train.max_steps=7"]) == 0
    config = load_config("run.yaml")
    assert (config.model.name_or_path, config.train.max_steps) == ("example/m", 7)
    assert "Imports." in capsys.readouterr().out
    assert main(["import", "other.yaml"]) == 2
    assert "--force" in capsys.readouterr().err and load_config("run.yaml").train.max_steps == 7
    assert main(["import", "other.yaml", "--force"]) == 0
    assert load_config("run.yaml").train.max_steps is None
    assert main(["import", "other.yaml", "-o", "second.yaml"]) == 0
    assert Path("second.yaml").is_file()


@pytest.mark.parametrize(
    "more, answer, code",
    [
        ({"rl": "dpo"}, [], 1),
        ({"frobnicate": 1}, [], 2),
        ({"frobnicate": 1}, ["--ignore", "frobnicate"], 0),
        ({"frobnicate": 1}, ["--ignore", "frobnicate", "adapter.r=4"], 0),
        ({"adapter": "lora", "load_in_8bit": True}, [], 2),
        ({"adapter": "lora", "load_in_8bit": True}, ["model.quantization=none"], 0),
        ({}, ["adapter.rank=4"], 2),
    ],
)
def test_exit_codes(more, answer, code):
    put(**more)
    assert main(["import", "other.yaml", *answer]) == code
    assert Path("run.yaml").exists() == (code == 0)


def test_text_of_the_file_cannot_reach_the_terminal_as_it_is(capsys):
    put(frobnicate="\x1b]52;c;aGk=\x07", **{"k\x1b[2J": 1})
    assert main(["import", "other.yaml"]) == 2
    assert main(["import", "nothing\x1b[2J.yaml"]) == 2
    out = capsys.readouterr()
    assert "\x1b" not in out.out + out.err


def test_a_run_goes_out(capsys):
    Path("run.yaml").write_text(parse_config({"data": {"path": "a.jsonl"}}).to_yaml())
    assert main(["config", "run.yaml", "--to", "axolotl", "adapter.r=5"]) == 0
    assert "lora_r: 5" in capsys.readouterr().out
    assert main(["config", "run.yaml", "--to", "trl", "-o", "train.py"]) == 0
    compile(Path("train.py").read_text(), "train.py", "exec")
    assert main(["config", "run.yaml", "--to", "trl", "-o", "train.py"]) == 2
    assert main(["config", "missing.yaml", "--to", "trl"]) == 2


def test_importing_loads_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, evenfall.engine.convert.importer, evenfall.engine.convert.to_trl\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {name_or_path: demo}\n")
    words = ["config", str(file), "--to", "trl"]
    code = f"import sys; from evenfall.tui.commands.main import main; sys.exit(main({words!r}))"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "#0\n" and not done.stderr
