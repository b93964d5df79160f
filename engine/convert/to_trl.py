"""A RunConfig as a plain script on TRL, PEFT and bitsandbytes.

It trains the same rows with the same recipe, with nothing of ours in it: to compare with, and to
leave by. What the stock libraries do otherwise stands as a comment at its top. Values enter the
script as Python literals only, so that no text of a configuration can become code.

All data sets of a run become rows of one kind, as TRL wants them (`trl_readers.py`). A prompt with
one answer needs nothing of the chat template; of a conversation TRL tells the answers only by the
template's `{% generation %}` markers, which few templates have.
"""

from ...presets.load import chat_template, chat_template_names
from ..config.codes import DropCode
from ..config.run_config import RunConfig
from .report import ConvertError
from .rows_seen import DEFAULT_NAMES, FLAGS, Rows, all_rows_seen, rows_seen
from .trl_readers import Kind, readers
from .writable import drop_notes

_HEAD = """\
import csv
import gzip
import io
import json
import re
import sys
from itertools import islice
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import is_flash_attn_2_available
from trl import SFTConfig, SFTTrainer

GPU = torch.cuda.is_available()
FLASH = GPU and is_flash_attn_2_available()
TURN_KEYS = ("role", "content", "from", "value")
PASSED_ON = ("name", "tool_call_id", "reasoning_content", "thinking")
"""
_WHERE = "where rows have them"
_DROPPED: dict[DropCode, str] = {
    "bad": "the script leaves out lines and rows that cannot be read, and says how many; a row that "
    "the chat template refuses stops TRL",
    "tool_calls": "every row with calls of tools is left out, also those that fit",
}
"""What becomes of the rows that `data.drop` names, where they are not simply kept."""


def to_trl(config: RunConfig) -> str:
    """The script's text.

    Raises:
        ConvertError: a data set's format has no reader in such a script, or cannot be told.
    """
    every = all_rows_seen(config.data, "TRL")
    kind = _kind(config, every)
    read = [one for one in every if (one.format == "text") == (kind == "text")]
    held_out = _held_out(config, kind)
    template = _template(config)
    notes = _notes(config, kind, every, held_out)
    # A comment ends with its line, so a name of two lines must not begin a statement.
    comment = "".join(f"# - {' '.join(note.split())}\n" for note in notes)
    return "\n".join(
        [
            f"# From an Evenfall run.yaml. What the stock libraries do otherwise:\n{comment}",
            f"{_HEAD}{_roles()}",
            *readers(
                kind, [*read, *held_out],
                skip_bad="bad" in config.data.drop,
                drop_system=config.data.drop_system,
                last=config.data.assistant_turns == "last",
                to_end=not config.data.assistant_only_loss,
                apart="instruction" in template or _is_file(template),
            ),
            "",
            _data(config, read, held_out),
            *_model(config, template),
            *_training(config, kind),
        ]
    )  # fmt: skip


def _roles() -> str:
    from ..data.formats.turns import ROLES

    ours = dict.fromkeys(ROLES.values())
    names = {role: [name for name, one in ROLES.items() if one == role] for role in ours}
    lines = "".join(f"    **dict.fromkeys({names[role]!r}, {role!r}),\n" for role in ours)
    return f"ROLES = {{\n{lines}}}\n"


def _kind(config: RunConfig, rows: list[Rows]) -> Kind:
    formats = {one.format for one in rows}
    if formats == {"text"}:
        return "text"
    pairs = formats <= {"alpaca", "prompt_completion", "text"}
    one_answer = pairs and not any("history" in one.traits for one in rows)
    return "pair" if one_answer or config.data.assistant_turns == "last" else "chat"


def _held_out(config: RunConfig, kind: Kind) -> list[Rows]:
    """The held-out file, where there is one."""
    data = config.data
    if not data.eval_path:
        return []
    own = data.read_alike(data.eval_path)
    if own.format == "auto" and kind == "text":
        own = own.model_copy(update={"format": "text"})
    rows = rows_seen(own, "TRL")
    if (rows.format == "text") != (kind == "text"):
        raise ConvertError(
            f"data.eval_path: {data.eval_path} is {rows.format}, unlike the training rows; TRL takes "
            "rows of one kind in a run"
        )
    return [rows]


def _notes(config: RunConfig, kind: Kind, every: list[Rows], held_out: list[Rows]) -> list[str]:
    data, train = config.data, config.train
    notes = [
        "rows are packed only where flash-attention is installed: else a batch holds single rows",
        "TRL may keep the adapters of a 4-bit base in bfloat16; Evenfall keeps them in float32",
    ]
    if kind == "chat" and data.assistant_only_loss:
        notes.append(
            "answers alone are learnt only if the chat template marks them ({% generation %}) or is "
            "one that TRL knows: else TRL stops; data.assistant_turns=last needs no markers"
        )
    if kind == "pair" and data.assistant_only_loss:
        notes.append("TRL learns a completion whole: also a line break that the template ends it with")
    for one in [*every, *held_out]:
        if (one.format == "text") == (kind == "text"):
            notes += _notes_of_rows(config, kind, one)
    notes += drop_notes(data, "TRL", _DROPPED)
    if data.over_long == "drop":
        notes.append("data.over_long=drop: TRL cuts rows that are longer than max_length")
    if not data.shuffle:
        notes.append("data.shuffle=false: transformers' Trainer shuffles")
    if kind != "text" and any(one.format == "text" for one in every):
        notes.append("data sets of format text are left out: TRL takes rows of one kind in a run")
    for one in data.sources:
        if one.weight != 1:
            notes.append(f"{one.path}: weight {one.weight:g}: taken once")
        if one.path == "demo":
            notes.append("demo: the data set inside Evenfall; name a file instead")
    if config.model.name_or_path == "demo":
        notes.append("model demo: the model inside Evenfall; name a model instead")
    if train.device != "auto":
        notes.append(f"train.device={train.device}: the GPU is taken where there is one")
    return notes


def _notes_of_rows(config: RunConfig, kind: Kind, rows: Rows) -> list[str]:
    """What a data set's rows have, or may have, that the script does not read."""
    path, notes = rows.source.path, []
    where = "" if rows.complete else f", {_WHERE}"
    if not rows.here:
        named = "auto: " if rows.format == "auto" else ""
        notes.append(
            f"{path}: is not here to look at: {named}its columns are read by "
            + ("data.columns and " if rows.source.columns else "")
            + f"the names that {'formats have' if named else f'{rows.format} has'}"
        )
    if kind == "text":
        return notes
    learnt = config.data.assistant_only_loss
    if rows.may_have("calls") and rows.format != "alpaca":
        notes.append(f"{path}: rows with calls of tools, or their results, are left out{where}")
    if rows.may_have("tools"):
        notes.append(f"{path}: definitions of tools are left out{where}")
    chat = rows.format in ("messages", "sharegpt", "auto")
    if chat and rows.may_have("flags") and learnt:
        flags = ", ".join(sorted(rows.flags) or FLAGS)
        notes.append(f"{path}: flags of messages ({flags}): TRL learns what they leave out{where}")
    if rows.may_have("blank") and learnt:
        notes.append(f"{path}: TRL learns empty answers among others too{where}")
    all_turns = config.data.assistant_turns == "all" and learnt and kind == "pair"
    if rows.may_have("history") and all_turns and rows.format in ("alpaca", "auto"):
        notes.append(f"{path}: answers in `history` are not learnt, the last one is{where}")
    pairs = rows.format in ("prompt_completion", "auto")
    if pairs and kind == "chat" and rows.may_have("answered") and learnt:
        notes.append(f"{path}: TRL learns the answers in a prompt of messages too{where}")
    if pairs and kind == "pair" and rows.may_have("between") and learnt:
        notes.append(f"{path}: TRL learns all messages of a completion, not only answers{where}")
    return notes


def _template(config: RunConfig) -> str:
    """The chat template's text; of a file its name; empty: the tokenizer's own."""
    name = config.data.chat_template or ""
    return chat_template(name) if name in chat_template_names() else name


def _is_jinja(template: str) -> bool:
    return "{%" in template or "{{" in template


def _is_file(template: str) -> bool:
    return bool(template) and not _is_jinja(template)


def _data(config: RunConfig, rows: list[Rows], held_out: list[Rows]) -> str:
    lines = ["train_data, eval_data = Dataset.from_list(", "    ["]
    lines += [f"        *load({_arguments(one)})," for one in rows]
    lines += ["    ]", "), None"]
    if held_out:
        lines.append(f"eval_data = Dataset.from_list(load({_arguments(held_out[0])}))")
    elif config.data.eval_fraction:
        share = f"test_size={config.data.eval_fraction!r}, seed={config.train.seed}"
        lines.append(f"split = train_data.train_test_split({share})")
        lines.append('train_data, eval_data = split["train"], split["test"]')
    return "\n".join([*lines, ""])


def _arguments(rows: Rows) -> str:
    one = rows.source
    if rows.format == "auto":
        own = [(_reader(name), list(DEFAULT_NAMES[name])) for name in ("messages", "alpaca", "prompt_completion")]
        shapes = f"[{', '.join(f'({reader}, {names!r})' for reader, names in own)}]"
    else:
        shapes = repr(list(rows.shapes))
    parts = [_reader(rows.format), shapes, repr(one.path)]
    parts += [f"name={one.name!r}"] if one.name else []
    parts += [f"split={one.split!r}"] if one.split != "train" else []
    parts += [f"rows={one.max_rows}"] if one.max_rows else []
    parts += [f"columns={one.columns!r}"] if one.columns else []
    return ", ".join(parts)


def _reader(format: str) -> str:
    return "messages" if format == "sharegpt" else format


def _model(config: RunConfig, template: str) -> list[str]:
    model = config.model
    dtype = "torch.bfloat16 if GPU else torch.float32"
    common = [f"revision={model.revision!r}"] if model.revision else []
    common += ["trust_remote_code=True"] if model.trust_remote_code else []
    options = ["dtype=DTYPE", 'attn_implementation="flash_attention_2" if FLASH else "sdpa"']
    lines = [f"DTYPE = {dtype if model.dtype == 'auto' else f'torch.{model.dtype}'}"]
    if model.quantization == "nf4":
        lines += [
            "quantization = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE,',
            f"    bnb_4bit_use_double_quant={model.use_double_quant},",
            ")",
        ]
        options.append("quantization_config=quantization")
    name = ", ".join([repr(model.name_or_path), *common])
    lines += [
        f"model = AutoModelForCausalLM.from_pretrained({name}, {', '.join(options)})",
        f"tokenizer = AutoTokenizer.from_pretrained({name})",
    ]
    if _is_jinja(template):
        lines.append(f"tokenizer.chat_template = {template!r}")
    elif _is_file(template):
        lines.append(f'tokenizer.chat_template = Path({template!r}).read_text(encoding="utf-8")')
    return lines


def _training(config: RunConfig, kind: Kind) -> list[str]:
    adapter, data, train = config.adapter, config.data, config.train
    lora = {
        "r": adapter.r, "lora_alpha": adapter.lora_alpha, "lora_dropout": adapter.lora_dropout,
        "target_modules": adapter.target_modules, "use_rslora": adapter.use_rslora,
        "task_type": "CAUSAL_LM",
    }  # fmt: skip
    answers = {"pair": "completion_only_loss", "chat": "assistant_only_loss"}
    constant = train.lr_scheduler_type == "constant" and train.warmup_steps
    options = {
        "output_dir": config.output_dir,
        "max_length": data.max_length,
        **({answers[kind]: data.assistant_only_loss} if kind in answers else {}),
        "num_train_epochs": train.num_train_epochs,
        "max_steps": train.max_steps or -1,
        "per_device_train_batch_size": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if constant else train.lr_scheduler_type,
        "warmup_steps": train.warmup_steps,
        "optim": train.optim,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "adam_beta1": train.adam_beta1,
        "adam_beta2": train.adam_beta2,
        "adam_epsilon": train.adam_epsilon,
        **({"eval_strategy": "steps", "eval_steps": train.eval_steps} if train.eval_steps else {}),
        "save_steps": train.save_steps,
        "save_total_limit": train.save_total_limit,
        "seed": train.seed,
        "logging_steps": 1,
        "report_to": "none",
    }  # fmt: skip
    return [
        f"lora = LoraConfig({', '.join(f'{key}={value!r}' for key, value in lora.items())})",
        "options = SFTConfig(",
        *(f"    {key}={value!r}," for key, value in options.items()),
        "    packing=FLASH,",
        "    bf16=GPU and DTYPE is torch.bfloat16,",
        "    fp16=GPU and DTYPE is torch.float16,",
        "    gradient_checkpointing=GPU,",
        ")",
        "trainer = SFTTrainer(",
        "    model=model, args=options, train_dataset=train_data, eval_dataset=eval_data,",
        "    processing_class=tokenizer, peft_config=lora,",
        ")",
        "trainer.train()",
        "trainer.save_model()",
        "",
    ]
