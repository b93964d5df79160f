"""`evenfall data check`: what it prints, what it exits with, and that its fixes work as they are written."""

import json
import random
import re
import string

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.prepare import prepare
from evenfall.engine.run import event_lines
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.run.pace import last_pace
from evenfall.tui.commands.main import main


def row(number: int) -> str:
    letters = "".join(random.Random(number).choices(string.ascii_lowercase, k=40))
    return json.dumps({"prompt": f"What is {letters[:15]}?", "completion": f"It is {letters}."})


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(*more: str):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join([*map(row, range(30)), *more]) + "\n")
        return path

    return write


def check(capsys, *words) -> tuple[int, str]:
    code = main(["data", "check", *map(str, words)])
    return code, capsys.readouterr().out


def test_clean_data_pass_with_their_figures(rows, capsys):
    code, text = check(capsys, rows())
    assert code == 0
    assert "RED" not in text and "AMBER" not in text
    assert "✓ GREEN  no duplicates" in text
    assert "prompt_completion" in text and "30 of 30 rows" in text
    assert re.search(r"lengths +p50 \d+ · p90 \d+ · p95 \d+ · p99 \d+ · longest \d+", text)
    assert re.search(r"recommended data.max_length=\d+ holds 95 % of the rows", text)
    assert re.search(r"an epoch +.* tokens, \d+ % learnt, in \d+ bins [\d.]+ % full", text)
    assert "leaks were not looked for" in text  # and that it says why


def test_red_exits_with_1_and_the_printed_fix_mends_it(rows, capsys):
    path = rows('{"prompt": "cut', row(3))
    code, text = check(capsys, path)
    assert code == 1
    assert re.search(r"✗ RED +rows that cannot be read or rendered: 1; the first:\s+\S+: line\s+31", text)
    assert re.search(r"! AMBER +rows that repeat an earlier row: 1 \(3.1 %\)\n +row 32\n", text)
    fixes = re.findall(r"data\.drop=\[[a-z,]+\]", text)
    assert fixes == ["data.drop=[bad]", "data.drop=[duplicate]", "data.drop=[bad,duplicate]"]
    code, text = check(capsys, path, fixes[-1])
    assert code == 0 and "AMBER" not in text
    assert "settled: data.drop leaves them out" in text


def test_the_first_row_is_told_before_the_rest_is_read(rows, capsys, monkeypatch):
    path = rows()
    whole = prepare._held_whole

    def after_it(*args):
        told.append(capsys.readouterr().out)
        return whole(*args)

    told: list[str] = []
    monkeypatch.setattr(prepare, "_held_whole", after_it)
    _, rest = check(capsys, path)
    lines = told[0].splitlines()
    assert re.fullmatch(rf"first row   {path}: row 1: \d+ tokens, \d+ of them learnt", " ".join(lines[:1]))
    assert "What is" in lines[1] and lines[1].startswith("  read")
    assert any(line.startswith("  learnt    It is") for line in lines)
    assert rest.startswith("data: ")
    check(capsys, path, "--json")
    assert told[1] == ""


def test_rows_of_which_nothing_is_learnt_are_not_the_first(rows, capsys, tmp_path):
    path = rows()
    path.write_text('{"prompt": "q", "completion": ""}\n' + path.read_text())
    _, text = check(capsys, path)
    assert text.startswith(f"first row   {path}: row 2: ")


def test_json_has_all_that_was_found(rows, capsys):
    code, text = check(capsys, rows(row(3)), "--json", "data.max_length=512")
    found = json.loads(text)
    assert (code, found["level"]) == (0, "amber")
    assert found["findings"][0]["code"] == "duplicate"
    assert found["findings"][0]["places"][0]["number"] == 31
    assert found["findings"][0]["fixes"][0]["override"] == "data.drop=[duplicate]"
    assert found["report"]["max_length"] == 512
    assert found["statistics"]["tokens"] == found["report"]["tokens"]


def test_a_run_yaml_is_checked_as_it_would_run(rows, capsys, tmp_path):
    rows(row(3))
    (tmp_path / "run.yaml").write_text("data: {path: rows.jsonl, drop: [duplicate]}\n")
    code, text = check(capsys, "run.yaml")
    assert code == 0 and "30 of 31 rows" in text
    assert "settled" in text
    (tmp_path / "a-run").mkdir()
    (tmp_path / "run.yaml").rename(tmp_path / "a-run" / "run.yaml")
    assert check(capsys, "a-run") == (code, text)  # as `evenfall watch` and `chat` take a run


def test_what_cannot_be_checked_says_why(rows, capsys, tmp_path):
    assert main(["data", "check", "nowhere.jsonl"]) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    path = tmp_path / "what.jsonl"
    path.write_text('{"left": 1, "right": 2}\n')
    assert main(["data", "check", str(path)]) == 2
    assert "data.columns" in capsys.readouterr().err
    assert main(["data", "check", str(rows()), "model.name_or_path=./none"]) == 2
    assert "./none does not exist" in capsys.readouterr().err


def test_nothing_of_the_data_reaches_the_terminal_raw(rows, capsys):
    bad = json.dumps({"prompt": "q", "completion": "a"})[:-1] + ' \x1b[31m"'
    code, text = check(capsys, rows(bad))
    assert code == 1 and "\x1b" not in text


def test_the_pace_is_that_of_the_last_run_of_the_model(tmp_path):
    config = RunConfig.model_validate({"output_dir": str(tmp_path / "runs")})
    assert last_pace(config) is None
    run = create_run(config)
    steps = [
        ev.Step(
            step=n,
            epoch=0.1,
            loss=1.0,
            learning_rate=1e-4,
            grad_norm=1.0,
            tokens=500,
            trained_tokens=100,
            seconds=0.25,
            memory_gb=1,
            memory_peak_gb=1,
            memory_total_gb=2,
        )
        for n in range(1, 12)
    ]
    run.events_file.write_bytes(b"".join(event_lines.encode_event(step) + b"\n" for step in steps))
    assert last_pace(config) == 2000
    other = config.model_copy(update={"model": config.model.model_copy(update={"name_or_path": "x"})})
    assert last_pace(other) is None


@pytest.mark.parametrize("content", ["- prompt: A?\n  completion: b\n", "nlu:\n- intent: greet\n"])
def test_rows_in_yaml_are_no_configuration(tmp_path, capsys, content):
    (tmp_path / "rows.yaml").write_text(content)
    assert main(["data", "check", str(tmp_path / "rows.yaml")]) == 2
    told = capsys.readouterr().err
    assert "rows.yaml: is no run.yaml" in told and "rows in YAML are not read: write them as JSON Lines" in told
