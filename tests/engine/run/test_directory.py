"""Run directories under crashes, full disks and several processes."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evenfall.engine.config.run_config import RunConfig, parse_config
from evenfall.engine.run import directory as runs_module
from evenfall.engine.run import events as ev
from evenfall.engine.run.directory import RunDirectory, RunError
from evenfall.engine.run.event_lines import encode_event
from evenfall.engine.run.files import atomic_folder, write_atomic
from evenfall.engine.run.find import create_run, find_run, list_runs
from evenfall.engine.run.log import EventLog, EventTail
from evenfall.engine.run.owner import read_owner
from evenfall.engine.run.registry import remember_place

Make = Callable[..., RunDirectory]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """`make("name")`: a new run directory under tmp_path/runs."""

    def made(name: str | None = None, **sections: object) -> RunDirectory:
        tree = {"name": name, "output_dir": str(tmp_path / "runs"), **sections}
        return create_run(parse_config(tree))

    return made


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def alert(text: str) -> ev.Alert:
    return ev.Alert(text)


# Whole or not at all


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    write_atomic(file, b"old")
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new" and names(tmp_path) == ["run.yaml"]


def test_a_disk_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.yaml"
    write_atomic(file, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(file, b"new")
    assert file.read_bytes() == b"old" and names(tmp_path) == ["run.yaml"]


def test_a_reader_never_sees_part_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    contents = {b"a" * 200_000, b"b" * 100_000}
    write_atomic(file, min(contents))
    ended = threading.Event()

    def write() -> None:
        for n in range(60):
            write_atomic(file, sorted(contents)[n % 2])
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not ended.is_set() or not reads:
        assert file.read_bytes() in contents
        reads += 1
    writer.join()


def test_a_folder_appears_when_its_block_ends(tmp_path: Path) -> None:
    place = tmp_path / "checkpoints" / "step-5"
    with pytest.raises(FileNotFoundError), atomic_folder(place):
        pass  # what holds it is not made: a run may have been moved away
    place.parent.mkdir()
    with atomic_folder(place) as scratch:
        (scratch / "state.json").write_text("{}")
        assert not place.exists() and scratch.parent == place.parent
    assert names(place) == ["state.json"] and names(place.parent) == ["step-5"]


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    for name in ("old", "new"):
        with atomic_folder(place) as scratch:
            (scratch / name).write_text(name)
    assert names(place) == ["new"] and names(tmp_path) == ["adapter"]


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), SystemExit()])
def test_a_failure_inside_keeps_the_old_folder_and_no_scratch(tmp_path: Path, error: BaseException) -> None:
    place = tmp_path / "adapter"
    with atomic_folder(place) as scratch:
        (scratch / "old").write_text("old")
    with pytest.raises(type(error)), atomic_folder(place) as scratch:
        (scratch / "new").write_text("new")
        raise error
    assert names(place) == ["old"] and names(tmp_path) == ["adapter"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_lock(make: Make) -> None:
    run = make("run")
    checkpoints = run.path / "checkpoints"
    checkpoints.mkdir()
    with atomic_folder(run.checkpoint(5)) as scratch:
        (scratch / "state.json").write_text("{}")
    (checkpoints / ".step-10.0123abcd").mkdir()
    (checkpoints / ".step-10.0123abcd" / "optimizer.safetensors").write_bytes(b"half")
    (run.path / ".run.yaml.89abcdef").write_text("half")
    (run.path / ".adapter.89abcdef").mkdir()
    (run.path / ".git").mkdir()  # somebody else's
    (run.path / ".note.txt").write_text("mine")
    with run.lock():
        assert names(checkpoints) == ["step-5"]
    assert names(run.path) == [".git", ".note.txt", "checkpoints", "run.lock", "run.yaml"]


def test_a_replacement_killed_between_its_two_renames_is_undone(make: Make) -> None:
    run = make("run")
    (run.path / ".adapter.89abcdef.old").mkdir()
    (run.path / ".adapter.89abcdef.old" / "adapter_model.safetensors").write_bytes(b"whole")
    with run.lock():
        pass
    assert names(run.adapter) == ["adapter_model.safetensors"]


# The event log


def test_a_log_that_cannot_be_read_has_no_events(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()  # as root, a file without rights can be read
    assert EventTail(tmp_path / "events.jsonl").read_new() == []


def test_a_tail_gives_each_event_once_as_the_file_grows(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    tail = EventTail(file)
    assert tail.read_new() == []  # not there yet
    lines = [encode_event(alert(text)) for text in ("one", "zwei ü", "three")]
    with open(file, "ab", buffering=0) as out:
        out.write(lines[0] + lines[1][:12])
        assert tail.read_new() == [alert("one")]
        assert tail.read_new() == []
        out.write(lines[1][12:-1])
        assert tail.read_new() == []
        out.write(lines[1][-1:] + lines[2])
        assert tail.read_new() == [alert("zwei ü"), alert("three")]


def test_a_tail_passes_over_damage_and_kinds_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = [b"\x00\xff\n", b'{"type": "Rewound"}\n', b"\n", b'{"type": "Step"}\n', b"[" * 5000]
    file.write_bytes(encode_event(alert("a")) + b"".join(lines) + b"\n" + encode_event(alert("b")))
    assert EventTail(file).read_new() == [alert("a"), alert("b")]


def test_a_tail_follows_a_writer_that_does_not_wait_for_it(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    tail = EventTail(tmp_path / "events.jsonl")
    writer = threading.Thread(target=lambda: [log.append(alert("x" * n)) for n in range(1500)])
    writer.start()
    seen: list[ev.Event] = []
    while writer.is_alive():
        seen += tail.read_new()
    seen += tail.read_new()
    assert [event.n for event in seen] == list(range(1, 1501))
    assert seen == log.since(0)


def test_several_threads_write_whole_lines_with_numbers_of_their_own(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    threads = [threading.Thread(target=lambda: [log.append(alert("y" * 50)) for _ in range(300)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = EventTail(tmp_path / "events.jsonl").read_new()
    assert [event.n for event in events] == list(range(1, 1201))


def test_a_log_that_is_opened_again_cuts_a_torn_line_and_goes_on_counting(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file)
    first = [log.append(alert("one")), log.append(alert("two"))]
    log.close()
    with open(file, "ab") as out:
        out.write(encode_event(alert("torn"))[:15])
    log = EventLog(file)
    third = log.append(alert("three"))
    assert third.n == 3 and third.t > 0
    assert EventTail(file).read_new() == [*first, third] == log.since(0)


def test_since_gives_exactly_the_events_above_a_number(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    assert log.since(0) == []
    for n in range(1, 6):
        log.append(alert(str(n)))
    assert [event.n for event in log.since(0)] == [1, 2, 3, 4, 5]
    assert [event.n for event in log.since(3)] == [4, 5]
    assert log.since(5) == [] and log.since(99) == []


def test_a_damaged_line_in_the_middle_makes_no_viewer_miss_an_event(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file)
    for n in range(1, 7):
        log.append(alert(str(n)))
    log.close()
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = b"\x00" * 40 + b"\n"
    file.write_bytes(b"".join(lines))
    log = EventLog(file)
    log.append(alert("7"))
    assert [event.n for event in log.since(4)] == [5, 6, 7]


def test_a_full_disk_loses_no_event_for_viewers_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    before = log.append(alert("before"))
    with open("/dev/full", "ab", buffering=0) as full:  # every write fails with ENOSPC, for real
        monkeypatch.setattr(log, "_file", full)
        for n in range(3):
            log.append(alert(str(n)))
    assert [event.n for event in log.since(0)] == [1, 2, 3, 4]
    assert log.write_error == "No space left on device"
    assert EventTail(tmp_path / "events.jsonl").read_new() == [before]


def test_lines_that_waited_for_room_are_written_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "events.jsonl"
    log = EventLog(file)
    log.append(alert("before"))
    real = log._file

    class Full:
        def write(self, data: bytes) -> int:
            if len(data) > 40:
                return real.write(data[:40])  # takes a little, then no more
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(log, "_file", Full())
    log.append(alert("during 1"))
    log.append(alert("during 2"))
    assert log.write_error
    monkeypatch.setattr(log, "_file", real)
    log.append(alert("after"))
    assert log.write_error is None
    assert EventTail(file).read_new() == log.since(0)
    assert len(log.since(0)) == 4


# Who trains


def holder(run: RunDirectory) -> subprocess.Popen[str]:
    """Another process that holds the run."""
    code = (
        "import sys, time, pathlib\n"
        "from evenfall.engine.run.directory import RunDirectory\n"
        f"with RunDirectory(pathlib.Path({str(run.path)!r})).lock():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_told_who_trains(make: Make) -> None:
    run = make("run")
    other = holder(run)
    try:
        assert run.is_live()
        with (
            pytest.raises(RunError, match=rf"process {other.pid}; .*evenfall watch run"),
            run.lock(),
        ):
            pytest.fail("held twice")
        assert run.is_live()
    finally:
        other.kill()
        other.wait()


def test_a_killed_process_leaves_nothing_stale(make: Make) -> None:
    run = make("run")
    other = holder(run)
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    assert not run.is_live()
    with run.lock():
        assert run.is_live()
        owner = read_owner(run.path)
        assert owner and owner.pid == os.getpid() and owner.is_here
    assert not run.is_live()


def test_looking_whether_a_run_is_live_never_keeps_it_from_being_taken_up(make: Make) -> None:
    run = make("run")
    with run.lock():
        pass
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            run.is_live()

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    taken = 0
    try:
        for _ in range(100):
            with run.lock():
                taken += 1
    finally:
        ended.set()
        for looker in lookers:
            looker.join()
    assert taken == 100


def test_a_run_that_was_never_trained_is_not_live(make: Make) -> None:
    assert not make("run").is_live()


# Making and finding


def test_a_new_run_holds_its_configuration(make: Make, tmp_path: Path) -> None:
    run = make("mine", train={"seed": 7})
    assert run.path == tmp_path / "runs" / "mine"
    assert run.config().train.seed == 7 and run.config().name == "mine"


def test_a_name_that_is_taken_says_how_to_go_on(make: Make) -> None:
    make("mine")
    with pytest.raises(RunError, match=r"mine: this run exists; .*name=.*--resume mine"):
        make("mine")


def test_names_of_their_own_differ_and_fit_a_path(make: Make) -> None:
    made = [make(model={"name_or_path": "org/Llama 3.1/../8B"}, data={"path": "/x/a b:c.tar.jsonl"}) for _ in range(3)]
    assert len({run.name for run in made}) == 3
    for run in made:
        assert re.fullmatch(r"[\w.\-]{1,64}", run.name), run.name
        assert run.config().name == run.name


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = RunConfig(name="x", output_dir=str(tmp_path / "file" / "runs"))
    with pytest.raises(RunError, match=r"output_dir: .*cannot be made: Not a directory"):
        create_run(config)


def test_a_run_is_found_by_name_by_its_start_and_by_path(make: Make, tmp_path: Path) -> None:
    first, second = make("alpha-1"), make("beta")
    root = tmp_path / "runs"
    assert find_run("beta", root).path == second.path
    assert find_run("alp", root).path == first.path
    assert find_run(first.path, "elsewhere").path == first.path
    make("alpha-2")
    make("alpha-1-b")
    assert find_run("alpha-1", root).path == first.path  # the whole name, not the start of two
    with pytest.raises(RunError, match=r"several runs start so: .*alpha-2"):
        find_run("alpha", root)
    with pytest.raises(RunError, match=r"gamma: no such run in .*there: .*beta"):
        find_run("gamma", root)
    with pytest.raises(RunError, match="none yet"):
        find_run("x", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a" * 300, "é" * 200, "a" * 5000, "b/" * 3000 + "a", "a\0b", "\udcff" * 300])
def test_a_name_that_no_file_can_have_is_no_run(make: Make, tmp_path: Path, name: str) -> None:
    make("alpha")
    remember_place(tmp_path)
    with pytest.raises(RunError, match=r"no such run in .*there: alpha") as error:
        find_run(name, tmp_path / "runs")
    told = str(error.value).split(": no such run")[0]
    assert told == name or (told == name[:100] + "…")


def test_runs_are_listed_with_the_last_active_first(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    assert list_runs(root) == []
    made = {name: make(name) for name in ("a", "b", "c")}
    now = time.time()
    for age, name in enumerate(("b", "c", "a")):
        log = EventLog(made[name].events_file)
        log.append(alert("x"))
        log.close()
        os.utime(made[name].events_file, (now - age, now - age))
    (root / "not-a-run").mkdir()
    assert [run.name for run in list_runs(root)] == ["b", "c", "a"]


def test_only_whole_checkpoints_are_counted(make: Make) -> None:
    run = make("run")
    assert run.checkpoints() == []
    (run.path / "checkpoints").mkdir()
    for step in (5, 100, 20):
        with atomic_folder(run.checkpoint(step)) as scratch:
            (scratch / "state.json").write_text("{}")
    (run.path / "checkpoints" / "step-30").mkdir()  # no state: not whole
    (run.path / "checkpoints" / "step-old").mkdir()
    (run.path / "checkpoints" / "step-old" / "state.json").write_text("{}")
    assert run.checkpoints() == [5, 20, 100]


def test_progress_is_the_story_so_far(make: Make) -> None:
    run = make("run")
    assert run.progress().state == "idle"
    log = EventLog(run.events_file)
    log.append(ev.StateChanged("training"))
    assert run.progress().state == "training"
