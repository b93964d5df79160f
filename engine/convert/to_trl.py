"""A RunConfig as a plain script on TRL, PEFT and bitsandbytes.

It trains the same rows with the same recipe, with nothing of ours in it: to compare with, and to
leave by. What the stock libraries do otherwise stands as a comment at its top. Values enter the
script as Python literals only, so that no text of a configuration can become code.

All data sets of a run become rows of one kind, as TRL wants them: `text`, `prompt` and `completion`
(where one answer is learnt), or `messages`.
"""

from typing import Literal

from ..config import DatasetConfig, RunConfig
from .writable import check_formats

Kind = Literal["text", "plain", "pair", "chat"]

_HEAD = """\
from pathlib import Path

import torch
from datasets import concatenate_datasets, load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.utils import is_flash_attn_2_available
from trl import SFTConfig, SFTTrainer

GPU = torch.cuda.is_available()
FLASH = GPU and is_flash_attn_2_available()
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}
"""
_LOAD = """\
def load(reader, path, name=None, split="train", rows=None, columns={}):
    kinds = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
    kind = kinds.get(Path(path).suffix.lower())
    if kind:
        data = load_dataset(kind, data_files=path, split="train")
    else:
        data = load_dataset(path, name, split=split)
    if rows:
        data = data.select(range(min(rows, len(data))))

    def read(row):
        named = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        return reader({**row, **named}, columns)

    return data.map(read, remove_columns=data.column_names)
"""
_EXAMPLE: dict[Kind, str] = {
    "pair": '    return {"prompt": turns[:-1], "completion": turns[-1:]}\n',
    "chat": '    return {"messages": turns}\n',
}
_ALPACA = """\
def alpaca(row, columns):
    more = row.get("input") or ""
    question = f"{row['instruction']}\\n{more}" if more.strip() else row["instruction"]
    answer = row.get("output") or row["response"]
    return example(row, [{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
"""
_PROMPT = """\
def prompt_completion(row, columns):
    prompt, answer = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
        answer = [{"role": "assistant", "content": answer}]
    return example(row, [*prompt, *answer])
"""
_MESSAGES = """\
def messages(row, columns):
    turns = row.get("messages") or row.get("conversations") or row["conversation"]
    role, content = columns.get("role", "role"), columns.get("content", "content")
    if "from" in turns[0]:
        role, content = "from", "value"
    return example(
        row,
        [{"role": ROLES.get(turn[role], turn[role]), "content": turn[content]} for turn in turns],
    )
"""
_AUTO = """\
def auto(row, columns):
    if "instruction" in row:
        return alpaca(row, columns)
    if "prompt" in row:
        return prompt_completion(row, columns)
    return messages(row, columns)
"""
_PLAIN = """\
def alpaca_plain(row, columns):
    more = row.get("input") or ""
    paired = ", paired with an input that provides further context" if more.strip() else ""
    prompt = (
        f"Below is an instruction that describes a task{paired}. Write a response that appropriately "
        f"completes the request.\\n\\n### Instruction:\\n{row['instruction']}\\n\\n"
        + (f"### Input:\\n{more}\\n\\n" if more.strip() else "")
        + "### Response:\\n"
    )
    return {"prompt": prompt, "completion": row.get("output") or row["response"]}
"""
_TEXT = """\
def text(row, columns):
    return {"text": row["text"]}
"""


def to_trl(config: RunConfig) -> str:
    """The script's text.

    Raises:
        ConvertError: a data set's format has no reader in such a script.
    """
    check_formats(config, "TRL")
    kind = _kind(config)
    sources = [one for one in config.data.sources if (one.format == "text") == (kind == "text")]
    notes = _notes(config, kind, len(sources) < len(config.data.sources))
    # A comment ends with its line, so a name of two lines must not begin a statement.
    comment = "".join(f"# - {' '.join(note.split())}\n" for note in notes)
    return "\n\n".join(
        [
            f"# From an Evenfall run.yaml. What the stock libraries do otherwise:\n{comment}\n{_HEAD}",
            *(part for part in _readers(config, kind, sources)),
            _LOAD,
            _data(config, kind, sources),
        ]
    ) + "\n".join(["", *_model(config), *_training(config, kind)])


def _kind(config: RunConfig) -> Kind:
    formats = {one.format for one in config.data.sources}
    if formats == {"text"}:
        return "text"
    formats.discard("text")
    if formats == {"alpaca"} and config.data.chat_template == "alpaca":
        return "plain"
    pairs = formats <= {"alpaca", "prompt_completion"}
    return "pair" if pairs or config.data.assistant_turns == "last" else "chat"


def _notes(config: RunConfig, kind: Kind, left_out: bool) -> list[str]:
    data, train = config.data, config.train
    notes = [
        "rows are packed only where flash-attention is installed: else a batch holds single rows",
        "TRL may keep the adapters of a 4-bit base in bfloat16; Evenfall keeps them in float32",
        "tools and tool calls in rows are left out",
    ]
    if kind == "chat" and data.assistant_only_loss:
        notes.append("answers alone are learnt only if TRL knows the chat template's answers")
    if data.drop:
        notes.append(f"data.drop={data.drop}: TRL keeps such rows")
    if data.over_long == "drop":
        notes.append("data.over_long=drop: TRL cuts rows that are longer than max_length")
    if not data.shuffle:
        notes.append("data.shuffle=false: transformers' Trainer shuffles")
    if left_out:
        notes.append("data sets of format text are left out: TRL takes rows of one kind in a run")
    if any(one.format == "auto" for one in data.sources):
        notes.append("format auto: conversations, alpaca and prompt + completion are told apart")
    for one in data.sources:
        if one.weight != 1:
            notes.append(f"{one.path}: weight {one.weight:g}: taken once")
        if one.path == "demo":
            notes.append("demo: the data set inside Evenfall; name a file instead")
    if _named_template(config) and kind != "plain":
        notes.append(f"data.chat_template={data.chat_template}: the tokenizer's own is taken")
    if train.device != "auto":
        notes.append(f"train.device={train.device}: the GPU is taken where there is one")
    return notes


def _named_template(config: RunConfig) -> bool:
    name = config.data.chat_template
    return bool(name) and not _is_jinja(name or "") and not _is_file(name or "")


def _is_jinja(template: str) -> bool:
    return "{%" in template or "{{" in template


def _is_file(template: str) -> bool:
    return not _is_jinja(template) and template.endswith((".jinja", ".j2", ".txt"))


def _readers(config: RunConfig, kind: Kind, sources: list[DatasetConfig]) -> list[str]:
    if kind in ("text", "plain"):
        return [_TEXT if kind == "text" else _PLAIN]
    system = '    system = row.get("system")\n'
    system += (
        '    turns = [turn for turn in turns if turn["role"] != "system"]\n'
        if config.data.drop_system
        else '    turns = [{"role": "system", "content": system}, *turns] if system else turns\n'
    )
    if config.data.drop_system:
        system = system.partition("\n")[2]
    formats = {one.format for one in sources}
    auto = "auto" in formats
    return [
        f"def example(row, turns):\n{system}{_EXAMPLE[kind]}",
        *([_ALPACA] if auto or "alpaca" in formats else []),
        *([_PROMPT] if auto or "prompt_completion" in formats else []),
        *([_MESSAGES] if auto or {"messages", "sharegpt"} & formats else []),
        *([_AUTO] if auto else []),
    ]


def _data(config: RunConfig, kind: Kind, sources: list[DatasetConfig]) -> str:
    lines = ["parts = ["]
    for one in sources:
        lines.append(f"    load({_arguments(_reader(kind, one), one)}),")
    lines += ["]", "train_data, eval_data = concatenate_datasets(parts), None"]
    data, seed = config.data, config.train.seed
    if data.eval_path:
        held_out = sources[0].model_copy(update={"path": data.eval_path, "max_rows": None})
        lines.append(f"eval_data = load({_arguments(_reader(kind, held_out), held_out)})")
    elif data.eval_fraction:
        lines += [
            f"split = train_data.train_test_split(test_size={data.eval_fraction!r}, seed={seed})",
            'train_data, eval_data = split["train"], split["test"]',
        ]
    return "\n".join([*lines, ""])


def _reader(kind: Kind, one: DatasetConfig) -> str:
    if kind == "plain":
        return "alpaca_plain"
    return "messages" if one.format == "sharegpt" else one.format


def _arguments(reader: str, one: DatasetConfig) -> str:
    parts = [reader, repr(one.path)]
    parts += [f"name={one.name!r}"] if one.name else []
    parts += [f"split={one.split!r}"] if one.split != "train" else []
    parts += [f"rows={one.max_rows}"] if one.max_rows else []
    parts += [f"columns={one.columns!r}"] if one.columns else []
    return ", ".join(parts)


def _model(config: RunConfig) -> list[str]:
    model, template = config.model, config.data.chat_template or ""
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
    answers = {"pair": "completion_only_loss", "plain": "completion_only_loss"}
    constant = train.lr_scheduler_type == "constant" and train.warmup_steps
    options = {
        "output_dir": config.output_dir,
        "max_length": data.max_length,
        **({} if kind == "text" else {answers.get(kind, "assistant_only_loss"): data.assistant_only_loss}),
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
