"""A RunConfig as axolotl's YAML. What axolotl has no key for stands as a comment at the top."""

from typing import Any

from ..config import DatasetConfig, RunConfig
from ..yaml12 import dump_yaml
from .writable import check_formats

_TEMPLATES = {"llama-3": "llama3", "qwen": "qwen_25", "phi": "phi_35", "mistral": "mistral_v1"}
_DTYPES = {"auto": {"bf16": "auto"}, "bfloat16": {"bf16": True}, "float16": {"fp16": True}}


def to_axolotl(config: RunConfig) -> str:
    """The YAML text.

    Raises:
        ConvertError: axolotl is not told of a data set's format.
    """
    check_formats(config, "axolotl")
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
    tree["datasets"] = [_dataset(config, one, notes) for one in data.sources]
    tree |= _template(config, notes)
    if data.eval_path:
        first = _dataset(config, data.sources[0], [])
        tree["test_datasets"] = [{**first, "path": data.eval_path}]
    else:
        tree["val_set_size"] = data.eval_fraction
    if data.drop:
        notes.append(f"data.drop={data.drop}: axolotl keeps such rows")
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


def _dataset(config: RunConfig, one: DatasetConfig, notes: list[str]) -> dict[str, Any]:
    tree: dict[str, Any] = {"path": one.path}
    if one.path == "demo":
        notes.append("demo: the data set inside Evenfall; give axolotl a file")
    if one.name:
        tree["name"] = one.name
    tree["split"] = f"{one.split}[:{one.max_rows}]" if one.max_rows else one.split
    if one.weight != 1:
        notes.append(f"{one.path}: weight {one.weight:g}: axolotl takes each data set once")
    columns = dict(one.columns)
    if one.format == "text":
        tree |= {"type": "completion", "field": columns.pop("text", "text")}
    elif one.format in ("alpaca", "prompt_completion"):
        tree["type"] = "alpaca"
        if one.format == "prompt_completion":
            prompt, answer = (
                columns.pop("prompt", "prompt"),
                columns.pop("completion", "completion"),
            )
            tree["type"] = {
                "field_instruction": prompt, "field_output": answer,
                "format": "{instruction}", "no_input_format": "{instruction}",
            }  # fmt: skip
            notes.append(f"{one.path}: the prompt is written plainly, without a chat template")
        elif config.data.chat_template != "alpaca":
            notes.append(f"{one.path}: axolotl writes alpaca rows in Alpaca's plain prompt")
    else:
        sharegpt = one.format == "sharegpt"
        if one.format == "auto":
            notes.append(f"{one.path}: its format is told from the rows; messages is assumed here")
        tree |= {
            "type": "chat_template",
            "field_messages": columns.pop("messages", "conversations" if sharegpt else "messages"),
            "message_property_mappings": {
                "role": columns.pop("role", "from" if sharegpt else "role"),
                "content": columns.pop("content", "value" if sharegpt else "content"),
            },
        }
        if config.data.drop_system:
            tree["drop_system_message"] = True
    for ours, theirs in columns.items():
        notes.append(f"{one.path}: axolotl has no key for the column {theirs}, read as {ours}")
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
