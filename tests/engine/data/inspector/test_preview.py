"""The Data screen shows the examples that the loop gets."""

import json

import pytest

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.inspector.preview import build_preview
from evenfall.engine.machine.jobs import Job
from evenfall.engine.model import tokenizer as tokenizer_module


def preview(path, tokenizer, monkeypatch, **data):
    monkeypatch.setattr(tokenizer_module, "load_tokenizer", lambda config: tokenizer)
    config = RunConfig.model_validate({"data": {"path": str(path), **data}})
    job = Job(lambda job: build_preview(config, job.report))
    assert job.wait(600)
    return job


def test_a_row_as_the_model_sees_it(chatml, monkeypatch, tmp_path):
    rows = [{"prompt": f"q{n}", "completion": " é!"} for n in range(60)]
    rows.append({"prompt": "q", "completion": ""})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(rows))
    shown = preview(path, chatml, monkeypatch).result
    assert shown.report.format == "prompt_completion"
    assert "`prompt` and `completion`" in shown.report.sources[0].reason
    assert (shown.report.rows, shown.report.kept, shown.report.dropped) == (
        61,
        60,
        {"empty answer": 1},
    )
    assert len(shown.inspector.places) == 60
    row = shown.inspector.look(shown.inspector.places[3])
    assert (row.place.number, row.length, row.trained) == (4, 27, 6)
    assert "".join(token.text for token in row.tokens if token.fate == "trained") == (" é!<|im_end|>\n")
    assert json.loads(row.raw) == rows[3]


def test_a_data_error_reaches_the_screen(chatml, monkeypatch, tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"prompt": "q"}]')
    job = preview(path, chatml, monkeypatch)
    assert job.error is not None and job.error.startswith(f"{path}: row 1: no known format")
    with pytest.raises(RuntimeError):
        _ = job.result
