"""Job: long work that a screen polls."""

import threading
import time

import pytest

from evenfall.engine.machine.jobs import Job


def test_the_result_is_there_when_it_is_done_and_not_before() -> None:
    go = threading.Event()

    def work(job: Job[str]) -> str:
        job.report("half way", 0.5)
        go.wait(60)
        return "answer"

    job = Job(work)
    while job.message != "half way":
        time.sleep(0.001)
    assert job.fraction == 0.5 and not job.done and not job.wait(0.01)
    with pytest.raises(RuntimeError, match="no result"):
        _ = job.result
    go.set()
    assert job.wait(600) and job.done
    assert job.result == "answer" and job.error is None and not job.cancelled


def test_making_a_job_does_not_wait_for_its_work() -> None:
    go = threading.Event()
    job = Job(lambda _: go.wait(60))
    assert not job.done
    go.set()
    assert job.wait(600)


def test_a_failure_is_told_in_one_message_with_the_trace_apart() -> None:
    def work(_: Job[None]) -> None:
        raise ValueError("rows.jsonl: row 3 has no answer")

    job = Job(work)
    assert job.wait(600)
    assert job.error == "rows.jsonl: row 3 has no answer"
    assert "Traceback" in job.trace and "ValueError" in job.trace
    with pytest.raises(RuntimeError, match="row 3"):
        _ = job.result


@pytest.mark.parametrize("error", [AssertionError(), SystemExit(), KeyboardInterrupt()])
def test_a_failure_without_words_has_its_name(error: BaseException) -> None:
    def work(_: Job[None]) -> None:
        raise error

    job = Job(work)
    assert job.wait(600)
    assert job.error == type(error).__name__


def test_a_cancelled_job_ends_at_its_next_report() -> None:
    steps = []

    def work(job: Job[None]) -> None:
        for n in range(100_000):
            job.report(f"step {n}")
            steps.append(n)
            time.sleep(0.001)

    job = Job(work)
    while not steps:
        time.sleep(0.001)
    job.cancel()
    assert job.wait(600)
    assert job.cancelled and job.error is None and len(steps) < 100_000
    with pytest.raises(RuntimeError):
        _ = job.result


def test_work_that_ends_before_it_hears_of_the_cancel_is_done() -> None:
    go = threading.Event()

    def work(_: Job[int]) -> int:
        go.wait(60)
        return 3

    job = Job(work)
    job.cancel()
    go.set()
    assert job.wait(600) and job.result == 3


def test_an_answer_of_nothing_is_an_answer() -> None:
    job: Job[None] = Job(lambda _: None)
    assert job.wait(600) and job.result is None


def test_a_job_does_not_keep_a_process_alive() -> None:
    import subprocess
    import sys

    code = """
import time
from evenfall.engine.machine.jobs import Job
job = Job(lambda job: time.sleep(60))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=300)
    assert done.returncode == 0
