"""mlx-lm's YAML.

What is particular: the adapter's strength is `scale`, so lora_alpha is scale × rank; only the last
`num_layers` layers get an adapter; `iters` counts micro-batches; prompts are learnt unless
`mask_prompt`; and the base is quantised when the folder that is loaded is.
"""

from pathlib import Path
from typing import Any

from .draft import Draft, is_empty
from .handlers import (
    NO_ADAPTER,
    NO_UPLOADS,
    SMALLER_BATCH,
    Handler,
    checkpointing,
    drop,
    feature,
    is_on,
    modules,
    number,
    numeric,
    on_only,
    run_table,
    to,
    word,
)

TOOL = "mlx-lm"

_MARKS = {"lora_parameters", "iters", "fine_tune_type", "adapter_path", "num_layers"}
_LAYERS = "adapts the last layers only, {} of them; here every layer gets an adapter"


def recognise(tree: dict[str, Any]) -> bool:
    """Whether these keys are mlx-lm's."""
    return bool(_MARKS & tree.keys())


def convert(draft: Draft) -> None:
    """Say a line for every key, then the defaults of those that are not there."""
    if "model" not in draft.given:
        draft.asked("model", None, "the model is needed", "model.name_or_path=MODEL")
    if not {"data", "hf_dataset"} & draft.given.keys():
        draft.asked("data", None, "the data is needed", "data.path=FILE")
    parameters = draft.given.get("lora_parameters")
    if not isinstance(parameters, dict) or "scale" not in parameters:
        draft.asked(
            "lora_parameters.scale", None, "the default is not the same in all versions",
            "adapter.lora_alpha=NUMBER (scale × rank)",
        )  # fmt: skip
    if "num_layers" not in draft.given:
        draft.asked("num_layers", None, _LAYERS.format("by default 16"))
    run_table(draft, _TABLE)
    draft.default("lora_parameters.keys", "adapter.target_modules", "all-linear", "all linear layers")
    for key, target, value, said in (
        ("quantization", "model.quantization", "none", "the model named is not quantised"),
        ("lora_parameters.rank", "adapter.r", 8, ""),
        ("batch_size", "train.per_device_train_batch_size", 4, ""),
        ("grad_accumulation_steps", "train.gradient_accumulation_steps", 1, ""),
        ("iters", "train.max_steps", _steps(draft, 1000), ""),
        ("learning_rate", "train.learning_rate", 1e-5, ""),
        ("lr_schedule", "train.lr_scheduler_type", "constant", ""),
        ("lr_schedule.warmup", "train.warmup_steps", 0, ""),
        ("seed", "train.seed", 0, ""),
        ("mask_prompt", "data.assistant_only_loss", False, "prompts are learnt too"),
        ("save_total_limit", "train.save_total_limit", 1000, "keeps every checkpoint"),
    ):
        draft.default(key, target, value, said)
    draft.ignored("packing", None, f"there is none in mlx-lm: {SMALLER_BATCH}")


def _steps(draft: Draft, micro_batches: float) -> int:
    """Updates in so many micro-batches."""
    each = number(draft.given.get("grad_accumulation_steps")) or 1
    return max(1, int(micro_batches / each)) if 1 <= each < 1e9 else int(micro_batches)


def _model(draft: Draft, key: str, value: Any) -> None:
    name = word(value)
    if "-8bit" in name or "-6bit" in name or "-3bit" in name:
        draft.asked(
            key, value, "is quantised, but not to 4 bits; name the original",
            "model.name_or_path=MODEL",
        )  # fmt: skip
    elif name.startswith("mlx-community/") or "-4bit" in name:
        if "-4bit" in name:
            draft.tree["model.quantization"] = "nf4"
        draft.asked(
            key, value, "holds weights for MLX only; name the model that they were made from",
            "model.name_or_path=MODEL",
        )  # fmt: skip
    else:
        draft.mapped(key, value, "model.name_or_path", value)


def _data(draft: Draft, key: str, value: Any) -> None:
    """A folder with train.jsonl and valid.jsonl, or a data set of the hub."""
    if not isinstance(value, str) or "\0" in value:
        draft.refused(key, value, "expected a folder or a hub id")
        return
    for folder in (draft.file.parent / value, Path(value)):
        if folder.is_dir():
            if (valid := folder / "valid.jsonl").is_file():
                draft.tree["data.eval_path"] = str(valid)
            said = "with valid.jsonl for evaluation" if valid.is_file() else ""
            draft.mapped(key, value, "data.path", str(folder / "train.jsonl"), said)
            return
    if value.count("/") == 1 and not value.startswith(("/", ".")) and not value.endswith("/"):
        draft.mapped(key, value, "data.path", value, "no such folder here: a hub id")
    else:
        draft.asked(key, value, "there is no such folder", f"data.path={value}/train.jsonl")


def _parameters(draft: Draft, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        draft.refused(key, value, "expected rank, scale, dropout and keys")
        return
    rank = number(value.get("rank", 8))
    for name, part in value.items():
        at = f"{key}.{name}"
        if is_empty(part):
            continue
        if name == "rank":
            draft.mapped(at, part, "adapter.r", part)
        elif name == "dropout":
            draft.mapped(at, part, "adapter.lora_dropout", part)
        elif name == "scale" and (scale := number(part)) is not None and rank is not None:
            draft.mapped(at, part, "adapter.lora_alpha", numeric(scale * rank), "scale × rank")
        elif name == "keys":
            modules(draft, at, part)
        elif name == "alpha":
            draft.ignored(at, part, "mlx-lm reads scale")
        else:
            draft.unknown(at, part)


def _layers(draft: Draft, key: str, value: Any) -> None:
    if number(value) == -1:
        draft.ignored(key, value, "every layer gets an adapter")
    else:
        draft.asked(key, value, _LAYERS.format(value))


def _method(draft: Draft, key: str, value: Any) -> None:
    if word(value) == "lora":
        draft.ignored(key, value, "LoRA is what is trained")
    else:
        draft.refused(key, value, "DoRA is not there" if word(value) == "dora" else NO_ADAPTER)


def _optimizer(draft: Draft, key: str, value: Any) -> None:
    target = "train.optim"
    if word(value) == "adam":
        draft.mapped(key, value, target, "adamw_torch", "without decay, which is Adam")
    elif word(value) == "adamw":
        config = draft.given.get("optimizer_config")
        own = config.get("adamw") if isinstance(config, dict) else None
        decay = number(own.get("weight_decay")) if isinstance(own, dict) else None
        draft.mapped(key, value, target, "adamw_torch")
        draft.default(
            "optimizer_config.adamw.weight_decay", "train.weight_decay",
            0.01 if decay is None else decay, "",
        )  # fmt: skip
    else:
        draft.refused(key, value, "there is AdamW only")


def _optimizer_config(draft: Draft, key: str, value: Any) -> None:
    """Settings of the optimiser in use; those of others have no effect."""
    used = word(draft.given.get("optimizer", "adam"))
    for name, part in value.items() if isinstance(value, dict) else [("", value)]:
        at = f"{key}.{name}" if name else key
        if is_empty(part):
            continue
        if name and name != used:
            draft.ignored(at, part, f"the optimizer is {used}")
        elif isinstance(part, dict) and set(part) <= {"weight_decay", "bias_correction"} and (
            number(part.get("weight_decay", 0)) is not None
        ):  # fmt: skip
            draft.belongs(at, part, "train.weight_decay", "moments are always bias-corrected here")
        else:
            draft.unknown(at, part)


def _iters(draft: Draft, key: str, value: Any) -> None:
    amount = number(value)
    if amount is None or not 1 <= amount < 1e12:
        draft.refused(key, value, "expected a number of micro-batches")
    else:
        draft.mapped(key, value, "train.max_steps", _steps(draft, amount), "in updates")


def _cadence(target: str) -> Handler:
    def handle(draft: Draft, key: str, value: Any) -> None:
        amount = number(value)
        if target == "train.eval_steps" and "data.eval_path" not in draft.tree:
            draft.ignored(key, value, "no rows are held out")
        elif amount is None or not 1 <= amount < 1e12:
            draft.refused(key, value, "expected a number of micro-batches")
        else:
            draft.mapped(key, value, target, _steps(draft, amount), "in updates")

    return handle


def _schedule(draft: Draft, key: str, value: Any) -> None:
    """A fall over the whole run, to zero; anything else is another curve."""
    value_of = value if isinstance(value, dict) else {}
    arguments = value_of.get("arguments")
    name = word(value_of.get("name"))
    numbers = [number(one) for one in arguments] if isinstance(arguments, list) else []
    warmup = number(value_of.get("warmup", 0))
    known = name in ("cosine_decay", "linear_schedule") and set(value_of) <= {
        "name", "warmup", "warmup_init", "arguments",
    }  # fmt: skip
    if not known or warmup is None or not 2 <= len(numbers) <= 3 or None in numbers:
        draft.asked(
            key, value, "cosine_decay and linear_schedule are read, over the whole run to zero",
            "train.lr_scheduler_type=cosine", "train.lr_scheduler_type=constant",
        )  # fmt: skip
        return
    peak, length = (numbers[0], numbers[1]) if name == "cosine_decay" else (numbers[0], numbers[-1])
    end = (numbers[2] if len(numbers) == 3 else 0) if name == "cosine_decay" else numbers[1]
    total = _steps(draft, number(draft.given.get("iters")) or 1000)
    whole_run = length is not None and abs(length + warmup - total) <= 0.11 * total
    if end or not whole_run or peak is None or not 0 < peak <= 10 or warmup < 0:
        draft.asked(
            key, value, "falls to another rate than zero, or not over the whole run",
            "train.lr_scheduler_type=cosine", "train.lr_scheduler_type=constant",
        )  # fmt: skip
        return
    kind = "cosine" if name == "cosine_decay" else "linear"
    draft.tree["train.learning_rate"] = peak
    draft.tree["train.warmup_steps"] = int(warmup)
    draft.mapped(key, value, "train.lr_scheduler_type", kind, f"learning rate {peak:g}, warm-up {warmup:g}")


def _rate(draft: Draft, key: str, value: Any) -> None:
    if "lr_schedule" in draft.given:
        draft.ignored(key, value, "lr_schedule gives the rate")
    else:
        draft.mapped(key, value, "train.learning_rate", numeric(value))


_FEATURES = {
    "prompt_feature": ("prompt_completion", "prompt"),
    "completion_feature": ("prompt_completion", "completion"),
    "chat_feature": ("messages", "messages"),
    "text_feature": ("text", "text"),
}
"""Names of columns -> the format that has them, and its key."""


def _feature(draft: Draft, key: str, value: Any) -> None:
    """A column's name; the rows' format is that of the names which are given."""
    format, ours = _FEATURES[key.rpartition(".")[2]]
    given = draft.given.get("hf_dataset") if "." in key else draft.given
    named = [name for name in _FEATURES if isinstance(given, dict) and given.get(name)]
    if not isinstance(value, str):
        draft.refused(key, value, "expected a column's name")
    elif len({_FEATURES[name][0] for name in named}) > 1:
        draft.asked(
            key, value, "names columns of several formats; which one rows have decides there",
            f"data.format={format}",
        )  # fmt: skip
    else:
        draft.tree["data.format"] = format
        columns = draft.tree.setdefault("data.columns", {})
        if value != ours:
            columns[ours] = value
        draft.belongs(key, value, f"data.columns={{{ours}: {value}}}", f"data.format={format}")


def _hub(draft: Draft, key: str, value: Any) -> None:
    """A hub data set, with the names of its columns."""
    if not isinstance(value, dict):
        draft.asked(key, value, "several data sets, or none", "data.datasets=[{path: HUB_ID}]")
        return
    for name, part in value.items():
        at = f"{key}.{name}"
        if is_empty(part):
            continue
        if name in ("path", "name"):
            draft.mapped(at, part, "data.path", part)
        elif name in _FEATURES:
            _feature(draft, at, part)
        elif name in ("train_split", "valid_split"):
            ours = "data.split=train" if name == "train_split" else "data.eval_fraction=0.05"
            if name == "train_split" and isinstance(part, str) and part.isidentifier():
                draft.mapped(at, part, "data.split", part)
            else:
                draft.asked(at, part, "a split's name is taken, no slice of one, and one split", ours)
        elif name == "mask_prompt":
            _mask(draft, at, part)
        elif name == "test_split":
            _TESTING(draft, at, part)
        else:
            draft.unknown(at, part)


_TESTING = drop("there is no test after training")


def _mask(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.tree["data.assistant_turns"] = "last"
        draft.mapped(key, value, "data.assistant_only_loss", True, "data.assistant_turns=last")
    else:
        draft.mapped(key, value, "data.assistant_only_loss", False, "prompts are learnt too")


_TABLE: dict[str, Handler] = {
    "model": _model,
    "train": on_only("training is what is done", "the file trains nothing"),
    "fine_tune_type": _method,
    "data": _data,
    "hf_dataset": _hub,
    **dict.fromkeys(_FEATURES, _feature),
    "lora_parameters": _parameters,
    "num_layers": _layers,
    "lora_layers": _layers,
    "optimizer": _optimizer,
    "optimizer_config": _optimizer_config,
    "seed": to("train.seed"),
    "batch_size": to("train.per_device_train_batch_size"),
    "grad_accumulation_steps": to("train.gradient_accumulation_steps"),
    "iters": _iters,
    "val_batches": drop("all held-out rows are evaluated"),
    "learning_rate": _rate,
    "lr_schedule": _schedule,
    "steps_per_report": drop("every step is logged"),
    "steps_per_eval": _cadence("train.eval_steps"),
    "save_every": _cadence("train.save_steps"),
    "resume_adapter_file": feature("goes on with an adapter; here each run starts a new one"),
    "adapter_path": to("output_dir", "the folder that holds run folders"),
    "test": _TESTING,
    "test_batches": _TESTING,
    "max_seq_length": to("data.max_length"),
    "grad_checkpoint": checkpointing,
    "clear_cache_threshold": drop("memory is planned before the first step"),
    "mask_prompt": _mask,
    "wandb": drop(NO_UPLOADS),
    "report_to": drop(NO_UPLOADS),
    "project_name": drop(NO_UPLOADS),
    "config": drop("names this file"),
}
"""Key -> what is done with it."""
