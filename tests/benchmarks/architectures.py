"""Trains three steps of every causal architecture that the installed transformers has, on a CPU or on a GPU.

    python tests/benchmarks/architectures.py --out FOLDER [--device cpu | cuda]
        [--kinds causal pictures] [--only NAME ...] [--quantization none nf4] [--quick] [--resume] [--jobs N]

Families of the table in `engine/model/families/` are tested one by one; this asks what becomes of all the others, a few
hundred of them, when a user names one: that it trains, or is refused in a true sentence. For each a tiny random
checkpoint is made on the spot (`tiny_configs.py`, `tiny_checkpoints.py`), saved with a word tokenizer, and trained
through `Session` and `run_headless`, once for each quantization, every run in a forked child with a time limit, since
some take the process with them. All 196 of transformers 5.24 take some ten minutes of one core.

Results go to FOLDER/results.jsonl as they come and to FOLDER/table.md at the end; one line for each goes to stdout.
An outcome is one of

    trains          three finite losses, and no more told than the app tells
    refused         an error for a person (`UserError`): message and hint
    FAULT           any other error, a hang, a crash, or a loss that is not finite
    not made tiny   no checkpoint that transformers itself could compute with was made

and beside it stand what no error shows: weights that the checkpoint had and the model did not take (or the other way
about), a model that sees later tokens, adapters that learnt nothing, and how much of the model is 4-bit.
"""

# -- training it ------------------------------------------------------------------------------------------------------

import argparse
import faulthandler
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import torch
from safetensors.torch import load_file
from tiny_checkpoints import build, in_four_bits, rows_into, short, where
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto as auto

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.errors import UserError
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.headless import run_headless
from evenfall.engine.session.imports import import_for_run
from evenfall.engine.session.session import Session

Told = dict[str, Any]


def train(model: Path, rows: Path, runs: Path, quantization: str, device: str) -> Told:
    """Three steps of a run on `device`, and what became of it."""
    config = parse_config(
        {
            "output_dir": str(runs),
            "name": f"{model.name}.{quantization}",
            "model": {"name_or_path": str(model), "quantization": quantization},
            "adapter": {"r": 4, "lora_alpha": 8},
            "data": {"path": str(rows), "max_length": 64},
            "train": {
                "max_steps": 3, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
                "warmup_steps": 0, "device": device, "save_steps": 1000,
            },
        }
    )  # fmt: skip
    directory = create_run(config)
    events: list[ev.Event] = []
    run_headless(Session(directory), events.append, poll_seconds=0.02)
    steps = [event for event in events if isinstance(event, ev.Step)]
    failed = next((event for event in events if isinstance(event, ev.Failed)), None)
    finished = next((event for event in events if isinstance(event, ev.Finished)), None)
    told: Told = {
        "outcome": "FAULT",
        "message": "",
        "losses": [step.loss for step in steps],
        "alerts": [event.message for event in events if isinstance(event, ev.Alert)],
    }
    if finished is not None and finished.adapter:
        told["unmoved"] = unmoved(directory.path / finished.adapter)
    if failed is not None:
        log = directory.log_file.read_text() if directory.log_file.exists() else ""
        kind, at, inside = from_traceback(log)
        if kind.rpartition(".")[2] in {error.__name__ for error in _below(UserError)}:
            told["outcome"] = "refused"
        told |= {"message": failed.message, "hint": failed.hint}
        told |= {"error": kind, "where": at, "inside": inside, "log": log[-6000:]}
    elif finished is None or len(steps) < 3:
        told["message"] = f"ended after {len(steps)} steps"
    elif not all(map(math.isfinite, told["losses"])):
        told["message"] = f"losses {told['losses']}"
    elif any(step.skipped for step in steps):
        told["message"] = f"gradient norms {[step.grad_norm for step in steps]}"
    else:
        told["outcome"] = "trains"
    return told


def _below(error: type[Exception]) -> list[type[Exception]]:
    return [error, *(one for child in error.__subclasses__() for one in _below(child))]


def unmoved(folder: Path) -> list[str]:
    """Modules whose B is all zero after three steps; layers' numbers left out."""
    moved: dict[str, bool] = {}
    for file in folder.glob("*.safetensors"):
        for key, value in load_file(file).items():
            if ".lora_B" in key:
                module = key.partition(".lora_B")[0].removeprefix("base_model.model.")
                module = re.sub(r"\.\d+", ".N", module)
                moved[module] = moved.get(module, True) and bool(value.any())
    return [name for name, any_ in moved.items() if not any_]


def from_traceback(log: str) -> tuple[str, str, str]:
    """Class of the last error in a log, its innermost frame, and Evenfall's own innermost frame."""
    block = log.rpartition("the run failed")[2]
    last = block.rpartition("Traceback (most")[2]
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', last)
    kinds = re.findall(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?::|$)", block, re.MULTILINE)
    kinds = [kind for kind in kinds if kind != "Traceback"]
    at = [f"{short(file)}:{line} in {name}" for file, line, name in frames]
    ours = [a for a, (file, _, _) in zip(at, frames, strict=True) if "site-packages" not in file]
    return (kinds[-1] if kinds else "?"), (at[-1] if at else ""), (ours[-1] if ours else "")


def in_child(work: Callable[[], Told], seconds: float, scratch: Path) -> Told:
    """What `work` returns, computed in a forked child; how the child ended where it returns nothing."""
    answer, output = scratch / "answer.json", scratch / "output.txt"
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            _answer(work, seconds, answer, output)
        finally:
            os._exit(0)
    until = time.monotonic() + seconds
    done = status = 0
    while not done and time.monotonic() < until:
        time.sleep(0.02)
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        how = f"hang: over {seconds:.0f} s"
    elif answer.exists():
        return json.loads(answer.read_text())
    else:
        signalled = os.WIFSIGNALED(status)
        how = f"crash: signal {os.WTERMSIG(status)}" if signalled else f"crash: exit {status}"
    tail = output.read_text(errors="replace")[-3000:] if output.exists() else ""
    return {"died": how, "output": tail}


def _answer(work: Callable[[], Told], seconds: float, answer: Path, output: Path) -> None:
    """In the child: what it prints, and where it hangs, goes to a file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1, seconds - 3))
    try:
        told = work()
    except Exception as error:  # noqa: BLE001 - of any architecture's code
        told = {
            "died": f"{type(error).__name__}: {error}"[:1500],
            "where": where(error),
            "output": traceback.format_exc()[-3000:],
        }
    answer.write_text(json.dumps(told, default=str))


def one(model_type: str, out: Path, rows: Path, options: argparse.Namespace) -> list[Told]:
    """The results of one architecture, one for each quantization."""
    folder, runs = out / "models" / model_type, out / "runs"
    if options.device == "cpu" and model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:  # imported here once, too
        auto.MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    shutil.rmtree(folder, ignore_errors=True)
    start = time.monotonic()
    built = in_child(lambda: build(model_type, folder), options.seconds, out)
    if "loads_as" in built and "own_forward" not in built and not options.quick:
        told = in_child(lambda: in_four_bits(folder), options.seconds, out)
        built["four_bits"] = {"error": told["died"]} if "died" in told else told
    base = {"model_type": model_type, "built": built}
    if "died" in built:
        said = {"message": built["died"], "where": built.get("where", "")}
        return [{**base, "quantization": "", "outcome": "not made tiny", **said}]
    found: list[Told] = []
    for quantization in options.quantization[: 1 if built.get("only_config") else None]:
        run = runs / f"{model_type}.{quantization}"
        shutil.rmtree(run, ignore_errors=True)
        told = in_child(lambda q=quantization: train(folder, rows, runs, q, options.device), options.seconds, out)
        if "died" in told:
            told |= {"outcome": "FAULT", "message": told["died"]}
        found.append({**base, "quantization": quantization, **told})
        shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    found[-1]["seconds"] = round(time.monotonic() - start, 1)
    return found


def notes(result: Told) -> str:
    """What stands beside an outcome: what no error shows."""
    built, said = result["built"], []
    for key in ("own_load", "own_forward", "own_backward"):
        if built.get(key):
            said.append(f"transformers alone fails too: {built[key][:300]}")
    if built.get("missing"):
        said.append(f"weights not in the checkpoint: {', '.join(built['missing'][:4])}")
    if built.get("mismatched"):
        said.append("weights of other shapes")
    if built.get("later"):
        of = f"their gradient: {built['later']:.1e}, of earlier ones {built['earlier']:.1e}"
        said.append(f"SEES LATER TOKENS ({of})")
    elif (built.get("seen") or 0) > 1e-5:
        of = f"{built['seen']:.1e} (the last one's: {built['changed']:.1e})"
        said.append(f"later tokens change earlier logits by {of}")
    four = built.get("four_bits") or {}
    if result["quantization"] == "nf4":
        if four.get("error"):
            said.append(f"transformers alone in NF4: {four['error'][:200]}")
        if four.get("apart", 0) > 1e-3:
            said.append(f"NF4 IS {four['apart']:.1e} APART from the same weights dequantised")
        if four.get("share", 1) < 0.5:
            said.append(f"only {four['share']:.0%} are 4-bit: not {', '.join(four['wide'])}")
    if result.get("unmoved"):
        said.append(f"adapters that learnt nothing: {', '.join(result['unmoved'])}")
    return "; ".join(said)


def outcome(result: Told) -> str:
    """An outcome in words, on one line."""
    if result["outcome"] == "trains":
        first, *_, last = result["losses"]
        return f"trains ({first:.3f} -> {last:.3f})"
    keys = ("hint", "error", "where", "inside")
    if result["outcome"] == "refused":
        keys = ("hint",)
    said = [result["message"], *(str(result.get(key)) for key in keys)]
    return f"{result['outcome']}: {' | '.join(said)}".replace("\n", " / ")[:700]


def line(result: Told) -> str:
    """A result, for stdout."""
    extra = notes(result)
    name = f"{result['model_type']:<28} {result['quantization']:<5} "
    return name + outcome(result) + (f"  [{extra}]" if extra else "")


def table(results: list[Told]) -> str:
    """All results as markdown, counts first."""
    counts = Counter((r["quantization"], r["outcome"]) for r in results)
    head = [f"* {q or '-'}: {outcome}: {n}" for (q, outcome), n in sorted(counts.items())]
    body = ["| architecture | quantization | outcome | notes |", "|---|---|---|---|"]
    for r in sorted(results, key=lambda r: (r["model_type"], r["quantization"])):
        cells = [r["model_type"], r["quantization"], outcome(r), notes(r)]
        body.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*head, "", *body, ""])


def names(kinds: list[str]) -> list[str]:
    """Model types of these kinds, in transformers' order."""
    found: list[str] = []
    if "causal" in kinds:
        found += list(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if "pictures" in kinds:
        found += list(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    known = set(CONFIG_MAPPING.keys())
    return [name for name in dict.fromkeys(found) if name in known]


def sweep(options: argparse.Namespace, file: Path) -> None:
    """Every name, by `options.jobs` processes of this program, whose results become one file and one table."""
    everyone = options.only or names(options.kinds)
    passed = [f"--device={options.device}", f"--seconds={options.seconds}", "--quantization", *options.quantization]
    passed += ["--quick"] * options.quick + ["--only"]
    folders = [options.out / f"job-{number}" for number in range(min(options.jobs, len(everyone)))]
    processes = [
        subprocess.Popen([sys.executable, __file__, "--out", folder, *passed, *everyone[number :: len(folders)]])
        for number, folder in enumerate(folders)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"a job did not come to its end; what all found is under {options.out}")
    texts = [text for folder in folders for text in (folder / "results.jsonl").read_text().splitlines()]
    file.write_text("".join(f"{text}\n" for text in texts))
    report(options.out, [json.loads(text) for text in texts])


def report(out: Path, results: list[Told]) -> None:
    (out / "table.md").write_text(table(results))
    print(Counter((r["quantization"], r["outcome"]) for r in results))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="*", default=[], help="model types, tried anew")
    parser.add_argument("--kinds", nargs="*", default=["causal"], choices=["causal", "pictures"])
    parser.add_argument("--quantization", nargs="*", default=["none", "nf4"])
    parser.add_argument("--seconds", type=float, default=90, help="that one child may take")
    parser.add_argument("--quick", action="store_true", help="leave out NF4 by transformers alone")
    parser.add_argument("--resume", action="store_true", help="leave out what results.jsonl has")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with its share of the names")
    options = parser.parse_args()
    if options.jobs > 1 and options.resume:
        parser.error("--resume takes one process, without --jobs")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    rows, file = out / "rows.jsonl", out / "results.jsonl"
    rows_into(rows)
    if options.jobs > 1:
        sweep(options, file)
        return
    if options.device == "cpu":  # here once, not in every child; but CUDA outlives no fork
        os.environ["TRITON_INTERPRET"] = "1"
        import_for_run("cpu")
    torch.set_num_threads(1)
    results: list[Told] = []
    if (options.resume or options.only) and file.exists():
        results = [json.loads(text) for text in file.read_text().splitlines()]
        results = [r for r in results if r["model_type"] not in options.only]
    done = {r["model_type"] for r in results}
    with file.open("w") as sink:
        sink.writelines(json.dumps(r, default=str) + "\n" for r in results)
        for model_type in options.only or names(options.kinds):
            if model_type in done:
                continue
            for result in one(model_type, out, rows, options):
                results.append(result)
                sink.write(json.dumps(result, default=str) + "\n")
                sink.flush()
                print(line(result), flush=True)
    report(out, results)


if __name__ == "__main__":
    main()
