"""A tiny model does not compete with itself on busy cores; what the user says goes first."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.inference.chat import Chat
from evenfall.engine.machine import threads
from evenfall.engine.machine.threads import TINY, SharedCores, set_threads
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

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


def test_a_tiny_model_computes_with_one_thread_and_others_with_all() -> None:
    for parameters, count in ((TINY - 1, 1), (TINY, 3), (1, 1), (8_000_000_000, 3)):
        set_threads(parameters)
        assert torch.get_num_threads() == count
        seen: list[int] = []
        other = threading.Thread(target=lambda seen=seen: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [count]  # a chat answers in a thread that it was not loaded in


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_the_user_gave_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    set_threads(1)
    assert torch.get_num_threads() == 3


def train(run: RunDirectory) -> list[ev.Event]:
    torch.set_num_threads(3)  # what a new process begins with
    session = Session(run)
    session.start()
    assert session.wait(600) and session.state == "finished"
    return session.events_since(0)


class Cores:
    """Cores whose time is told by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = self.idle = self.ours = 0.0
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(threads.time, "process_time", lambda: self.ours)
        monkeypatch.setattr(threads.psutil, "cpu_times", lambda: SimpleNamespace(idle=self.idle))

    def go_on(self, seconds: float, *, idle: float, ours: float) -> None:
        """So many seconds, with so many cores idle and ours."""
        self.clock, self.idle, self.ours = (
            self.clock + seconds, self.idle + idle * seconds, self.ours + ours * seconds,
        )  # fmt: skip


def test_a_tiny_model_takes_idle_cores_and_leaves_busy_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, shared = Cores(monkeypatch), SharedCores(TINY - 1)
    torch.set_num_threads(1)
    for idle, ours, count in (
        (1.9, 1.0, 3),  # nobody else
        (0.1, 2.7, 3),
        (0.0, 1.7, 2),  # one other program begins, and then four do
        (0.0, 0.6, 1),
        (0.0, 0.4, 1),
        (2.0, 0.9, 3),  # all have gone
        (60.0, 3.0, 3),  # more cores than torch would take
        (0.0, 0.0, 1),
    ):
        machine.go_on(0.1, idle=0, ours=0)
        shared.settle()  # too soon to tell
        machine.go_on(50, idle=idle, ours=ours)
        shared.settle()
        assert torch.get_num_threads() == count, (idle, ours)


@pytest.mark.parametrize("parameters", [TINY - 1, TINY])
def test_a_larger_model_and_a_number_that_was_given_stay_as_they_are(
    parameters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parameters < TINY:
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
    machine, shared = Cores(monkeypatch), SharedCores(parameters)
    machine.go_on(50, idle=0, ours=0.3)
    shared.settle()
    assert torch.get_num_threads() == 3


def test_a_tiny_runs_numbers_do_not_hang_on_its_threads(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[tuple[float, float]]] = []
    for count in (1, 3):
        monkeypatch.setattr(SharedCores, "settle", lambda self, count=count: torch.set_num_threads(count))
        events = train(create_run(tiny_config(train={"max_steps": 5})))
        told.append([(e.loss, e.grad_norm) for e in events if isinstance(e, ev.Step)])
    assert len(told[0]) == 5 and told[0] == told[1]


def test_a_chat_with_a_tiny_model_computes_with_one_thread(tiny_config: Callable[..., RunConfig]) -> None:
    run = create_run(tiny_config(train={"max_steps": 2}))
    events = train(run)
    assert [e.threads for e in events if isinstance(e, ev.ModelLoaded)] == [3]
    torch.set_num_threads(3)
    Chat.open(run, lambda stage, fraction: None).close()
    assert torch.get_num_threads() == 1
