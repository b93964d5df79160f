"""Processes killed, signalled, cut off and out of disk: what was learnt stays, to the last bit.

Each run is a process of its own, `evenfall train` as a user starts it, on the tiny model.
"""

import contextlib
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from evenfall.engine.config.run_config import RunConfig, parse_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.log import EventTail

PATIENCE = 300
"""Seconds after which what should happen never will, on the busiest machine."""
CLI = [sys.executable, "-m", "evenfall.tui.commands.main"]


def say(run: RunDirectory) -> list[Any]:
    return EventTail(run.events_file).read_new()


def losses(run: RunDirectory) -> dict[int, float]:
    return {step.step: step.loss for step in run.progress().steps}


def rates(run: RunDirectory) -> dict[int, float]:
    return {step.step: step.learning_rate for step in run.progress().steps}


@dataclass
class Place:
    """A folder with runs, and the processes that were started there."""

    folder: Path
    started: list[subprocess.Popen[str]]

    def run(self, name: str) -> RunDirectory:
        return RunDirectory(self.folder / "runs" / name)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """`evenfall ARGUMENTS` without a terminal."""
        return self.python(*CLI[1:], *arguments, **options)

    def python(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, text=True,
            **settings,
        )  # fmt: skip
        self.started.append(process)
        return process

    def train(self, config: RunConfig) -> tuple[subprocess.Popen[str], RunDirectory]:
        assert config.name
        file = self.folder / f"{config.name}.yaml"
        file.write_text(config.to_yaml())
        return self.start("train", file.name), self.run(config.name)

    def resume(self, run: RunDirectory) -> subprocess.Popen[str]:
        return self.start("train", "--resume", run.name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("faults"), [])
    yield place
    for process in place.started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


Make = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def make(tiny_model: Path, tiny_data: Path) -> Make:
    """`make("name", train={...})`: a configuration whose every part bears on the losses.

    Dropout draws from the generators, and 16 updates of 5 of the 20 bins are four epochs, each in an
    order of its own.
    """

    def made(name: str, **sections: dict[str, Any]) -> RunConfig:
        tree: dict[str, Any] = {
            "name": name,
            "model": {"name_or_path": str(tiny_model), "quantization": "none"},
            "adapter": {"r": 8, "lora_dropout": 0.2},
            "data": {"path": str(tiny_data), "max_length": 64},
            "train": {
                "max_steps": 16, "gradient_accumulation_steps": 5, "save_steps": 4,
                "learning_rate": 5e-3, "device": "cpu", "kernels": "off",
            },
        }  # fmt: skip
        for section, values in sections.items():
            tree[section] |= values
        return parse_config(tree)

    return made


def wait(process: subprocess.Popen[str], what: str, until: Callable[[], Any], pause: float = 0.01) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + PATIENCE
    while not until():
        if process.poll() is not None and not until():
            pytest.fail(f"{what}: the process ended before: {process.communicate()}")
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s"
        time.sleep(pause)


def wait_for_step(process: subprocess.Popen[str], run: RunDirectory, step: int) -> None:
    wait(process, f"step {step}", lambda: run.progress().step >= step)


def ended(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for the end; the outputs. The code must be this one."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
    return out, err


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended before it was killed"


def scratch(run: RunDirectory) -> list[str]:
    """What is half-written in a run."""
    folders = [run.path, run.path / "checkpoints"]
    return [path.name for folder in folders for path in folder.glob(".*")]


# Rank 512 makes a checkpoint of 40 MB, which takes a moment to write.
WIDE = {"adapter": {"r": 512, "lora_dropout": 0.2}}


@pytest.fixture(scope="module")
def uninterrupted(place: Place, make: Make) -> RunDirectory:
    """A run that nothing happened to."""
    process, run = place.train(make("uninterrupted", **WIDE))
    out, _ = ended(process)
    assert "finished at step 16/16" in out
    assert len(set(losses(run).values())) == 16 and run.progress().steps[-1].epoch == 4
    return run


def killed_while_it_saves(place: Place, make: Make) -> RunDirectory:
    """A run killed while it wrote its second checkpoint; where the kill came too late, another one."""
    for attempt in range(10):
        process, run = place.train(make(f"killed-{attempt}", **WIDE))
        wait_for_step(process, run, 7)
        wait(process, "a half-written checkpoint", lambda run=run: scratch(run), 0.0005)
        kill(process)
        if scratch(run) and run.checkpoints() == [4]:
            return run
    pytest.fail("ten kills came too late: every checkpoint was whole")


def test_killed_at_the_worst_moments_a_run_repeats_the_uninterrupted_one_bit_for_bit(
    place: Place, make: Make, uninterrupted: RunDirectory
) -> None:
    whole = losses(uninterrupted)

    def check(run: RunDirectory, moment: str) -> None:
        done = losses(run)
        assert done == {step: whole[step] for step in done}, moment

    run = killed_while_it_saves(place, make)
    assert run.checkpoints() == [4] and not run.is_live()
    check(run, "before the first kill")

    # Inside an accumulation, a fifth of an update after a step was told.
    process = place.resume(run)
    wait_for_step(process, run, 10)
    assert not [name for name in scratch(run) if "step-8" in name], "scratch was left behind"
    time.sleep(0.2 * run.progress().steps[-1].seconds)
    kill(process)
    killed_at = run.progress().step
    assert killed_at >= 10 and run.checkpoints()[-1] >= 8
    check(run, "after a kill while a checkpoint was written")

    # At some moment.
    process = place.resume(run)
    wait_for_step(process, run, run.checkpoints()[-1] + 1)
    pause = random.random() * 5 * min(step.seconds for step in run.progress().steps)
    time.sleep(pause)
    kill(process)
    check(run, "after a kill inside an accumulation")

    ended(place.resume(run))
    check(run, f"after a kill {pause:.3f} s after a step")
    assert losses(run) == whole
    first, second = (load_file(path.adapter / "adapter_model.safetensors") for path in (run, uninterrupted))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert scratch(run) == []


DRIVER = """
import sys, time
from pathlib import Path
from evenfall.engine.run import commands as cmd, events as ev
from evenfall.engine.config.run_config import load_config
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

session = Session(create_run(load_config(sys.argv[1])))
emit = session._control.emit
def emit_and_answer(event):
    emit(event)
    if isinstance(event, ev.Step) and event.step == 6:
        # Taken up one after the other before step 7: the checkpoint is without the change.
        for command in eval(sys.argv[2]):
            session.submit(command)
    if isinstance(event, ev.Step) and event.step == 7:
        time.sleep(600)  # it is killed here
session._control.emit = emit_and_answer
session.start()
session.wait()
"""


def steered_and_killed(place: Place, config: RunConfig, commands: str) -> dict[int, float]:
    """Train; give the commands after step 6; kill at step 7. The rates until then."""
    file = place.folder / f"{config.name}.yaml"
    file.write_text(config.to_yaml())
    process = place.python("-c", DRIVER, str(file), commands)
    run = place.run(str(config.name))
    wait_for_step(process, run, 7)
    kill(process)
    return rates(run)


def starts(run: RunDirectory) -> int:
    return sum(isinstance(event, ev.RunStarted) for event in say(run))


def test_a_learning_rate_changed_after_the_last_checkpoint_survives_kills(place: Place, make: Make) -> None:
    config = make("rate", train={"lr_scheduler_type": "cosine", "max_steps": 10, "save_steps": 4})
    before, run = (
        steered_and_killed(place, config, "[cmd.SetLearningRate(1e-4)]"),
        place.run("rate"),
    )
    process = place.resume(run)
    wait(process, "the second start", lambda: starts(run) == 2)
    kill(process)  # before it comes to where the rate was changed
    ended(place.resume(run))
    after = rates(run)
    assert before[7] == pytest.approx(1e-4) and before[6] > 1e-3
    assert {step: after[step] for step in before} == before
    assert 0 < after[10] < after[9] < after[8] < 1e-4


def test_a_learning_rate_changed_right_after_a_checkpoint_survives_a_kill(place: Place, make: Make) -> None:
    config = make("rate-2", train={"lr_scheduler_type": "constant", "max_steps": 10})
    commands = "[cmd.SetLearningRate(1e-3), cmd.SaveNow(), cmd.SetLearningRate(1e-4)]"
    before = steered_and_killed(place, config, commands)
    ended(place.resume(place.run("rate-2")))
    after = rates(place.run("rate-2"))
    assert before[7] == 1e-4
    assert [after[step] for step in range(7, 11)] == [pytest.approx(1e-4)] * 4
    assert {step: after[step] for step in before} == before


def test_signals_to_end_save_first(place: Place, make: Make) -> None:
    settings = {"max_steps": 4000, "save_steps": 4000}
    codes = {signal.SIGTERM: 143, signal.SIGINT: 130}
    runs = {number: place.train(make(number.name, train=settings)) for number in codes}
    for number, (process, run) in runs.items():
        wait_for_step(process, run, 3)
        process.send_signal(number)
        out, err = ended(process, codes[number])
        assert "saving and stopping" in out and not err
        (finished,) = [event for event in say(run) if isinstance(event, ev.Finished)]
        assert finished.reason == "stopped" and run.checkpoints() == [finished.step]
        assert (run.adapter / "adapter_model.safetensors").is_file() and scratch(run) == []
        assert run.progress().state == "finished" and not run.is_live()


def test_a_hang_up_and_a_reader_that_goes_away_end_no_run(place: Place, make: Make) -> None:
    config = make("hung-up", train={"max_steps": 60, "save_steps": 1000})
    (place.folder / "hung-up.yaml").write_text(config.to_yaml())
    process = place.start("train", "hung-up.yaml")
    run = place.run("hung-up")
    wait_for_step(process, run, 3)
    process.send_signal(signal.SIGHUP)
    assert process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    assert run.progress().step < 50, "it was over before"
    assert process.wait(PATIENCE) == 0
    assert run.progress().step == 60 and run.adapter.is_dir()


def failed_saves(run: RunDirectory) -> list[ev.Alert]:
    return [e for e in say(run) if isinstance(e, ev.Alert) and "could not be written" in e.message]


def whole(run: RunDirectory, step: int) -> bool:
    """Every file of a checkpoint can be read."""
    folder = run.checkpoint(step)
    for name in ("adapter_model", "optimizer", "rng"):
        assert load_file(folder / f"{name}.safetensors"), name
    return (folder / "state.json").is_file()


def test_a_disk_that_takes_no_more_ends_no_run_and_spoils_no_checkpoint(place: Place, make: Make) -> None:
    process, run = place.train(make("no-room", train={"max_steps": 2000}))
    wait(process, "a checkpoint", lambda: run.checkpoints())
    # No file may grow beyond 30 kB: too little for an adapter, enough for the events so far.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    wait(process, "a refused checkpoint", lambda: failed_saves(run))
    last = run.checkpoints()[-1]
    failed_at = run.progress().step
    wait_for_step(process, run, failed_at + 2)
    assert scratch(run) == [] and whole(run, last) and run.checkpoints()[-1] == last
    # There is room again: the next checkpoint is written, and the run can be stopped and saved.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait(process, "a checkpoint after all", lambda: run.checkpoints()[-1] > last)
    # And without room at the end it waits for some, but not against the user's will.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    process.send_signal(signal.SIGINT)
    wait(
        process,
        "the wait for room",
        lambda: "the adapter could not" in failed_saves(run)[-1].message,
    )
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    assert scratch(run) == [] and whole(run, run.checkpoints()[-1])


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    folder = place.folder / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_of_and_the_run_goes_on_when_there_is_room_again(
    place: Place, make: Make, small_disk: Path
) -> None:
    config = make("full", train={"max_steps": 200}, adapter={"r": 32})
    config = config.model_copy(update={"output_dir": str(small_disk)})
    (place.folder / "full.yaml").write_text(config.to_yaml())
    said = place.folder / "full.txt"
    with open(said, "w") as out:
        process = place.start("train", "full.yaml", stdout=out)
    run = RunDirectory(small_disk / "full")
    wait(process, "a checkpoint", lambda: run.checkpoints())
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    # Not even the events find room now; what the run prints still tells of it.
    wait(process, "a word of it", lambda: "could not be written" in said.read_text())
    last = run.checkpoints()[-1]
    assert whole(run, last)
    ballast.unlink()
    ended(process)
    assert failed_saves(run), "the disk was never full"
    assert run.progress().step == 200 and sorted(losses(run)) == list(range(1, 201))
    assert [event.n for event in say(run)] == list(range(1, len(say(run)) + 1))
    assert whole(run, 200) and scratch(run) == []


def test_a_configuration_that_cannot_be_used_is_wrong_usage(place: Place) -> None:
    (place.folder / "bad.yaml").write_text("train: {learning_rte: 1}\n")
    out, err = ended(place.start("train", "bad.yaml"), 2)
    assert out == ""
    assert err == ("evenfall: bad.yaml: train.learning_rte: no such key; did you mean train.learning_rate?\n")


def test_a_model_that_is_missing_is_a_message_and_no_traceback(place: Place, make: Make) -> None:
    process, run = place.train(make("no-model", model={"name_or_path": "/no/such/model"}))
    out, err = ended(process, 2)
    assert "/no/such/model" in err and "Traceback" not in out + err
    assert not run.path.exists()


def test_words_may_stand_on_both_sides_of_an_option(place: Place, make: Make) -> None:
    (place.folder / "words.yaml").write_text(make("words").to_yaml())
    _, err = ended(place.start("train", "words.yaml", "--plain", "train.seed=x"), 2)
    assert "train.seed: got 'x'" in err
    _, err = ended(place.start("train", "words.yaml", "--plane", "train.seed=1"), 2)
    assert "unrecognized arguments" in err and not place.run("words").path.exists()
