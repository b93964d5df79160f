"""Unsloth's YAML: `model`, and the sections data, training, lora and logging.

Its trainer is TRL's with 8-bit AdamW and a rate that falls linearly; both stand in no file.
"""

from typing import Any

from .draft import Draft
from .handlers import (
    EVERY_STEP,
    LOSSLESS,
    NO_ADAPTER,
    NO_UPLOADS,
    SMALLER_BATCH,
    Handler,
    checkpointing,
    drop,
    feature,
    flag,
    is_off,
    is_on,
    modules,
    number,
    on_only,
    optimizer,
    run_table,
    schedule,
    to,
    word,
)

TOOL = "Unsloth Studio"

_SECTIONS = ("data", "training", "lora", "logging")
_ENOUGH = 3
"""Keys of Studio's that no other tool has together."""
_FORMATS = {
    "auto": "auto", "alpaca": "alpaca", "chatml": "messages", "sharegpt": "sharegpt",
    "conversational": "messages", "raw": "text",
}  # fmt: skip
_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def recognise(tree: dict[str, Any]) -> bool:
    """Whether these sections are Studio's: other tools have sections of the same names, and other keys in them."""
    known = flatten(tree).keys() & _TABLE.keys()
    return len(known) >= _ENOUGH and any(key.startswith(("training.", "lora.")) for key in known)


def flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """Sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key in _SECTIONS and isinstance(value, dict):
            flat |= {f"{key}.{name}": part for name, part in value.items()}
        else:
            flat[key] = value
    return flat


def convert(draft: Draft) -> None:
    """Say a line for every key, then the defaults of those that are not there."""
    if "model" not in draft.given:
        draft.asked("model", None, "the model is needed", "model.name_or_path=MODEL")
    if not {"data.dataset", "data.local_dataset"} & draft.given.keys():
        draft.asked("data.dataset", None, "the data is needed", "data.path=FILE")
    run_table(draft, _TABLE)
    for key, target, value, said in (
        ("lora.lora_r", "adapter.r", 64, ""),
        ("lora.lora_alpha", "adapter.lora_alpha", 16, ""),
        ("lora.target_modules", "adapter.target_modules", _PROJECTIONS, ""),
        ("training.num_epochs", "train.num_train_epochs", 3, ""),
        ("training.batch_size", "train.per_device_train_batch_size", 2, ""),
        ("training.gradient_accumulation_steps", "train.gradient_accumulation_steps", 4, ""),
        ("training.weight_decay", "train.weight_decay", 0.01, ""),
        ("training.random_seed", "train.seed", 3407, ""),
        ("training.train_on_completions", "data.assistant_only_loss", False, ""),
        ("training.optim", "train.optim", "adamw_8bit", ""),
        ("training.lr_scheduler_type", "train.lr_scheduler_type", "linear", ""),
    ):
        draft.default(key, target, value, said)
    if "training.packing" not in draft.given:
        draft.ignored("training.packing", None, f"is not set: {SMALLER_BATCH}")


def _local(draft: Draft, key: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if len(names) == 1 and isinstance(names[0], str) and "data.dataset" not in draft.given:
        draft.mapped(key, value, "data.path", names[0])
    elif all(isinstance(name, str) and name for name in names):
        draft.asked(key, value, "several data sets", "data.datasets=[{path: FILE}, {path: FILE}]")
    else:
        draft.refused(key, value, "expected names of files")


def _format(draft: Draft, key: str, value: Any) -> None:
    draft.mapped(key, value, "data.format", _FORMATS.get(word(value), value))


def _type(draft: Draft, key: str, value: Any) -> None:
    if word(value) == "lora":
        draft.ignored(key, value, "LoRA is what is trained")
    else:
        draft.refused(key, value, NO_ADAPTER)


def _four_bits(draft: Draft, key: str, value: Any) -> None:
    draft.mapped(key, value, "model.quantization", "nf4" if is_on(value) else "none")


def _unless_zero(target: str, why: str) -> Handler:
    def handle(draft: Draft, key: str, value: Any) -> None:
        amount = number(value)
        if amount is not None and amount <= 0:
            draft.ignored(key, value, why)
        else:
            draft.mapped(key, value, target, value)

    return handle


def _epochs(draft: Draft, key: str, value: Any) -> None:
    steps = number(draft.given.get("training.max_steps"))
    if number(value) == 0 and steps and steps > 0:
        draft.ignored(key, value, "0: max_steps decides")
    else:
        draft.mapped(key, value, "train.num_train_epochs", value)


def _warmup_ratio(draft: Draft, key: str, value: Any) -> None:
    amount = number(value)
    if number(draft.given.get("training.warmup_steps")):
        draft.ignored(key, value, "warmup_steps is set, and wins")
    elif amount is None or not 0 <= amount < 1:
        draft.refused(key, value, "expected a share from 0 to below 1; warmup_steps takes a number of steps")
    else:
        draft.mapped(key, value, "train.warmup_steps", amount)


def _packing(draft: Draft, key: str, value: Any) -> None:
    if is_off(value):
        draft.ignored(key, value, SMALLER_BATCH)
    else:
        draft.ignored(key, value, "rows are always packed, and never see each other")


_LOGS = drop(NO_UPLOADS)
_PART = on_only("all linear layers of the language model are in reach", "choose layers by "
                "lora.target_modules instead")  # fmt: skip

_TABLE: dict[str, Handler] = {
    "model": to("model.name_or_path"),
    "data.dataset": to("data.path"),
    "data.local_dataset": _local,
    "data.format_type": _format,
    "training.training_type": _type,
    "training.max_seq_length": to("data.max_length"),
    "training.load_in_4bit": _four_bits,
    "training.output_dir": to("output_dir", "the folder that holds run folders"),
    "training.num_epochs": _epochs,
    "training.learning_rate": to("train.learning_rate"),
    "training.batch_size": to("train.per_device_train_batch_size"),
    "training.gradient_accumulation_steps": to("train.gradient_accumulation_steps"),
    "training.warmup_steps": to("train.warmup_steps"),
    "training.warmup_ratio": _warmup_ratio,
    "training.max_steps": _unless_zero("train.max_steps", "0: epochs decide"),
    "training.save_steps": _unless_zero("train.save_steps", "0: checkpoints are kept all the same"),
    "training.weight_decay": to("train.weight_decay"),
    "training.random_seed": to("train.seed"),
    "training.optim": optimizer,
    "training.lr_scheduler_type": schedule,
    "training.packing": _packing,
    "training.train_on_completions": flag("data.assistant_only_loss"),
    "training.gradient_checkpointing": checkpointing,
    "lora.lora_r": to("adapter.r"),
    "lora.lora_alpha": to("adapter.lora_alpha"),
    "lora.lora_dropout": to("adapter.lora_dropout"),
    "lora.target_modules": modules,
    "lora.vision_all_linear": drop("only text models are trained"),
    "lora.use_rslora": flag("adapter.use_rslora"),
    "lora.use_loftq": feature("LoftQ's start from the quantisation error is not there"),
    "lora.use_dora": feature("DoRA is not there"),
    "lora.finetune_vision_layers": drop("only text models are trained"),
    "lora.finetune_language_layers": _PART,
    "lora.finetune_attention_modules": _PART,
    "lora.finetune_mlp_modules": _PART,
    "lora.use_gradient_checkpointing": drop(LOSSLESS),
    "training.logging_steps": drop(EVERY_STEP),
    "training.report_to": _LOGS,
    "logging.log_frequency": drop(EVERY_STEP),
    "logging.enable_wandb": _LOGS,
    "logging.wandb_project": _LOGS,
    "logging.wandb_token": _LOGS,
    "logging.enable_tensorboard": _LOGS,
    "logging.tensorboard_dir": _LOGS,
    "logging.hf_token": drop("the hub's own login is used (`hf auth login`)"),
}
"""Key -> what is done with it."""
