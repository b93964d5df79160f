"""Runs by name: made, found, listed."""

import contextlib
import os
import re
import shlex
import time
from pathlib import Path

from ..config.run_config import RunConfig
from .directory import RunDirectory, RunError
from .registry import identity, known_places, live_runs


def create_run(config: RunConfig) -> RunDirectory:
    """Make a new run directory under `config.output_dir` and write its `run.yaml`, which holds wherever one works.

    Raises:
        RunError: `config.name` is taken, or the folder cannot be made.
    """
    root = Path(config.output_dir)
    if config.name:
        candidates = [config.name]
    else:
        model = Path(config.model.name_or_path).name
        data = Path(config.data.sources[0].path).name.split(".")[0]
        base = f"{time.strftime('%m%d-%H%M')}-{model}" + (f"-{data}" if data != model else "")
        base = re.sub(r"[^\w.\-]+", "-", base)[:56]
        candidates = [base, *(f"{base}-{n}" for n in range(2, 1000))]
    for name in candidates:
        try:
            (root / name).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"output_dir: {root / name} cannot be made: {error.strerror}") from error
        run = RunDirectory(root / name)
        run.write_config(config.with_whole_paths().model_copy(update={"name": name}))
        return run
    raise RunError(
        f"{root / candidates[0]}: this run exists; give another name=..., or take it up again "
        f"with `evenfall train --resume {candidates[0]}`"
    )


_NAME_A_RUN = "give a name, the start of one, or a folder; `evenfall runs` lists what there is"
_LONGEST_TOLD = 100
"""Characters of a name that is not found."""


def find_run(name: str | Path, root: str | Path = "runs") -> RunDirectory:
    """The run of that path, or of that name (or unique start of one) under `root`; else a live run of that name or
    start, wherever it was started, or a run of just that name in another folder of runs that was used.

    Raises:
        RunError: there is none, several names start so, or the name is empty.
    """
    if name == "":  # every name starts so, and the path of it is this very folder
        raise RunError("the run's name is empty", _NAME_A_RUN)
    for path in (Path(name), Path(root) / name):
        if _is_run(path):
            return RunDirectory(path)
    here = list_runs(root)
    for runs in (here, [RunDirectory(run.path) for run in live_runs()]):
        matches = [run for run in runs if run.name.startswith(str(name))]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise RunError(f"{name}: several runs start so: {', '.join(_told(run, here) for run in matches)}")
    elsewhere = [place / name for place in known_places() if _is_run(place / name)]
    if len(elsewhere) == 1:
        return RunDirectory(elsewhere[0])
    if elsewhere:
        raise RunError(f"{name}: several folders have such a run: {', '.join(map(str, elsewhere))}")
    there = ", ".join(run.name for run in here[:8]) or "none yet"
    text = str(name)
    cut = text if len(text) <= _LONGEST_TOLD else f"{text[:_LONGEST_TOLD]}…"
    raise RunError(f"{cut}: no such run in {root}/ (there: {there})")


def _is_run(path: Path) -> bool:
    return os.path.isfile(path / "run.yaml")  # unlike Path's: a name that is too long for a file is just not there


def way_to(run: Path, root: str | Path = "runs") -> str:
    """What `find_run` takes for just this run: its name, or its path where the name would find another, or none."""
    with contextlib.suppress(RunError):
        if identity(find_run(run.name, root).path) == identity(run):
            return run.name
    return str(run.absolute())


def _told(run: RunDirectory, here: list[RunDirectory]) -> str:
    return run.name if run in here else str(run.path)


def find_live_run(name: str | None, root: str | Path = "runs") -> RunDirectory:
    """The live run that a command goes to: the named one, or without a name the only one there is.

    Raises:
        RunError: there is none, several, or the named one is not live (`hint` says how it is taken up).
    """
    if name is not None:
        run = find_run(name, root)
        if not run.is_live():
            way = shlex.quote(way_to(run.path, root))
            raise RunError(f"{run.name}: no process trains it now", f"take it up: evenfall train --resume {way}")
        return run
    live = live_runs([Path(root)])
    if len(live) == 1:
        return RunDirectory(live[0].path)
    if not live:
        raise RunError("no run is live", "`evenfall runs` lists what there is")
    names, own = [run.name for run in live], identity(Path(root))
    told = [
        way_to(run.path, root) if names.count(run.name) == 1 and identity(run.path.parent) == own else str(run.path)
        for run in live
    ]
    raise RunError(f"several runs are live: {', '.join(told)}", "name the one that is meant")


def list_runs(root: str | Path = "runs") -> list[RunDirectory]:
    """Runs under a folder, the one that was active last first."""
    files = Path(root).glob("*/run.yaml")
    runs = [RunDirectory(file.parent) for file in files if not file.parent.name.startswith(".")]

    def last_activity(run: RunDirectory) -> float:
        for file in (run.events_file, run.config_file):
            with contextlib.suppress(OSError):
                return file.stat().st_mtime
        return 0.0

    return sorted(runs, key=last_activity, reverse=True)
