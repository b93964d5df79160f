"""The Export screen: from a run's saved adapters to written, checked files."""

import shutil
import threading
from types import SimpleNamespace

import pytest
from waiting import until

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.run.log import EventLog
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import export as export_screen

SIZES = [(120, 36), (80, 24)]


def finished_run(name: str = "0412-llama8b", *, saved: bool = True) -> RunDirectory:
    run = create_run(parse_config({"name": name, "output_dir": "runs"}))
    log = EventLog(run.events_file)
    log.append(
        ev.ModelLoaded(
            name="llama-8b",
            family="llama",
            parameters=8_030_000_000,
            trainable=1,
            quantization="nf4",
            compute_dtype="bfloat16",
            weights_gb=5.6,
            seconds=9.0,
        )
    )
    log.append(
        ev.Step(
            step=1000,
            epoch=1.0,
            loss=1.2,
            learning_rate=1e-4,
            grad_norm=1.0,
            tokens=9,
            trained_tokens=9,
            seconds=0.1,
            memory_gb=1.0,
            memory_peak_gb=1.0,
            memory_total_gb=2.0,
        )
    )
    log.append(ev.StateChanged("finished"))
    log.close()
    for folder in (run.adapter, run.checkpoint(500), run.checkpoint(1000)) if saved else ():
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"x" * 168_000)
        (folder / "state.json").write_text("{}")
    return run


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_screen, "disk_free_gb", lambda folder: 412.0)
    return EvenfallApp()


@pytest.fixture
def exports(monkeypatch):
    """What was asked for; each is done at once."""
    asked = []

    def write(run, forms, checkpoint, job):
        asked.append((run.name, tuple(forms), checkpoint))
        return [
            SimpleNamespace(
                form=form,
                path=run.exports / form,
                megabytes=0.2,
                check="opens in PEFT; bytes equal",
            )
            for form in forms
        ]

    monkeypatch.setattr(export_screen, "write_export", write)
    return asked


async def show_export(pilot) -> None:
    await pilot.press("f5")
    await until(pilot, lambda: getattr(pilot.app.screen, "NAME", "") == "export")
    await until(pilot, lambda: pilot.app.screen._reading is None)


@pytest.mark.parametrize("size", SIZES)
def test_without_a_run_it_says_how_to_get_one(app, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_export(pilot)
        same_as_snapshot(app, "export-no-run")
        await pilot.press("x")
        assert "there is no run yet" in see(app)

    drive(app, scenario, size)


def test_a_run_without_an_adapter_cannot_be_exported(app, drive, see, exports):
    finished_run(saved=False)

    async def scenario(pilot):
        await show_export(pilot)
        assert "It has saved nothing yet" in see(app)
        await pilot.press("x")
        assert "saved nothing yet" in see(app)

    drive(app, scenario)
    assert exports == []


@pytest.mark.parametrize("size", SIZES)
def test_ready_shows_sizes_before_anything_is_written(app, drive, see, same_as_snapshot, size):
    finished_run()

    async def scenario(pilot):
        await show_export(pilot)
        assert "0.2 MB" in see(app)  # the adapter's files
        assert "16.1 GB" in see(app)  # 8.03e9 parameters in bfloat16
        same_as_snapshot(app, "export-ready")

    drive(app, scenario, size)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_ticked_is_written_and_its_check_is_shown(app, drive, see, same_as_snapshot, exports, size):
    finished_run()

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("tab", "space", "x")
        await until(pilot, lambda: "✓ merged" in see(app))
        assert "runs/0412-llama8b/exports/merged" in see(app) and "bytes equal" in see(app)
        same_as_snapshot(app, "export-done")

    drive(app, scenario, size)
    assert exports == [("0412-llama8b", ("adapter", "merged"), None)]


def test_a_checkpoint_can_be_chosen(app, drive, see, exports):
    finished_run()

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("shift+tab", "right", "right")
        assert "checkpoint of step 500" in see(app)
        await pilot.press("x")
        await until(pilot, lambda: "✓ adapter" in see(app))

    drive(app, scenario)
    assert exports == [("0412-llama8b", ("adapter",), 500)]


def save(folder) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    (folder / "state.json").write_text("{}")


async def run_ends(pilot, run) -> None:
    """The run saves its final adapter, unheard, as one of another process does."""
    save(run.adapter)
    await until(pilot, lambda: len(pilot.app.screen._facts.kept) > 1)


def test_the_final_adapter_takes_the_place_of_a_checkpoint_that_nobody_chose(app, drive, see, exports):
    run = finished_run(saved=False)
    save(run.checkpoint(5))

    async def scenario(pilot):
        await show_export(pilot)
        assert "checkpoint of step 5" in see(app)
        await run_ends(pilot, run)
        assert "final, step 1000" in see(app) and "checkpoint of step 5" not in see(app)
        await pilot.press("x")
        await until(pilot, lambda: "✓ adapter" in see(app))

    drive(app, scenario)
    assert exports == [("0412-llama8b", ("adapter",), None)]


def test_a_checkpoint_that_was_chosen_stays_until_the_screen_is_left(app, drive, see, exports):
    run = finished_run(saved=False)
    save(run.checkpoint(5))
    save(run.checkpoint(6))

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("shift+tab", "right")
        assert "! not the newest, which is: checkpoint of step 6" in see(app)
        save(run.adapter)
        await until(pilot, lambda: "! not the newest, which is: final, step 1000" in see(app))
        await pilot.press("question_mark", "escape")  # a dialog over it does not count as leaving
        assert "checkpoint of step 5" in see(app)
        await pilot.press("x")
        await until(pilot, lambda: "✓ adapter" in see(app))
        assert see(app).count("checkpoint of step 5") == 2  # of what was written too
        await pilot.press("f2", "f5")
        await pilot.pause()
        assert "‹ final, step 1000 ›" in see(app) and "! not the newest" not in see(app)

    drive(app, scenario)
    assert exports == [("0412-llama8b", ("adapter",), 5)]


def test_a_chosen_checkpoint_that_is_gone_gives_way_to_the_best(app, drive, see):
    run = finished_run(saved=False)
    save(run.checkpoint(5))
    save(run.checkpoint(6))

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("shift+tab", "right")
        shutil.rmtree(run.checkpoint(5))  # as save_total_limit has it
        save(run.checkpoint(7))
        await until(pilot, lambda: "‹ checkpoint of step 7 ›" in see(app))

    drive(app, scenario)


def test_nothing_ticked_is_nothing_to_do(app, drive, see, exports):
    finished_run()

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("space", "x")
        assert "tick what to write first" in see(app)

    drive(app, scenario)
    assert exports == []


@pytest.mark.parametrize("size", SIZES)
def test_progress_and_cancel(app, drive, see, same_as_snapshot, monkeypatch, size):
    finished_run()
    go_on, left = threading.Event(), []

    def slow(run, forms, checkpoint, job):
        job.report("writing the merged model", 0.5)
        go_on.wait(60)
        try:
            job.report("opening what was written and comparing", 0.8)
        finally:
            left.append("cleaned up")
        return []

    monkeypatch.setattr(export_screen, "write_export", slow)

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("x")
        await until(pilot, lambda: "writing the merged model" in see(app))
        same_as_snapshot(app, "export-writing")
        await pilot.press("x")
        assert "cancels it" in see(app)  # no second one beside it
        await pilot.press("escape")
        go_on.set()
        await until(pilot, lambda: "nothing was left behind" in see(app))

    drive(app, scenario, size)
    assert left == ["cleaned up"]


@pytest.mark.parametrize("size", SIZES)
def test_a_failure_is_said_in_place(app, drive, see, same_as_snapshot, monkeypatch, size):
    finished_run()

    def fails(run, forms, checkpoint, job):
        raise RuntimeError("runs: 16.1 GB are needed, 3.2 GB are free")

    monkeypatch.setattr(export_screen, "write_export", fails)

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("x")
        await until(pilot, lambda: "3.2 GB are free" in see(app))
        same_as_snapshot(app, "export-failed")

    drive(app, scenario, size)


def test_merging_waits_for_a_run_that_trains(app, drive, see, exports):
    run = finished_run()

    async def scenario(pilot):
        app.desk.session = SimpleNamespace(done=False, run=run, set_attended=lambda on: None)
        await show_export(pilot)
        await pilot.press("tab", "space", "x")
        assert "or finish it first" in see(app)
        await pilot.press("space", "x")  # the adapter alone is a copy of small files
        await until(pilot, lambda: "✓ adapter" in see(app))
        app.desk.session = None

    drive(app, scenario)
    assert [forms for _, forms, _ in exports] == [("adapter",)]


@pytest.mark.parametrize("size", SIZES)
def test_another_run_can_be_picked(app, drive, see, same_as_snapshot, exports, size):
    finished_run("0411-first")
    finished_run("0412-llama8b")

    async def scenario(pilot):
        await show_export(pilot)
        await pilot.press("r")
        await pilot.pause()
        same_as_snapshot(app, "pick-run")
        await pilot.press("down", "enter")
        await until(pilot, lambda: "0411-first ·" in see(app))

    drive(app, scenario, size)
    assert app.desk.chosen_run is not None and app.desk.chosen_run.name == "0411-first"


def test_a_broken_run_yaml_is_told_and_no_crash(app, drive, see):
    finished_run().config_file.write_text("model: [")

    async def scenario(pilot):
        await show_export(pilot)
        assert "run.yaml" in see(app) and "is not YAML" in see(app)

    drive(app, scenario)
