"""A tiny model leaves busy cores to others; a run keeps its number of threads; what the user says goes first."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.inference.chat import Chat
from evenfall.engine.machine import threads
from evenfall.engine.machine.threads import TINY, answering_threads, set_threads, training_threads
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session
from evenfall.engine.training import worker

Make = Callable[..., RunConfig]
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose torch takes three threads, and a user who said nothing about it."""
    before = torch.get_num_threads()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(3)
    threads.most_threads.cache_clear()
    yield
    threads.most_threads.cache_clear()
    torch.set_num_threads(before)


def cores(monkeypatch: pytest.MonkeyPatch, *, idle: float, ours: float) -> None:
    """So many cores idle, and so many ours, whenever they are watched."""
    clock = [0.0]
    monkeypatch.setattr(threads.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(threads.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(threads.time, "process_time", lambda: ours * clock[0])
    monkeypatch.setattr(threads.psutil, "cpu_times", lambda: SimpleNamespace(idle=idle * clock[0]))


@pytest.mark.parametrize(
    ("idle", "ours", "count"),
    [
        (3.0, 0.0, 3),
        (2.6, 0.2, 3),
        (1.9, 0.2, 2),  # one core is another's
        (1.0, 0.0, 1),
        (0.0, 0.4, 1),
        (0.0, 0.0, 1),
        (60.0, 1.0, 3),  # more cores than torch would take
    ],
)
def test_a_tiny_model_is_trained_on_idle_cores(
    monkeypatch: pytest.MonkeyPatch, idle: float, ours: float, count: int
) -> None:
    cores(monkeypatch, idle=idle, ours=ours)
    assert training_threads(TINY - 1) == count
    assert training_threads(TINY) == 3


def test_torch_is_told_no_number_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told its own, it takes all threads for the smallest product."""
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    set_threads(3)
    assert told == []
    set_threads(1)
    assert told == [1]


def test_a_tiny_model_answers_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    cores(monkeypatch, idle=60, ours=0)
    assert (answering_threads(TINY - 1), answering_threads(TINY)) == (1, 3)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_number_that_the_user_gave_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    cores(monkeypatch, idle=0, ours=0)
    assert (training_threads(1), answering_threads(1)) == (3, 3)


def train(run: RunDirectory, *, resume: bool = False) -> int | None:
    """The threads that it told of."""
    session = Session(run, resume=resume)
    session.start()
    assert session.wait(600) and session.state == "finished"
    return [event.threads for event in session.events_since(0) if isinstance(event, ev.ModelLoaded)][-1]


def test_a_run_keeps_the_threads_that_it_began_with(tiny_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(tiny_config(train={"max_steps": 2}))
    seen: list[int] = []
    loop = worker.train
    monkeypatch.setattr(worker, "train", lambda one: (seen.append(torch.get_num_threads()), loop(one))[1])
    monkeypatch.setattr(worker, "training_threads", lambda parameters: 2)
    assert train(run) == 2
    monkeypatch.setattr(worker, "training_threads", lambda parameters: 1)
    assert train(run, resume=True) == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert train(run, resume=True) == 1
    assert seen == [2, 2, 1]


def test_a_run_of_an_earlier_version_goes_on_with_torchs_own_threads(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create_run(tiny_config(train={"max_steps": 2}))
    monkeypatch.setattr(worker, "training_threads", lambda parameters: 1)
    assert train(run) == 1
    run.events_file.write_text(run.events_file.read_text().replace('"threads":1', '"threads":null'))
    set_threads(3)
    assert train(run, resume=True) == 3


def test_a_chat_with_a_tiny_model_computes_with_one_thread(tiny_config: Make) -> None:
    run = create_run(tiny_config(train={"max_steps": 2}))
    train(run)
    set_threads(3)
    Chat.open(run, lambda stage, fraction: None).close()
    assert torch.get_num_threads() == 1
