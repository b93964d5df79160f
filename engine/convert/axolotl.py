"""axolotl's YAML.

What is particular: `adapter` with `load_in_4bit` is the choice of method, cadence may be counted in
times an epoch, rows that are too long are dropped, and a data set brings its prompt (see
axolotl_data).
"""

from typing import Any

from .axolotl_data import (
    all_of,
    chat_template,
    chat_template_jinja,
    datasets,
    evaluates,
    test_datasets,
)
from .draft import Draft, is_empty
from .handlers import (
    EVERY_STEP,
    LOSSLESS,
    NO_ADAPTER,
    NO_UPLOADS,
    ONE_GPU,
    PREFERENCE,
    SMALLER_BATCH,
    Handler,
    cadence,
    checkpointing,
    compute_type,
    drop,
    epochs_of,
    feature,
    flag,
    is_off,
    is_on,
    modules,
    number,
    optimizer,
    per_epoch,
    question,
    run_table,
    schedule,
    share_of_run,
    to,
    validation,
    warmup,
    word,
)

TOOL = "axolotl"

_NEEDED = "axolotl has no default for it"

_epochs = epochs_of("num_epochs", 1.0)


def recognise(tree: dict[str, Any]) -> bool:
    """Whether these keys are axolotl's."""
    return "base_model" in tree


def convert(draft: Draft) -> None:
    """Say a line for every key, then the defaults of those that are not there."""
    if "base_model" not in draft.given:
        draft.asked("base_model", None, "the model is needed", "model.name_or_path=MODEL")
    if "datasets" not in draft.given:
        draft.asked("datasets", None, "the data is needed", "data.path=FILE")
    if "learning_rate" not in draft.given:
        draft.asked("learning_rate", None, _NEEDED, "train.learning_rate=2e-4")
    if "adapter" in draft.given:
        _ask_for_adapter(draft)
    else:
        draft.refused("adapter", None, f"is not set: the file {NO_ADAPTER}")
    run_table(draft, _TABLE, _PREFIXES)
    too_long = "axolotl drops rows over sequence_len"
    for key, target, value, said in (
        ("sequence_len", "data.max_length", 512, ""),
        ("excess_length_strategy", "data.over_long", "drop", too_long),
        ("gradient_accumulation_steps", "train.gradient_accumulation_steps", 1, ""),
        ("warmup_ratio", "train.warmup_steps", 0.03, "there at most 100 steps"),
        ("save_strategy", "train.save_steps", *share_of_run(1, _epochs(draft))),
        ("save_total_limit", "train.save_total_limit", 4, ""),
    ):
        if target != "data.over_long" or not all_of(draft, "completion"):
            draft.default(key, target, value, said)
    if "sample_packing" not in draft.given:
        draft.ignored("sample_packing", None, f"is not set: {SMALLER_BATCH}")


def _ask_for_adapter(draft: Draft) -> None:
    for key, answer in (("lora_r", "adapter.r=16"), ("lora_alpha", "adapter.lora_alpha=32")):
        if key not in draft.given:
            draft.asked(key, None, _NEEDED, answer)
    if not {"lora_target_linear", "lora_target_modules"} & draft.given.keys():
        draft.asked("lora_target_modules", None, _NEEDED, "adapter.target_modules=all-linear")


def _adapter(draft: Draft, key: str, value: Any) -> None:
    name = word(value)
    if name == "qlora":
        draft.mapped(key, value, "model.quantization", "nf4")
    elif name == "lora" and is_on(draft.given.get("load_in_4bit")):
        draft.mapped(key, value, "model.quantization", "nf4", "load_in_4bit is set")
    elif name == "lora" and is_on(draft.given.get("load_in_8bit")):
        draft.belongs(key, value, "model.quantization", "see load_in_8bit")
    elif name == "lora":
        draft.mapped(key, value, "model.quantization", "none")
    else:
        draft.refused(key, value, NO_ADAPTER)


def _four_bits(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.belongs(key, value, "model.quantization=nf4", "")
    elif is_off(value) and word(draft.given.get("adapter")) == "qlora":
        draft.asked(
            key, value, "contradicts adapter: qlora", "model.quantization=nf4",
            "model.quantization=none",
        )  # fmt: skip
    else:
        draft.ignored(key, value, "is off")


def _eight_bits(draft: Draft, key: str, value: Any) -> None:
    if not is_on(value):
        draft.ignored(key, value, "is off")
    else:
        draft.asked(
            key, value, "weights are held in 4 bits or in 16, not in 8",
            "model.quantization=nf4", "model.quantization=none",
        )  # fmt: skip


def _bnb(draft: Draft, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        draft.refused(key, value, "expected keys of BitsAndBytesConfig")
        return
    for name, part in value.items():
        at = f"{key}.{name}"
        if is_empty(part):
            continue
        if name == "bnb_4bit_use_double_quant":
            draft.mapped(at, part, "model.use_double_quant", part)
        elif (name, word(part)) in (("bnb_4bit_quant_type", "nf4"), ("load_in_4bit", "true")):
            draft.ignored(at, part, "as it is here")
        else:
            draft.unknown(at, part)


def _target_linear(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.mapped(key, value, "adapter.target_modules", "all-linear")
    else:
        draft.ignored(key, value, "is off")


def _target_modules(draft: Draft, key: str, value: Any) -> None:
    if is_on(draft.given.get("lora_target_linear")):
        draft.belongs(key, value, "adapter.target_modules=all-linear", "among those of lora_target_linear")
    else:
        modules(draft, key, value)


def _start(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.ignored(key, value, "as it is here: A random, B zero")
    else:
        draft.refused(key, value, "the adapter starts as PEFT's default: A random, B zero")


def _duplicates(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.mapped(key, value, "data.drop", ["duplicate"])
    else:
        draft.ignored(key, value, "is off")


def _special_tokens(draft: Draft, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        draft.refused(key, value, "expected names of special tokens with their texts")
        return
    for name, part in value.items():
        at = f"{key}.{name}"
        if is_empty(part):
            continue
        if name in ("pad_token", "unk_token"):
            draft.ignored(at, part, "packed bins need no padding, and no row is learnt with it")
        else:
            draft.asked(at, part, "may change what begins or ends a turn; here the tokenizer's own")


def _model_config(draft: Draft, key: str, value: Any) -> None:
    if not isinstance(value, dict):
        draft.refused(key, value, "expected keys of the model's config")
        return
    for name, part in value.items():
        at = f"{key}.{name}"
        if is_empty(part):
            continue
        if is_off(part):
            draft.ignored(at, part, "is off")
        elif name == "output_router_logits":
            draft.refused(at, part, "adds the router's balancing loss, which is not there")
        else:
            draft.refused(at, part, "changes the model's own config, which is taken as it is")


def _plugins(draft: Draft, key: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    if all("liger" in word(name) or "cut_cross_entropy" in word(name) for name in names):
        draft.ignored(key, value, f"kernels: {LOSSLESS}")
    else:
        draft.unknown(key, value)


def _over_long(draft: Draft, key: str, value: Any) -> None:
    ours = {"drop": "drop", "truncate": "cut"}.get(word(value))
    if all_of(draft, "completion"):
        draft.mapped(key, value, "data.over_long", "cut", "texts are never over it: see their type")
    elif ours:
        draft.mapped(key, value, "data.over_long", ours)
    else:
        draft.asked(key, value, "rows over data.max_length are cut or dropped", "data.over_long=drop")


def _packing(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.ignored(key, value, "rows are always packed, and never see each other")
    else:
        draft.ignored(key, value, SMALLER_BATCH)


def _tokenizer(draft: Draft, key: str, value: Any) -> None:
    if value == draft.given.get("base_model"):
        draft.ignored(key, value, "the same as base_model")
    else:
        draft.asked(key, value, "tokenizer and config are taken from the model's own folder")


def _strategy(event: str) -> Handler:
    target = f"train.{event}_steps"

    def handle(draft: Draft, key: str, value: Any) -> None:
        if event == "eval" and not evaluates(draft):
            draft.ignored(key, value, "no rows are held out")
        elif f"{event}_steps" in draft.given:
            draft.ignored(key, value, f"{event}_steps is set, and wins")
        elif word(value) == "epoch":
            share, said = share_of_run(1, _epochs(draft))
            draft.mapped(key, value, target, share, said)
        elif word(value) in ("no", "steps"):
            draft.ignored(key, value, "the number of steps is what counts; checkpoints cost little")
        else:
            draft.unknown(key, value)

    return handle


def _max_steps(draft: Draft, key: str, value: Any) -> None:
    steps = number(value)
    if steps is not None and steps <= 0:
        draft.ignored(key, value, "no limit: epochs decide")
    else:
        draft.mapped(key, value, "train.max_steps", value)


_RL = drop("belongs to preference training: nothing in plain fine-tuning reads it")
_KERNEL = drop(LOSSLESS)
_CLASS = drop("the classes are told from the model's own config")
_LOADING = drop("how data is loaded changes no result")
_GPUS = drop(ONE_GPU)
_LOGS = drop(NO_UPLOADS)
_GUARD = drop("every loss is shown as it falls, and a step without a finite gradient is skipped")
_LORA_PLUS = feature("LoRA+ gives the B matrices a rate of their own; there is one rate")

_TABLE: dict[str, Handler] = {
    "base_model": to("model.name_or_path"),
    "base_model_config": _tokenizer,
    "tokenizer_config": _tokenizer,
    "revision_of_model": to("model.revision"),
    "trust_remote_code": flag("model.trust_remote_code"),
    **dict.fromkeys(
        ("model_type", "tokenizer_type", "tokenizer_use_fast", "tokenizer_legacy",
         "is_llama_derived_model", "is_mistral_derived_model", "is_falcon_derived_model",
         "is_qwen_derived_model"),
        _CLASS,
    ),
    "adapter": _adapter,
    "load_in_4bit": _four_bits,
    "load_in_8bit": _eight_bits,
    "bnb_config_kwargs": _bnb,
    "lora_r": to("adapter.r"),
    "lora_alpha": to("adapter.lora_alpha"),
    "lora_dropout": to("adapter.lora_dropout"),
    "lora_target_linear": _target_linear,
    "lora_target_modules": _target_modules,
    "peft_use_rslora": flag("adapter.use_rslora"),
    "peft_use_dora": feature("DoRA is not there"),
    "peft": feature("LoftQ's start from the quantisation error is not there"),
    "loftq_config": feature("LoftQ's start from the quantisation error is not there"),
    "peft_init_lora_weights": _start,
    "peft_layers_to_transform": feature("every layer gets an adapter"),
    "lora_modules_to_save": feature("whole layers cannot be trained beside the adapter"),
    "lora_fan_in_fan_out": drop("told from each layer"),
    "lora_on_cpu": drop("memory is planned before the first step"),
    "loraplus_lr_ratio": _LORA_PLUS,
    "loraplus_lr_embedding": drop("belongs to LoRA+"),
    "relora_steps": feature("ReLoRA's merging during training is not there"),
    "lora_model_dir": feature("goes on with an adapter; here each run starts a new one"),
    "unfrozen_parameters": feature("weights of the base cannot be trained beside the adapter"),
    **dict.fromkeys(("model_config", "overrides_of_model_config"), _model_config),
    "rope_scaling": feature("changes the model's own config, which is taken as it is"),
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel"), _KERNEL),
    "plugins": _plugins,
    "cut_cross_entropy": _KERNEL,
    "datasets": datasets,
    "test_datasets": test_datasets,
    "val_set_size": validation,
    "shuffle_merged_datasets": flag("data.shuffle"),
    "shuffle_before_merging_datasets": drop("rows of all data sets are shuffled together"),
    "dataset_exact_deduplication": _duplicates,
    "streaming": question("all rows are prepared before training"),
    **dict.fromkeys(
        ("dataset_prepared_path", "dataset_processes", "dataset_num_proc", "dataset_keep_in_memory",
         "remove_unused_columns", "skip_prepare_dataset", "dataset_shard_num"),
        _LOADING,
    ),
    "chat_template": chat_template,
    "chat_template_jinja": chat_template_jinja,
    "default_system_message": question("a system message is not added to rows that have none"),
    "eot_tokens": drop("the end of a turn is taken from the template"),
    "special_tokens": _special_tokens,
    **dict.fromkeys(
        ("tokens", "added_tokens", "added_tokens_overrides"),
        feature("new tokens need embeddings that are trained, which an adapter alone has not"),
    ),
    "resize_token_embeddings_to_32x": feature("the vocabulary is taken as it is"),
    "sequence_len": to("data.max_length"),
    "sample_packing": _packing,
    "eval_sample_packing": drop("held-out rows are packed as well; each is judged alone"),
    "pad_to_sequence_len": drop("packed bins need no padding"),
    "excess_length_strategy": _over_long,
    "group_by_length": drop("rows are packed by their length"),
    "min_sample_len": question("no row is dropped for being short"),
    "train_on_inputs": flag("data.assistant_only_loss", negated=True),
    "curriculum_sampling": question("rows come in a new order each epoch"),
    "micro_batch_size": to("train.per_device_train_batch_size"),
    "gradient_accumulation_steps": to("train.gradient_accumulation_steps"),
    "eval_batch_size": drop("the size of a batch does not change an evaluation"),
    "batch_size": lambda draft, key, value: draft.asked(
        key, value, "the total, from which micro-batches follow",
        "train.gradient_accumulation_steps=N",
    ),
    "num_epochs": to("train.num_train_epochs"),
    "max_steps": _max_steps,
    "learning_rate": to("train.learning_rate"),
    "lr_scheduler": schedule,
    "lr_scheduler_kwargs": feature("the schedules take no further settings"),
    "cosine_min_lr_ratio": feature("the cosine falls to zero"),
    "cosine_constant_lr_ratio": feature("the cosine falls to zero"),
    "embedding_lr": feature("there is one learning rate"),
    "embedding_lr_scale": feature("there is one learning rate"),
    "lr_groups": feature("there is one learning rate"),
    "warmup_steps": warmup,
    "warmup_ratio": warmup,
    "optimizer": optimizer,
    "optim_args": feature("AdamW takes its betas, its epsilon and nothing else"),
    "optim_target_modules": feature("GaLore and its like are not there"),
    "weight_decay": to("train.weight_decay"),
    "max_grad_norm": to("train.max_grad_norm"),
    "adam_beta1": to("train.adam_beta1"),
    "adam_beta2": to("train.adam_beta2"),
    "adam_epsilon": to("train.adam_epsilon"),
    "bf16": compute_type("bfloat16"),
    "bfloat16": compute_type("bfloat16"),
    "fp16": compute_type("float16"),
    "float16": compute_type("float16"),
    "tf32": drop("decided by the device; adapters are kept in float32"),
    "gradient_checkpointing": checkpointing,
    "gradient_checkpointing_kwargs": drop("how a layer is recomputed changes no number"),
    "activation_offloading": drop("memory is planned before the first step"),
    **dict.fromkeys(
        ("attn_implementation", "flash_attention", "sdp_attention", "xformers_attention",
         "eager_attention", "flex_attention", "torch_compile", "torch_compile_backend",
         "torch_compile_mode", "low_cpu_mem_usage"),
        drop(f"which implementation computes it is {LOSSLESS}"),
    ),
    "s2_attention": feature("shifted sparse attention computes another model"),
    "logging_steps": drop(EVERY_STEP),
    "include_tokens_per_second": drop("speed is always shown"),
    "eval_steps": cadence("train.eval_steps", evaluates),
    "evals_per_epoch": per_epoch("train.eval_steps", _epochs, evaluates),
    "eval_strategy": _strategy("eval"),
    "evaluation_strategy": _strategy("eval"),
    "save_steps": cadence("train.save_steps"),
    "saves_per_epoch": per_epoch("train.save_steps", _epochs),
    "save_strategy": _strategy("save"),
    "save_total_limit": to("train.save_total_limit"),
    "save_only_model": drop("checkpoints hold what resuming needs"),
    "save_safetensors": drop("adapters are written as safetensors"),
    "load_best_model_at_end": question("the last adapter is what a run ends with, not the best"),
    **dict.fromkeys(
        ("metric_for_best_model", "greater_is_better"), drop("no checkpoint is chosen by a metric")
    ),
    **dict.fromkeys(
        ("eval_table_size", "eval_max_new_tokens", "eval_causal_lm_metrics"),
        drop("an evaluation is the loss; `evenfall chat` shows answers"),
    ),
    "hf_use_auth_token": drop("the hub's own login is used (`hf auth login`)"),
    "early_stopping_patience": question("a run does not end early by itself"),
    "loss_watchdog_threshold": _GUARD,
    "loss_watchdog_patience": _GUARD,
    "output_dir": to("output_dir", "the folder that holds run folders"),
    "resume_from_checkpoint": question("a run of another tool cannot be taken up"),
    "auto_resume_from_checkpoints": drop("`evenfall train --resume` takes a run up"),
    "seed": to("train.seed"),
    "rl": feature(PREFERENCE),
    "reward_model": feature(PREFERENCE),
    "process_reward_model": feature(PREFERENCE),
    "trl": _RL,
    "orpo_alpha": _RL,
    "neftune_noise_alpha": feature("NEFTune's noise on embeddings is not there"),
    "noisy_embedding_alpha": feature("NEFTune's noise on embeddings is not there"),
    "context_parallel_size": _GPUS,
    "sequence_parallel_degree": _GPUS,
    "tensor_parallel_size": _GPUS,
    "device_map": _GPUS,
    "local_rank": _GPUS,
    "world_size": _GPUS,
    "max_memory": _GPUS,
    "gpu_memory_limit": _GPUS,
    "strict": drop("a key that is not known is always asked about"),
    "debug": drop("prints more"),
}  # fmt: skip
"""Key -> what is done with it."""

_PREFIXES: tuple[tuple[str, Handler], ...] = (
    *((name, _LOGS) for name in ("wandb_", "mlflow_", "comet_", "trackio_", "use_wandb",
                                 "use_mlflow", "use_comet", "use_tensorboard", "use_trackio",
                                 "hub_", "push_")),
    *((name, _RL) for name in ("rl_", "dpo_", "kto_", "simpo_")),
    *((name, _GPUS) for name in ("deepspeed", "fsdp", "ddp")),
    ("liger_", _KERNEL),
    ("flash_attn_", _KERNEL),
    ("sample_packing_", _LOADING),
    ("dataloader_", _LOADING),
)  # fmt: skip
