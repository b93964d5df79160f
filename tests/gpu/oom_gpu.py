"""Out of memory for real on a GPU, answered by a key in the app and by the policy without one.

    python tests/gpu/oom_gpu.py MODEL_FOLDER DATA_FILE

After three steps the card is capped (`torch.cuda.set_per_process_memory_fraction`) between what the run holds
and what a step needs. Three runs: not capped; capped and answered with the key `1` in the Train screen;
capped with `train.on_oom=recover`. Each must do every step once, in order, with the losses of the first
(rounding apart: 1e-2 relative). Prints memory before, at and after the failure.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session
from evenfall.tui.app import EvenfallApp

STEPS, CAP_AFTER = 10, 3


def make_session(args: argparse.Namespace, name: str, folder: Path, on_oom: str) -> Session:
    config = parse_config(
        {
            "name": name,
            "output_dir": str(folder),
            "model": {"name_or_path": args.model},
            "data": {"path": args.data, "max_rows": args.rows, "max_length": 1024},
            "train": {
                "max_steps": STEPS, "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 1, "learning_rate": 5e-4, "warmup_steps": 0,
                "on_oom": on_oom, "device": "cuda",
            },
        }
    )  # fmt: skip
    return Session(create_run(config), attended=on_oom == "ask")


def cap_after_steps(session: Session) -> None:
    """Once three steps are done, leave room for just over half of what a step takes."""
    while True:
        steps = [e for e in session.events_since(0) if isinstance(e, ev.Step)]
        if len(steps) >= CAP_AFTER:
            break
        time.sleep(0.002)
    total = torch.cuda.get_device_properties(0).total_memory
    held, peak = min(step.memory_gb for step in steps), steps[-1].memory_peak_gb
    torch.cuda.set_per_process_memory_fraction((held + 0.62 * (peak - held)) * 1e9 / total)
    torch.cuda.empty_cache()


def uncap() -> None:
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


async def answer_in_app(session: Session, folder: Path) -> None:
    """Run the session in the app and press `1` when it asks."""
    app = EvenfallApp(root=folder, train=session)
    async with app.run_test(size=(120, 36)) as pilot:
        answered = None
        while not session.done:
            await pilot.pause(0.1)
            question = app.desk.live.progress.out_of_memory if app.desk.live else None
            if question is not None and question is not answered:
                await pilot.pause(0.6)
                print(f"  the app shows {type(app.screen).__name__}; pressing 1", flush=True)
                await pilot.press("1")
                answered = question


def report(session: Session) -> list[float]:
    """Losses by step; exits where a step is missing or repeated."""
    steps = {}
    for event in session.events_since(0):
        match event:
            case ev.Step():
                assert event.step == len(steps) + 1, f"step {event.step} after {len(steps)}"
                steps[event.step] = event.loss
            case ev.OutOfMemory():
                print(
                    f"  out of memory after step {event.step}: before {event.before_gb:.3f} GB, at "
                    f"{event.at_gb:.3f} (asked for {event.requested_gb}), after freeing "
                    f"{event.after_gb:.3f}, limit {event.limit_gb:.3f}"
                )
                for rung in event.rungs:
                    print(f"    {rung.id}: {rung.title}, peak {rung.peak_gb} GB; {rung.effect}")
            case ev.RecoveryApplied():
                print(f"  applied {rung_words(event)} after step {event.step}")
            case ev.Failed():
                print(f"  failed: {event.message} {event.hint}")
            case _:
                pass
    assert session.state == "finished" and len(steps) == STEPS, (session.state, len(steps))
    peak = max(s.memory_peak_gb for s in session.events_since(0) if isinstance(s, ev.Step))
    print(f"  finished, {len(steps)} steps once each, peak {peak:.3f} GB")
    return list(steps.values())


def rung_words(event: ev.RecoveryApplied) -> str:
    return f"{event.rung} ({event.title}; {'automatic' if event.automatic else 'by key'})"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--rows", type=int, default=1000)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    losses = {}
    for name, on_oom in (("free", "fail"), ("key", "ask"), ("policy", "recover")):
        print(f"{name}: on_oom={on_oom}", flush=True)
        session = make_session(args, name, folder, on_oom)
        if name != "free":
            threading.Thread(target=cap_after_steps, args=(session,), daemon=True).start()
        if name == "key":
            asyncio.run(answer_in_app(session, folder))
        else:
            session.start()
            session.wait()
        losses[name] = report(session)
        uncap()
    worst = max(abs(a - b) / b for name in ("key", "policy") for a, b in zip(losses[name], losses["free"], strict=True))
    print(f"worst relative loss difference from the run without a cap: {worst:.1e}")
    return 0 if worst < 1e-2 else 1


if __name__ == "__main__":
    sys.exit(main())
