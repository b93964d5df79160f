"""Out of memory in the middle of a run: an event, not an end.

Frees what the failed step held, offers the ladder (`memory/ladder.py`), and applies what a person, or the policy
`train.on_oom`, chooses. The loop then does the failed part once more.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..config.run_config import RunConfig, parse_config
from ..machine.memory import read_memory
from ..memory.ladder import MARGIN_STEP, WIDEST_MARGIN, ModelSizes, deeper_plan, rungs_for_step
from ..memory.oom import free_memory
from ..run.commands import ApplyRecovery, Stop
from ..run.control import Control
from ..run.events import OutOfMemory, RecoveryApplied, Rung
from .checkpoint import save_now
from .state import Ending, OutOfMemoryEnd, Run


def answer(run: Run, trouble: OutOfMemory) -> Ending | None:
    """Free what the failure held, offer what helps, and apply what is chosen.

    Returns:
        None: do the failed part once more; `restart`: `run.config` asks for a new adapter;
        `stopped` and `abandoned`: end, with or without saving.

    Raises:
        OutOfMemoryEnd: nobody can answer; a checkpoint was written.
    """
    run.optimizer.zero_grad()
    free_memory(run.trained.device)
    needed_gb = trouble.at_gb - trouble.before_gb + (trouble.requested_gb or 0.0)
    lengths = run.data.train.lengths().tolist()
    rungs = rungs_for_step(run.config, lengths, ModelSizes.of(run.trained), trouble.before_gb, needed_gb)
    margin = run.state.memory_margin
    wider = min(WIDEST_MARGIN, margin + MARGIN_STEP)
    if run.plan is not None and run.plan.saves_more and wider > margin:
        rungs.insert(0, deeper_plan(trouble.limit_gb * (1 - wider)))
    if trouble.phase == "evaluation":  # it keeps nothing for a backward that could be recomputed
        rungs = [rung for rung in rungs if rung.id != "recompute"]
    run.control.emit(replace(trouble, after_gb=read_memory(run.trained.device).now_gb, rungs=rungs))
    run.control.set_state("out-of-memory", f"paused after step {run.state.step}, nothing lost")
    try:
        rung, automatic = choose(run.config.train.on_oom, rungs, run.control, run.state.step)
    except OutOfMemoryEnd:
        save_now(run)
        raise
    if isinstance(rung, Stop):
        if rung.save:
            save_now(run)
        return "stopped" if rung.save else "abandoned"
    run.config = apply_changes(run.config, rung)
    run.directory.write_config(run.config)
    run.control.emit(RecoveryApplied(step=run.state.step, rung=rung.id, title=rung.title, automatic=automatic))
    if rung.id == "rank":
        return "restart"
    run.state.memory_margin = wider  # what was counted on was not there
    run.fit_memory()
    save_now(run)  # from here on, run.yaml and the newest checkpoint must agree
    run.control.set_state("training")
    return None


def choose(on_oom: str, rungs: Sequence[Rung], control: Control, step: int) -> tuple[Rung | Stop, bool]:
    """The rung that a person or the policy picks (or a Stop), and whether the policy did.

    Raises:
        OutOfMemoryEnd: the policy has nothing to apply and nobody is there to ask.
    """
    safe = [rung for rung in rungs if rung.keeps_result]
    if on_oom == "recover" and safe:
        return safe[0], True
    while on_oom != "fail" and control.attended:
        asked = control.next_command(0.5)
        if asked is None:
            continue
        match asked.command:
            case Stop() as stop:
                control.applied(asked, step)
                return stop, False
            case ApplyRecovery(chosen):
                for rung in rungs:
                    if rung.id == chosen:
                        control.applied(asked, step, rung.title)
                        return rung, False
                control.refuse(asked, f"there is no rung {chosen!r}")
            case _:
                control.refuse(asked, "the run waits for an answer: apply a rung or stop")
    ways = [" ".join(f"{key}={value}" for key, value in rung.changes.items()) for rung in rungs if rung.changes]
    hint = f"resume with one of: {'; '.join(ways)}" if ways else "take a smaller model"
    raise OutOfMemoryEnd("out of memory, and nobody to ask", hint)


def apply_changes(config: RunConfig, rung: Rung) -> RunConfig:
    """The configuration with a rung's changes."""
    tree = config.model_dump(mode="json")
    for key, value in rung.changes.items():
        section, name = key.split(".")
        tree[section][name] = value
    return parse_config(tree)
