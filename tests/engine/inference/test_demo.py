"""The main job, as a newcomer runs it: `evenfall demo`, from its command to its exit."""

import json
import subprocess
import sys
from pathlib import Path

from evenfall.engine.inference.demo import Answer, demo_config
from evenfall.presets.load import demo_folder


def test_the_demo_teaches_what_it_says_and_shows_before_and_after(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "evenfall", "demo"],
        check=False, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip()
    questions = json.loads((demo_folder() / "questions.json").read_text(encoding="utf-8"))
    assert len(questions) >= 5
    right = done.stdout.count("✓ ")
    assert right >= len(questions) - 2, done.stdout
    assert f"{right} of {len(questions)} answered right only after training" in done.stdout
    for item in questions:
        assert item["question"] in done.stdout
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_the_demo_is_quantised_lora_like_any_run() -> None:
    config = demo_config([])
    assert config.model.quantization == "nf4" and config.adapter.r > 0
    assert config.data.path == "demo" and config.data.max_length == 256


def test_an_answer_counts_only_if_it_was_wrong_before() -> None:
    assert Answer(question="q", expected="x", before="y", after="x").learnt
    assert not Answer(question="q", expected="x", before="x", after="x").learnt
    assert not Answer(question="q", expected="x", before="y", after="z").learnt
