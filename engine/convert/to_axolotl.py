"""A RunConfig as axolotl's YAML. What axolotl has no key for stands as a comment at the top.

Columns are those that a run here would read (`rows_seen.py`). axolotl's `qwen_25` writes a system
prompt of its own and ours does not, so that the text stays the same `qwen` becomes chatml.
"""

from pathlib import Path
from typing import Any

from ..config.codes import DropCode
from ..config.run_config import RunConfig
from ..config.yaml12 import dump_yaml
from .axolotl_data import ALPACA
from .report import ConvertError
from .rows_seen import FLAGS, Rows, all_rows_seen, rows_seen
from .writable import drop_notes, refusal

_TEMPLATES = {"llama-3": "llama3", "qwen": "chatml", "phi": "phi_35", "mistral": "mistral_v1"}
_DROPPED: dict[DropCode, str] = {
    "bad": "axolotl cannot skip a line that it cannot read: mend the file first, by what `evenfall data check` lists",
}
"""What becomes of the rows that `data.drop` names, where they are not simply kept."""
_DTYPES = {"auto": {"bf16": "auto"}, "bfloat16": {"bf16": True}, "float16": {"fp16": True}}


def to_axolotl(config: RunConfig) -> str:
    """The YAML text.

    Raises:
        ConvertError: axolotl cannot be told of a data set's format, or it cannot be told at all.
    """
    every = all_rows_seen(config.data, "axolotl")
    model, adapter, data, train = config.model, config.adapter, config.data, config.train
    notes: list[str] = []
    tree: dict[str, Any] = {"base_model": model.name_or_path}
    if model.revision:
        tree["revision_of_model"] = model.revision
    if model.trust_remote_code:
        tree["trust_remote_code"] = True
    tree |= {"adapter": "qlora", "load_in_4bit": True}
    if model.quantization == "none":
        tree |= {"adapter": "lora", "load_in_4bit": False}
    elif not model.use_double_quant:
        tree["bnb_config_kwargs"] = {"bnb_4bit_use_double_quant": False}
    tree |= {
        "lora_r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
    }
    if adapter.target_modules == "all-linear":
        tree["lora_target_linear"] = True
    else:
        tree["lora_target_modules"] = adapter.target_modules
    if adapter.use_rslora:
        tree["peft_use_rslora"] = True
    tree["datasets"] = [_dataset(config, one, notes) for one in every]
    tree |= _template(config, notes)
    if data.eval_path:
        own = data.read_alike(data.eval_path)
        tree["test_datasets"] = [_dataset(config, rows_seen(own, "axolotl"), notes)]
    else:
        tree["val_set_size"] = data.eval_fraction
    notes += drop_notes(data, "axolotl", _DROPPED)
    if data.assistant_turns == "last":
        notes.append("data.assistant_turns=last: axolotl learns every answer of a conversation")
    tree |= {
        "sequence_len": data.max_length,
        "sample_packing": True,
        "excess_length_strategy": "truncate" if data.over_long == "cut" else "drop",
        "train_on_inputs": not data.assistant_only_loss,
        "shuffle_merged_datasets": data.shuffle,
        "micro_batch_size": train.per_device_train_batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation_steps,
        "num_epochs": train.num_train_epochs,
    }
    if train.max_steps:
        tree["max_steps"] = train.max_steps
    constant = train.lr_scheduler_type == "constant" and train.warmup_steps
    tree |= {
        "optimizer": "adamw_bnb_8bit" if train.optim == "adamw_8bit" else "adamw_torch_fused",
        "learning_rate": train.learning_rate,
        "lr_scheduler": "constant_with_warmup" if constant else train.lr_scheduler_type,
        "warmup_ratio" if 0 < train.warmup_steps < 1 else "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "adam_beta1": train.adam_beta1,
        "adam_beta2": train.adam_beta2,
        "adam_epsilon": train.adam_epsilon,
        "gradient_checkpointing": True,
    }
    if train.eval_steps:
        tree["eval_steps"] = train.eval_steps
    tree |= {"save_steps": train.save_steps, "save_total_limit": train.save_total_limit}
    if model.dtype in _DTYPES:
        tree |= _DTYPES[model.dtype]
    else:
        notes.append("model.dtype=float32: what is set neither bf16 nor fp16 computes in float32")
    tree |= {"seed": train.seed, "output_dir": config.output_dir}
    notes.append("gradient_checkpointing: Evenfall recomputes what memory forces, axolotl all")
    head = "# From an Evenfall run.yaml. What axolotl does otherwise:\n"
    # A comment ends with its line, so a name of two lines must not begin the second.
    return head + "".join(f"# - {' '.join(note.split())}\n" for note in notes) + dump_yaml(tree)


def _dataset(config: RunConfig, rows: Rows, notes: list[str]) -> dict[str, Any]:
    one = rows.source
    tree: dict[str, Any] = {"path": one.path}
    if one.path == "demo":
        notes.append("demo: the data set inside Evenfall; give axolotl a file")
    if one.name:
        tree["name"] = one.name
    tree["split"] = f"{one.split}[:{one.max_rows}]" if one.max_rows else one.split
    if one.weight != 1:
        notes.append(f"{one.path}: weight {one.weight:g}: axolotl takes each data set once")
    if rows.format == "text":
        notes.append(f"{one.path}: a text longer than sequence_len is split into several rows")
        if Path(one.path).suffix.lower() in (".txt", ".text", ".md"):
            notes.append(f"{one.path}: each line of a text file is a row of its own")
        return tree | {"type": "completion", "field": rows.column("text")}
    if len(rows.shapes) > 1 and rows.here:
        others = ", ".join(str(list(shape.values())) for shape in rows.shapes[1:])
        notes.append(f"{one.path}: axolotl reads one set of columns; some rows have {others}")
    if rows.format == "alpaca":
        return tree | {"type": _alpaca(config, rows, notes)}
    if rows.format == "prompt_completion":
        return tree | {"type": _pair(config, rows, notes)}
    return tree | _chat(config, rows, notes)


def _alpaca(config: RunConfig, rows: Rows, notes: list[str]) -> str | dict[str, str]:
    path = rows.source.path
    if config.data.chat_template != "alpaca":
        notes.append(f"{path}: axolotl writes alpaca rows in Alpaca's plain prompt")
    where = "" if rows.complete else ", where rows have them"
    if rows.may_have("system") and not config.data.drop_system:
        notes.append(f"{path}: `system` columns are not read for type alpaca{where}")
    if rows.may_have("history"):
        notes.append(f"{path}: `history` columns are not read for type alpaca{where}")
    own = {
        "instruction": rows.column("instruction"),
        "input": rows.beside.get("input", "input"),
        "output": rows.column("output"),
    }
    for name, columns in ALPACA.items():
        if own == {"instruction": "instruction", "input": "input", "output": "output"} | columns:
            return name
    # The plain prompt of type alpaca, over columns of other names.
    head = "Below is an instruction that describes a task"
    more = ", paired with an input that provides further context"
    ask = ". Write a response that appropriately completes the request."
    return {
        **{f"field_{key}": column for key, column in own.items()},
        "system_format": "",
        "format": f"{head}{more}{ask}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n### Response:\n",
        "no_input_format": f"{head}{ask}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n",
    }


def _pair(config: RunConfig, rows: Rows, notes: list[str]) -> dict[str, str]:
    path = rows.source.path
    if "lists" in rows.traits:
        raise ConvertError(refusal(f"{path}: its format", "a prompt and completion of messages", "axolotl", path))
    notes.append(f"{path}: the prompt is written plainly, without a chat template")
    where = "" if rows.complete else ", where rows have them"
    if rows.may_have("tools"):
        notes.append(f"{path}: definitions of tools are not read{where}")
    plain = "{instruction}"
    tree = {
        "field_instruction": rows.column("prompt"), "field_output": rows.column("completion"),
        "format": plain, "no_input_format": plain, "system_format": "{system}\n\n",
    }  # fmt: skip
    if not config.data.drop_system:
        tree["field_system"] = rows.beside.get("system", "system")
    if "context" in rows.beside:
        tree |= {"field_input": rows.beside["context"], "format": "{input}\n\n{instruction}"}
    return tree


def _chat(config: RunConfig, rows: Rows, notes: list[str]) -> dict[str, Any]:
    one, where = rows.source, "" if rows.complete else ", where rows have them"
    sharegpt = rows.format == "sharegpt"
    if rows.format == "auto":
        notes.append(f"{one.path}: is not here to look at: messages of role and content is assumed")
    tree: dict[str, Any] = {
        "type": "chat_template",
        "field_messages": rows.column("messages") if rows.shapes else "messages",
        "message_property_mappings": {
            "role": one.columns.get("from" if sharegpt else "role", "from" if sharegpt else "role"),
            "content": one.columns.get("value" if sharegpt else "content", "value" if sharegpt else "content"),
        },
    }
    if config.data.drop_system:
        tree["drop_system_message"] = True
    if "tools" in rows.beside and rows.beside["tools"] != "tools":
        tree["field_tools"] = rows.beside["tools"]
    if rows.may_have("system") and not config.data.drop_system:
        notes.append(f"{one.path}: `system` columns are not read: only system messages{where}")
    if sharegpt and rows.may_have("calls"):
        notes.append(f"{one.path}: turns of `function_call` are no calls to axolotl{where}")
    if len(rows.flags) == 1 and "weight" not in rows.flags:
        # It takes one key, and true or false: `weight` is a number.
        (tree["message_field_training"],) = rows.flags
    elif rows.may_have("flags"):
        flags = ", ".join(sorted(rows.flags) or FLAGS)
        notes.append(f"{one.path}: flags of messages ({flags}): axolotl learns what they leave out{where}")
    return tree


def _template(config: RunConfig, notes: list[str]) -> dict[str, Any]:
    name = config.data.chat_template
    if name is None or name == "alpaca":
        return {}
    if "{%" in name or "{{" in name:
        return {"chat_template": "jinja", "chat_template_jinja": name}
    if name.endswith((".jinja", ".j2", ".txt")):
        notes.append(f"data.chat_template={name}: put the file's text into chat_template_jinja")
        return {"chat_template": "jinja"}
    return {"chat_template": _TEMPLATES.get(name, name)}
