"""Merged exports opened by two versions of transformers: token ids and logits, the base against the export.

    python tests/benchmarks/exported_families.py OUT --old PYTHON [--models FOLDER] [--only NAME ...]

PYTHON is the interpreter of an environment with transformers 4 (4.57); what runs this has 5. Models are the folders
in FOLDER (tiny ones with real tokenizers), and a tiny random one of each family of the table, made on the spot with
positions, and a base of them, that are no default. On each an adapter is put whose update is large enough to see, it is
exported as a run's is, and both versions open what was written: ids of texts and of rendered chats must equal what the
base's own tokenizer gives in that version ("unlike in 5": it gives other ids there than here), and logits those of base
plus adapter here (the relative distance is told). One line for each goes to stdout, all to OUT/table.md; 25 families
take a minute of one core.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

_PROBE = [3, 20, 21, 22, 7, 8, 9, 4, 9, 8, 7, 30, 31, 32, 33, 12, 11, 10, 6, 5, 18, 24, 17, 6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--old", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--models", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    from evenfall.engine.model.families.table import FAMILIES
    from evenfall.engine.model.load import quiet_libraries

    quiet_libraries()
    real = sorted(args.models.iterdir()) if args.models else []
    names = [*(str(folder) for folder in real if folder.is_dir()), *FAMILIES]
    lines = ["family | ids texts 5, 4 | ids chats 5, 4 | logits 5 | logits 4", "--- | --- | --- | --- | ---"]
    for name in names:
        short = Path(name).name
        if args.only and short not in args.only:
            continue
        lines.append(f"{short} | {_row(name, args.out, args.old)}")
        print(lines[-1], flush=True)
    (args.out / "table.md").write_text("\n".join(lines) + "\n")


def _row(name: str, out: Path, old: Path) -> str:
    """The cells of one model."""
    try:
        base = Path(name) if os.sep in name else _tiny(name, out / "models" / name)
        run = _exported(base, out / "runs")
    except Exception as error:  # noqa: BLE001 - of any family's code
        return f"not exported: {type(error).__name__}: {str(error).splitlines()[0][:160]}"
    told = [_opened(python, base, run.exports) for python in (Path(sys.executable), old)]
    cells = [", ".join(one[kind] for one in told) for kind in ("texts", "chats")]
    return " | ".join([*cells, *(one["logits"] for one in told)])


def _tiny(model_type: str, folder: Path) -> Path:
    """A random model of this family, with the demo's tokenizer."""
    import torch
    from tiny_configs import tiny_config
    from transformers import AutoModelForCausalLM

    from evenfall.presets.load import demo_folder

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(demo_folder() / "model", folder, ignore=shutil.ignore_patterns("*.safetensors", "gen*", "config*"))
    config = tiny_config(model_type)
    text = config.get_text_config()
    text.vocab_size, text.eos_token_id = 1024, 3
    rope = text.rope_parameters
    for part in [value for value in rope.values() if isinstance(value, dict)] or [rope]:
        local = "gemma3" in model_type and part is rope.get("sliding_attention")
        part["rope_theta"] = 321.0 if local else 654.0  # transformers 4 has one base for all layers but in Gemma 3
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # attention that looks about, so that positions count
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    model.save_pretrained(str(folder))
    return folder


def _exported(base: Path, runs: Path) -> Any:
    """A run on the base, whose adapter was not trained but drawn, exported in float32."""
    import torch
    from safetensors.torch import save_file

    from evenfall.engine.config.run_config import parse_config
    from evenfall.engine.export.run import export_run
    from evenfall.engine.export.token_ids import chats_of, texts_of
    from evenfall.engine.model.adapter import add_adapter, save_adapter
    from evenfall.engine.model.load import load_base
    from evenfall.engine.model.tokenizer import load_tokenizer
    from evenfall.engine.run.find import create_run

    tree = {"name": base.name, "output_dir": str(runs), "model": {"name_or_path": str(base), "quantization": "none"},
            "adapter": {"r": 4}, "train": {"device": "cpu"}, "export": {"dtype": "float32"}}  # fmt: skip
    shutil.rmtree(runs / base.name, ignore_errors=True)
    config = parse_config(tree)
    run = create_run(config)
    loaded = load_base(config.model, torch.device("cpu"), lambda text, fraction: None, packed=False)
    model = add_adapter(loaded.model, config.adapter, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    run.adapter.mkdir()
    save_adapter(model, run.adapter)
    model.eval()
    with torch.no_grad():
        live = model(torch.tensor([_PROBE]), use_cache=False).logits
    export_run(run, ["merged", "adapter"], report=lambda text, fraction: None)
    save_file({"logits": live}, str(run.exports / "live.safetensors"))
    tokenizer = load_tokenizer(config)
    texts = [(text, []) for text in texts_of(tokenizer)]
    told = _ids(tokenizer, {"texts": texts, "chats": list(chats_of(tokenizer))})
    (run.exports / "live.json").write_text(json.dumps(told))
    return run


def _opened(python: Path, base: Path, exports: Path) -> dict[str, str]:
    """What one version of transformers says of what was exported."""
    done = subprocess.run(
        [str(python), __file__, "--open", str(base), str(exports)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "does not recognize this architecture" in done.stderr:
        return dict.fromkeys(("texts", "chats", "logits"), "unknown")
    return {"texts": "-", "chats": "-", "logits": (done.stderr.splitlines() or ["?"])[-1][:160]}


def _open(base: str, exports: str) -> None:
    """In either version, without a module of ours: compare, and print it as JSON."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    wanted = json.loads((Path(exports) / "live.json").read_text())
    told: dict[str, Any] = {"texts": "", "chats": ""}
    try:
        here, note = _ids(AutoTokenizer.from_pretrained(base), wanted), ""
    except ValueError:  # of a class that this version does not know
        here, note = wanted, ""
    if here != wanted:
        note = " (unlike in 5)"
    for folder in ("merged", "adapter"):
        got = _ids(AutoTokenizer.from_pretrained(f"{exports}/{folder}"), wanted)
        for kind in ("texts", "chats"):
            pairs = zip(got[kind], here[kind], strict=True)
            same = sum(one[-1] == other[-1] for one, other in pairs)
            told[kind] = min(told[kind] or "~", f"{same}/{len(here[kind])}{note}")
    merged = AutoModelForCausalLM.from_pretrained(f"{exports}/merged", torch_dtype=torch.float32).eval()
    live = load_file(f"{exports}/live.safetensors")["logits"]
    with torch.no_grad():
        given = merged(torch.tensor([_PROBE]), use_cache=False).logits
    told["logits"] = f"{((given - live).norm() / live.norm()).item():.0e}"
    print(json.dumps(told))


def _ids(tokenizer: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The texts and chats of `wanted` with the ids that this tokenizer gives."""
    chats = []
    for messages, prompt, _ in wanted["chats"]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        chats.append([messages, prompt, tokenizer(text, add_special_tokens=False)["input_ids"]])
    return {"texts": [[text, tokenizer(text)["input_ids"]] for text, _ in wanted["texts"]], "chats": chats}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        _open(*sys.argv[2:])
    else:
        main()
