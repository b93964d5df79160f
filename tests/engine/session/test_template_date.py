"""A chat template that writes the day: a run keeps the one on which it began."""

import datetime
import shutil
from collections.abc import Callable
from pathlib import Path

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.prepare.prepare import prepare
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

Make = Callable[..., RunConfig]
TEMPLATE = (
    "{{ 'red' if strftime_now('%Y') == '2001' else 'blue' }} {% for m in messages %}{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %} {% endfor %}"
)


def tokens(config: RunConfig) -> list[int]:
    prepared = prepare(config, load_tokenizer(config), lambda stage, share: None)
    window = prepared.train.window(0, 0)
    assert window is not None
    return window.examples.ids.tolist()


def test_a_run_has_the_same_rows_on_another_day(tiny_config: Make, tiny_model: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    template = tmp_path / "dated.jinja"
    template.write_text(TEMPLATE)
    settings = {"data": {"chat_template": str(template)}, "model": {"name_or_path": str(model)}}
    directory = create_run(tiny_config(name="r", train={"max_steps": 1}, **settings))
    assert directory.config().data.date is None
    session = Session(directory)
    session.start()
    assert session.wait(300) and session.state == "finished"
    kept = directory.config()
    assert kept.data.date == datetime.date.today()
    other = kept.with_overrides(["data.date=2001-02-03"])
    assert tokens(kept) == tokens(kept.with_overrides(["data.date=null"]))  # today, still
    assert "date: " in directory.config_file.read_text()
    assert tokens(other) != tokens(kept)


def test_a_run_whose_template_writes_no_day_keeps_none(tiny_config: Make) -> None:
    directory = create_run(tiny_config(name="r", train={"max_steps": 1}))
    session = Session(directory)
    session.start()
    assert session.wait(300)
    assert directory.config().data.date is None
