"""A tiny model does not compete with itself on busy cores; what the user says goes first."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.inference.chat import Chat
from evenfall.engine.machine import threads
from evenfall.engine.machine.threads import TINY, set_threads, waiting_asleep
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose torch takes three threads, and a user who said nothing about it."""
    before = torch.get_num_threads()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(3)
    threads._threads_at_first.cache_clear()
    yield
    threads._threads_at_first.cache_clear()
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


def train(run: RunDirectory, *, resume: bool = False) -> list[ev.Event]:
    torch.set_num_threads(3)  # what a new process begins with
    session = Session(run, resume=resume)
    session.start()
    assert session.wait(600) and session.state == "finished"
    return session.events_since(0)


def test_a_tiny_run_and_its_chat_compute_with_one_thread_and_so_does_a_resumed_run(
    tiny_config: Callable[..., RunConfig],
) -> None:
    run = create_run(tiny_config(train={"max_steps": 2}))
    for resume in (False, True):
        events = train(run, resume=resume)
        assert [e.threads for e in events if isinstance(e, ev.ModelLoaded)][-1:] == [1]
    torch.set_num_threads(3)
    Chat.open(run, lambda stage, fraction: None).close()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("told", [None, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_openmp_is_told_to_wait_asleep_unless_the_user_told_it_otherwise(
    told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is not None:
        monkeypatch.setenv(told, "ACTIVE")
    before = dict(os.environ)
    with waiting_asleep():
        if told is None:
            assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
        else:
            assert dict(os.environ) == before
    assert dict(os.environ) == before


def test_torchs_own_openmp_hears_of_it(tmp_path: Path) -> None:
    code = "from evenfall.engine.machine.libraries import import_torch; import_torch()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
