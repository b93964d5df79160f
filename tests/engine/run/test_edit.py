"""Runs deleted, renamed and annotated: real folders, locks of other processes, links, missing permissions."""

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import edit
from evenfall.engine.run.directory import NOTE_LIMIT, RunDirectory, RunError
from evenfall.engine.run.edit import check_name, delete_run, read_contents, rename_run, set_note
from evenfall.engine.run.find import create_run, find_run, list_runs
from evenfall.engine.run.summary import RunScanner, summarise

Make = Callable[..., RunDirectory]


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that any user can reach: pytest's own are for one."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o777)


@pytest.fixture
def make(root: Path) -> Make:
    """`make("name")`: a run with a checkpoint, an adapter and an export."""

    def made(name: str, whole: bool = True) -> RunDirectory:
        run = create_run(parse_config({"name": name, "output_dir": str(root)}))
        if whole:
            for folder in (run.checkpoint(5), run.adapter, run.exports / "merged"):
                folder.mkdir(parents=True)
                (folder / "state.json").write_bytes(b"x" * 1000)
        return run

    return made


@contextlib.contextmanager
def held_elsewhere(run: RunDirectory, lock: str = "lock") -> Iterator[None]:
    """Another process trains the run (or exports it)."""
    code = (
        "import sys; from pathlib import Path; from evenfall.engine.run.directory import RunDirectory\n"
        f"with RunDirectory(Path(sys.argv[1])).{lock}():\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield
        process.communicate()


@contextlib.contextmanager
def as_nobody(root: Path) -> Iterator[None]:
    """As a user to whom permissions apply."""
    if os.geteuid():
        yield
        return
    for path in [root, *root.rglob("*")]:
        os.lchown(path, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def told(run: RunDirectory, act: Callable[[RunDirectory], object]) -> str:
    with pytest.raises(RunError) as error:
        act(run)
    return error.value.told()


# Deleting


@pytest.mark.parametrize("whole", [True, False], ids=["run", "failed start"])
def test_a_run_is_deleted_with_all_that_it_holds(root: Path, make: Make, whole: bool) -> None:
    make("kept")
    delete_run(make("gone", whole))
    assert names(root) == ["kept"] and names(root / "kept") == ["adapter", "checkpoints", "exports", "run.yaml"]


@pytest.mark.parametrize("lock", ["lock", "export_lock"])
def test_a_run_that_another_process_works_on_is_left_alone(root: Path, make: Make, lock: str) -> None:
    run = make("busy")
    with held_elsewhere(run, lock):
        before = names(run.path)
        for act in (delete_run, lambda run: rename_run(run, "other")):
            why = told(run, act)
            assert ("is being trained by process" if lock == "lock" else "another export") in why
        assert names(root) == ["busy"] and set(before) <= set(names(run.path))
        assert run.config().name == "busy"
    delete_run(run)
    assert names(root) == []


def test_a_folder_that_is_a_link_loses_the_link_alone(root: Path, make: Make) -> None:
    target = make("target")
    link = RunDirectory(root / "link")
    link.path.symlink_to("target")
    before = names(target.path)
    assert read_contents(link).link_to == "target"
    with held_elsewhere(target):
        assert "is being trained" in told(link, delete_run)
    before = names(target.path)
    delete_run(link)
    assert names(root) == ["target"] and names(target.path) == before


def test_what_links_in_a_run_point_to_stays(root: Path, make: Make) -> None:
    run = make("run")
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").write_text("dear")
    (run.path / "big").symlink_to(elsewhere)
    (run.checkpoint(5) / "weights").symlink_to(elsewhere / "weights")
    assert read_contents(run).links == ("big",)
    delete_run(run)
    assert names(root) == ["elsewhere"] and (elsewhere / "weights").read_text() == "dear"


def test_nothing_is_tidied_where_a_link_leads(root: Path, make: Make) -> None:
    """Another run that keeps its checkpoints there may be writing one."""
    run = make("run", whole=False)
    shared = root / "shared"
    (shared / ".step-5.0123abcd").mkdir(parents=True)
    for name in ("checkpoints", "exports"):
        (run.path / name).symlink_to(shared)
    delete_run(rename_run(run, "renamed"))
    assert names(root) == ["shared"] and names(shared) == [".step-5.0123abcd"]


def test_what_would_go_is_told(make: Make) -> None:
    contents = read_contents(make("run"))
    assert (contents.checkpoints, contents.adapter, contents.exports) == ((5,), True, ("merged",))
    contents = read_contents(make("failed", whole=False))
    assert (contents.checkpoints, contents.adapter, contents.exports, contents.link_to) == ((), False, (), None)


@pytest.mark.parametrize("locked", [".", "run"], ids=["its parent", "itself"])
def test_a_run_that_cannot_be_removed_stays_whole(root: Path, make: Make, locked: str) -> None:
    run = make("run")
    before = sorted(run.path.rglob("*"))
    with as_nobody(root):
        (root / locked).chmod(0o555)
        why = told(run, delete_run)
        (root / locked).chmod(0o777)
    assert "cannot be deleted, all of it is still there" in why and "Permission denied" in why
    assert [path for path in sorted(run.path.rglob("*")) if path.name != "run.lock"] == before
    assert list_runs(root) == [run] and names(root) == ["run"]


def test_a_run_of_which_a_part_cannot_be_removed_is_listed_no_more(root: Path, make: Make) -> None:
    run = make("run")
    with as_nobody(root):
        run.checkpoint(5).chmod(0o555)
        why = told(run, delete_run)
        (left,) = names(root)
        assert left.startswith(".run.") and left in why and "state.json" in why and "mend its permissions" in why
        assert list_runs(root) == [] and not (root / left / "run.yaml").exists()
        (root / left / "checkpoints" / "step-5").chmod(0o755)
    with pytest.raises(RunError):
        find_run("run", root)
    delete_run(make("next"))
    assert names(root) == [], "what was left goes with the next deletion"


def test_a_process_that_is_killed_half_way_leaves_no_run_that_looks_whole(
    root: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(edit, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_run(make("run"))
    assert list_runs(root) == [] and len(names(root)) == 1
    assert make("run").path.is_dir(), "its name is free"


def test_hidden_folders_of_others_are_no_leftovers(root: Path, make: Make) -> None:
    (root / ".cache.deleted").mkdir()
    delete_run(make("run"))
    assert names(root) == [".cache.deleted"]


def test_a_run_that_went_meanwhile_is_told(make: Make) -> None:
    run = make("run")
    delete_run(run)
    assert "is not there any more" in told(run, delete_run)
    assert "is not there any more" in told(run, lambda run: rename_run(run, "x"))


# Renaming


def test_a_run_is_renamed_in_its_folder_and_in_run_yaml(root: Path, make: Make) -> None:
    run = make("old")
    moved = rename_run(run, "new")
    assert moved.path == root / "new" and names(root) == ["new"]
    assert moved.config() == moved.config().model_copy(update={"name": "new"})
    assert moved.checkpoints() == [5] and not moved.is_live()
    assert rename_run(moved, "new") == moved


def test_a_rename_touches_no_other_key_of_run_yaml(make: Make) -> None:
    """Also where the file is of a version that had other keys."""
    run = make("old")
    run.config_file.write_text("name: old\ntrain:\n  seed: 7\n  gone_since: 1e-4\n")
    moved = rename_run(run, "new")
    assert moved.config_file.read_text() == "name: new\ntrain:\n  seed: 7\n  gone_since: 0.0001\n"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "a\nb", "x" * 65, "-dash", "\x1b[31m", "taken"])
def test_a_name_that_cannot_be_one_is_refused(root: Path, make: Make, name: str) -> None:
    run = make("old")
    make("taken")
    why = told(run, lambda run: check_name(run, name))
    assert ("another run has" if name == "taken" else "1 to 64 letters") in why
    assert told(run, lambda run: rename_run(run, name)) == why
    assert names(root) == ["old", "taken"] and run.config().name == "old"


def test_an_empty_folder_of_that_name_is_not_taken_over(root: Path, make: Make) -> None:
    run = make("old")
    (root / "new").mkdir()
    assert "another run has" in told(run, lambda run: rename_run(run, "new"))
    assert names(root) == ["new", "old"] and names(root / "new") == []


@pytest.mark.parametrize("locked", [".", "old"], ids=["its parent", "itself"])
def test_a_run_that_cannot_be_renamed_keeps_its_name(root: Path, make: Make, locked: str) -> None:
    run = make("old")
    with as_nobody(root):
        (root / locked).chmod(0o555)
        assert "cannot be renamed" in told(run, lambda run: rename_run(run, "new"))
        (root / locked).chmod(0o777)
    assert names(root) == ["old"] and run.config().name == "old"


def test_a_run_without_a_readable_configuration_keeps_its_name(root: Path, make: Make) -> None:
    run = make("old")
    run.config_file.write_text("a: [")
    assert "cannot be read" in told(run, lambda run: rename_run(run, "new"))
    assert names(root) == ["old"]


def test_a_link_is_renamed_as_a_link(root: Path, make: Make) -> None:
    target = make("target")
    link = RunDirectory(root / "link")
    link.path.symlink_to("target")
    moved = rename_run(link, "other")
    assert moved.path.is_symlink() and names(root) == ["other", "target"]
    assert target.config().name == "other"


# Notes


def test_a_note_is_kept_on_one_line_also_of_a_live_run(make: Make) -> None:
    run = make("run")
    with held_elsewhere(run):
        set_note(run, "  rate too\n\thigh é ")
    assert run.note() == summarise(run).note == "rate too high é"
    set_note(run, " ")
    assert run.note() == "" and not run.note_file.exists()


def test_a_note_is_bounded_as_written_and_as_read(make: Make) -> None:
    run = make("run")
    set_note(run, "x" * NOTE_LIMIT)
    assert f"at most {NOTE_LIMIT} characters" in told(run, lambda run: set_note(run, "x" * (NOTE_LIMIT + 1)))
    assert run.note() == "x" * NOTE_LIMIT
    run.note_file.write_bytes(b"\xff\xfe" + b"y" * 1_000_000 + b"\nz")
    assert len(run.note()) == NOTE_LIMIT
    run.note_file.unlink()
    run.note_file.mkdir()
    assert run.note() == ""


def test_a_note_that_cannot_be_written_is_told(root: Path, make: Make) -> None:
    run = make("run")
    with as_nobody(root):
        run.path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        assert "note.txt: cannot be written: Permission denied" in told(run, lambda run: set_note(run, "x"))


def test_a_scan_sees_a_note_that_was_changed_or_taken_away(root: Path, make: Make) -> None:
    run, scanner = make("run"), RunScanner(root)
    for note in ("one", "two", ""):
        set_note(run, note)
        (row,), _ = scanner.scan(10, lambda text: None)
        assert row.note == note


# Failed starts


def test_what_came_to_no_step_and_saved_nothing_is_a_failed_start(make: Make) -> None:
    assert summarise(make("failed", whole=False)).failed_start
    assert not summarise(make("whole")).failed_start
    live = make("live", whole=False)
    with held_elsewhere(live):
        assert not summarise(live).failed_start
