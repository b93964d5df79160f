"""Who trains a run, and which runs are live anywhere."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run.directory import RunDirectory, RunError
from evenfall.engine.run.find import create_run, find_live_run, find_run, list_runs, way_to
from evenfall.engine.run.owner import STALE_SECONDS, Owner, is_owned, read_owner, this_place, write_owner
from evenfall.engine.run.registry import Entry, known_places, live_runs, other_places, remember_place
from evenfall.engine.run.summary import live_elsewhere


def make(root: Path, name: str) -> RunDirectory:
    return create_run(parse_config({"output_dir": str(root), "name": name, "data": {"path": "a.jsonl"}}))


def elsewhere(run: RunDirectory, **changes: object) -> Owner:
    """An owner on another machine, written into the run's lock."""
    owner = Owner(
        pid=77, host="box-2", place="another-boot/pid:[1]", socket="/tmp/no.sock", device="GPU-1", started=time.time()
    )
    owner = replace(owner, **changes)  # type: ignore[arg-type]
    lock = os.open(run.path / "run.lock", os.O_RDWR | os.O_CREAT)
    write_owner(lock, owner)
    os.close(lock)
    return owner


def test_a_live_run_is_found_wherever_it_was_started(tmp_path: Path) -> None:
    one, two = make(tmp_path / "a", "one"), make(tmp_path / "b", "two")
    with one.lock(), two.lock():
        entries = [Entry(), Entry()]
        for entry, run in zip(entries, (one, two), strict=True):
            entry.write(run.path)
        assert {run.name for run in live_runs()} == {"one", "two"}
        owner = live_runs()[0].owner
        assert owner and owner.pid == os.getpid() and owner.is_here
    assert live_runs() == []
    assert list(Path(os.environ["XDG_STATE_HOME"]).rglob("*.json")) == []


def test_a_killed_run_leaves_no_live_one(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    code = (
        "import pathlib, time\n"
        "from evenfall.engine.run.directory import RunDirectory\n"
        "from evenfall.engine.run.registry import Entry\n"
        f"path = pathlib.Path({str(run.path)!r})\n"
        "with RunDirectory(path).lock():\n"
        "    Entry().write(path)\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    assert [live.path for live in live_runs()] == [run.path]
    process.kill()
    process.wait()
    assert live_runs() == [] and not run.is_live()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"run": 3}', b'{"run": "rel"}', b"\xff\x00", b'{"run": "/\\u0000"}']
)
def test_a_damaged_registry_is_rebuilt_by_the_runs_themselves(tmp_path: Path, damage: bytes) -> None:
    run = make(tmp_path, "run")
    with run.lock():
        entry = Entry()
        entry.write(run.path)
        (pointer,) = Path(os.environ["XDG_STATE_HOME"]).rglob("*.json")
        pointer.write_bytes(damage)
        assert live_runs() == [] and [live.path for live in live_runs([tmp_path])] == [run.path]
        entry.write(run.path)
        assert [live.path for live in live_runs()] == [run.path]


def test_pointers_of_other_machines_are_left_alone_until_they_are_old(tmp_path: Path) -> None:
    live = Path(os.environ["XDG_STATE_HOME"]) / "evenfall" / "live"
    live.mkdir(parents=True)
    pointer = live / "theirs.json"
    pointer.write_text(json.dumps({"run": "/scratch/of/theirs", "place": "another-boot/pid:[1]"}))
    (live / "theirs.sock").write_text("")
    assert live_runs() == [] and pointer.exists()
    old = time.time() - 7200
    os.utime(pointer, (old, old))
    assert live_runs() == [] and list(live.iterdir()) == []


def test_one_run_with_two_paths_is_one(tmp_path: Path) -> None:
    run = make(tmp_path / "runs", "run")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with run.lock():
        Entry().write(run.path)
        Entry().write(tmp_path / "link" / "run")
        assert len(live_runs([tmp_path / "link", tmp_path / "runs"])) == 1


def test_a_run_of_another_machine_lives_while_its_lock_is_touched(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    elsewhere(run)
    assert is_owned(run.path)
    with pytest.raises(RunError, match="process 77 on box-2, which was heard of within"), run.lock():
        pytest.fail("held twice")
    old = time.time() - STALE_SECONDS - 1
    os.utime(run.path / "run.lock", (old, old))
    assert not is_owned(run.path)
    with run.lock():
        owner = read_owner(run.path)
        assert owner and owner.is_here


def test_a_run_of_another_container_is_judged_by_its_lock(tmp_path: Path) -> None:
    run = make(tmp_path, "run")
    boot = this_place().split("/")[0]
    owner = elsewhere(run, place=f"{boot}/pid:[1]")
    assert not is_owned(run.path)  # killed: the lock is free
    assert owner.told == "process 77 on box-2" and owner.is_on_this_machine and not owner.is_here


@pytest.mark.parametrize(
    "text",
    ["", "5741", "{", '{"pid": "x"}', '{"pid": 1}', json.dumps({"pid": 1, "host": 2, "place": "", "socket": ""})],
)
def test_words_in_a_lock_that_are_not_known_name_nobody(tmp_path: Path, text: str) -> None:
    run = make(tmp_path, "run")
    (run.path / "run.lock").write_text(text)
    assert read_owner(run.path) is None and not run.is_live()
    with run.lock():
        assert run.is_live()


def test_places_are_remembered_the_last_one_first(tmp_path: Path) -> None:
    for name in ("a", "b", "a", "gone"):
        (tmp_path / name).mkdir(exist_ok=True)
        remember_place(tmp_path / name)
    (tmp_path / "gone").rmdir()
    assert known_places() == [tmp_path / "a", tmp_path / "b"]
    (Path(os.environ["XDG_STATE_HOME"]) / "evenfall" / "places.json").write_bytes(b'["/", 7, "rel", "/a\\u0000"]x')
    assert known_places() == []
    remember_place(tmp_path / "b")
    assert known_places() == [tmp_path / "b"]


def test_a_place_with_two_paths_is_one(tmp_path: Path) -> None:
    run = make(tmp_path / "runs", "run")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "alias").symlink_to(run.path)
    spellings = [tmp_path / "link", tmp_path / "other" / ".." / "runs", tmp_path / "runs"]
    for place in spellings:
        remember_place(place)
    assert known_places() == [tmp_path / "runs"]
    assert [other_places(place) for place in spellings] == [[], [], []]
    assert other_places(tmp_path / "nowhere") == [tmp_path / "runs"]
    with run.lock():
        Entry().write(run.path)
        for place in (*spellings, tmp_path / "other"):
            assert live_elsewhere(place, list_runs(place)) == []
        assert live_elsewhere(tmp_path / "nowhere", []) == [run]


def test_a_state_folder_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    run = make(tmp_path, "run")
    with run.lock():
        Entry().write(run.path)
        remember_place(tmp_path)
        assert live_runs() == [] and known_places() == []
        assert [live.path for live in live_runs([tmp_path])] == [run.path]


def test_runs_of_other_folders_are_found_by_name(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", "night"), make(tmp_path / "there", "morning")
    remember_place(tmp_path / "there")
    assert find_run("night", tmp_path / "here") == here
    assert find_run("morning", tmp_path / "here") == there
    with pytest.raises(RunError, match="no such run"):
        find_run("morn", tmp_path / "here")  # the start of a name is enough for live ones alone
    with there.lock():
        Entry().write(there.path)
        assert find_run("morn", tmp_path / "here") == there
    make(tmp_path / "third", "morning")
    remember_place(tmp_path / "third")
    with pytest.raises(RunError, match="several folders have such a run"):
        find_run("morning", tmp_path / "here")


def test_without_a_name_the_only_live_run_is_meant(tmp_path: Path) -> None:
    one, two = make(tmp_path, "one"), make(tmp_path, "two")
    with pytest.raises(RunError, match="no run is live"):
        find_live_run(None, tmp_path)
    with one.lock():
        assert find_live_run(None, tmp_path).name == "one" and find_live_run("on", tmp_path) == one
        with pytest.raises(RunError, match="no process trains it now") as error:
            find_live_run("two", tmp_path)
        assert "evenfall train --resume two" in error.value.hint
        with two.lock(), pytest.raises(RunError, match="several runs are live: "):
            find_live_run(None, tmp_path)


def test_live_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, there, far = make(Path("runs"), "s1"), make(tmp_path / "b", "s1"), make(tmp_path / "b", "far")
    own = make(Path("runs"), "own")
    with here.lock(), there.lock(), far.lock(), own.lock():
        for run in (here, there, far, own):
            Entry().write(run.path)
        with pytest.raises(RunError, match="several runs are live: ") as error:
            find_live_run(None)
        told = set(str(error.value).removeprefix("several runs are live: ").split(", "))
        assert told == {"own", str(tmp_path / "runs" / "s1"), str(there.path), str(far.path)}
        assert all(find_live_run(way).is_live() for way in told)


def test_the_way_to_a_run_is_its_name_only_where_that_finds_it(tmp_path: Path) -> None:
    here, there = make(tmp_path / "here", "s1"), make(tmp_path / "there", "s1")
    other = make(tmp_path / "there", "s2")
    root = tmp_path / "here"
    assert way_to(here.path, root) == "s1" and way_to(there.path, root) == str(there.path)
    assert way_to(other.path, root) == str(other.path)
    remember_place(tmp_path / "there")
    assert way_to(other.path, root) == "s2"
    with pytest.raises(RunError, match="no process trains it now") as error:
        find_live_run(str(there.path), root)
    assert error.value.hint.endswith(f"--resume {there.path}")
