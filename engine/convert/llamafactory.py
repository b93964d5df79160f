"""LLaMA-Factory: the YAML or JSON of its command line, and the files that LLaMA Board saves.

Training keys are transformers' own, with LLaMA-Factory's defaults. A Board file holds the ids of
the screen's elements instead (`train.batch_size`); they are renamed to the command line's keys as
Board itself does, and the report names them as the file does.
"""

from typing import Any

import orjson

from .draft import Draft
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
    numeric,
    on_only,
    optimizer,
    question,
    run_table,
    schedule,
    share_of_run,
    to,
    validation,
    warmup,
    word,
)
from .llamafactory_data import dataset, dataset_dir, eval_dataset, evaluates, max_samples
from .templates import of_llamafactory

TOOL = "LLaMA-Factory"
BOARD = "LLaMA Board"

_MARKS = {
    "stage", "finetuning_type", "cutoff_len", "lora_target", "lora_rank", "template", "dataset_dir",
    "quantization_bit", "export_dir",
}  # fmt: skip
_BOARD_KEYS = {
    "top.model_path": "model_name_or_path",
    "top.checkpoint_path": "adapter_name_or_path",
    "train.training_stage": "stage",
    "train.batch_size": "per_device_train_batch_size",
    "train.neftune_alpha": "neftune_noise_alpha",
    "train.use_pissa": "pissa_init",
    "train.ds_stage": "deepspeed",
}
_PACKED = "is not set: documents share bins there too; here they never see each other"
_STAGES = {"supervised fine-tuning": "sft", "pre-training": "pt"}

_epochs = epochs_of("num_train_epochs", 3.0)


def recognise(tree: dict[str, Any]) -> bool:
    """Whether these keys are the command line's."""
    return "model_name_or_path" in tree and bool(_MARKS & tree.keys())


def recognise_board(tree: dict[str, Any]) -> bool:
    """Whether these keys are Board's."""
    return any(key.startswith(("top.", "train.")) for key in tree)


def from_board(tree: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Board's keys as the command line's, and each with the name that the file gives it."""
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    for key, value in tree.items():
        if key == "train.extra_args" and isinstance(extra := _json(value), dict):
            pairs = [(name, f"{key}.{name}", part) for name, part in extra.items()]
        else:
            plain = key.partition(".")[2] if key.startswith(("top.", "train.")) else key
            pairs = [(_BOARD_KEYS.get(key, plain), key, value)]
        for name, shown_as, part in pairs:
            # Two elements of one meaning: both are shown, and the second is asked about.
            name = shown_as if name in given else name
            given[name], names[name] = part, shown_as
    return given, names


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def convert(draft: Draft) -> None:
    """Say a line for every key, then the defaults of those that are not there."""
    if "export_dir" in draft.given and not is_on(draft.given.get("do_train", False)):
        for key, value in draft.given.items():
            if key == "export_dir":
                draft.refused(key, value, "the file merges and trains nothing: use `evenfall export`")
            else:
                draft.ignored(key, value, "belongs to the merge")
        return
    if "model_name_or_path" not in draft.given:
        draft.asked("model_name_or_path", None, "the model is needed", "model.name_or_path=MODEL")
    if "dataset" not in draft.given:
        draft.asked("dataset", None, "the data is needed", "data.path=FILE")
    run_table(draft, _TABLE, _PREFIXES)
    if "quantization_bit" not in draft.given:
        draft.default("quantization_bit", "model.quantization", "none", "16-bit LoRA")
    rank = draft.tree.get("adapter.r", 8)
    for key, target, value, said in (
        ("lora_rank", "adapter.r", 8, ""),
        ("lora_alpha", "adapter.lora_alpha", 2 * rank, "2 × lora_rank"),
        ("per_device_train_batch_size", "train.per_device_train_batch_size", 8, ""),
        ("gradient_accumulation_steps", "train.gradient_accumulation_steps", 1, ""),
        ("learning_rate", "train.learning_rate", 5e-5, ""),
        ("num_train_epochs", "train.num_train_epochs", 3.0, ""),
        ("lr_scheduler_type", "train.lr_scheduler_type", "linear", ""),
        ("warmup_steps", "train.warmup_steps", 0, ""),
        ("save_steps", "train.save_steps", 500, ""),
        ("save_total_limit", "train.save_total_limit", 1000, "keeps every checkpoint"),
    ):
        draft.default(key, target, value, said)
    if word(draft.given.get("eval_strategy")) == "steps" and evaluates(draft):
        draft.default("eval_steps", "train.eval_steps", 500, "")
    if not {"packing", "neat_packing"} & draft.given.keys():
        draft.ignored("packing", None, _PACKED if _documents(draft) else f"is not set: {SMALLER_BATCH}")
    if "template" not in draft.given:
        draft.ignored("template", None, "is not set: the tokenizer's own chat template is taken")


def _stage(draft: Draft, key: str, value: Any) -> None:
    stage = _STAGES.get(word(value), word(value))
    if stage == "pt":
        draft.belongs(key, value, "data.format=text", "documents are learnt whole")
    elif stage == "sft":
        draft.ignored(key, value, "fine-tuning on answers is what is done")
    else:
        draft.refused(key, value, PREFERENCE)


def _method(draft: Draft, key: str, value: Any) -> None:
    if word(value) == "lora":
        draft.ignored(key, value, "LoRA is what is trained")
    else:
        draft.refused(key, value, NO_ADAPTER)


def _bits(draft: Draft, key: str, value: Any) -> None:
    target = "model.quantization"
    if is_off(value):
        draft.mapped(key, value, target, "none")
    elif number(value) == 4:
        draft.mapped(key, value, target, "nf4")
    else:
        draft.asked(key, value, "weights are held in 4 bits or in 16", f"{target}=nf4", f"{target}=none")


def _only(word_there: str, why: str) -> Handler:
    def handle(draft: Draft, key: str, value: Any) -> None:
        if word(value) in (word_there, "none"):
            draft.ignored(key, value, "as it is here")
        else:
            draft.refused(key, value, why)

    return handle


def _documents(draft: Draft) -> bool:
    stage = word(draft.given.get("stage"))
    return _STAGES.get(stage, stage) == "pt"


def _cutoff(draft: Draft, key: str, value: Any) -> None:
    said = "cuts a longer row at its end, not in the prompt as well"
    if _documents(draft) and not is_off(draft.given.get("packing", True)):
        said = "cuts a longer document at its end; there the rest of it goes on in the next bin: split long documents"
    draft.mapped(key, value, "data.max_length", value, said)


def _pack(draft: Draft, key: str, value: Any) -> None:
    if is_on(value):
        draft.ignored(key, value, "rows are always packed, and never see each other")
    else:
        draft.ignored(key, value, SMALLER_BATCH)


def _history(draft: Draft, key: str, value: Any) -> None:
    turns = "last" if is_on(value) else "all"
    draft.mapped(key, value, "data.assistant_turns", turns)


def _precision(draft: Draft, key: str, value: Any) -> None:
    ours = {"bf16": "bfloat16", "pure_bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    said = "adapters stay in float32" if "pure" in word(value) else ""
    draft.mapped(key, value, "model.dtype", ours.get(word(value), value), said)


def _max_steps(draft: Draft, key: str, value: Any) -> None:
    steps = number(value)
    if steps is not None and steps <= 0:
        draft.ignored(key, value, "no limit: epochs decide")
    else:
        draft.mapped(key, value, "train.max_steps", value)


def _strategy(target: str, evaluation: bool) -> Handler:
    def handle(draft: Draft, key: str, value: Any) -> None:
        if word(value) == "epoch" and (evaluates(draft) or not evaluation):
            share, said = share_of_run(1, _epochs(draft))
            draft.mapped(key, value, target, share, said)
        elif word(value) in ("no", "false", "steps", "epoch"):
            draft.ignored(key, value, "only the number of steps counts, where rows are held out")
        else:
            draft.unknown(key, value)

    return handle


def _save_steps(draft: Draft, key: str, value: Any) -> None:
    if word(draft.given.get("save_strategy", "steps")) == "steps":
        cadence("train.save_steps")(draft, key, value)
    else:
        draft.ignored(key, value, "save_strategy is not `steps`")


def _eval_steps(draft: Draft, key: str, value: Any) -> None:
    strategy = draft.given.get("eval_strategy", draft.given.get("evaluation_strategy", "no"))
    if word(strategy) == "steps":
        cadence("train.eval_steps", evaluates)(draft, key, value)
    else:
        draft.ignored(key, value, "eval_strategy is not `steps`")


def _number_to(target: str) -> Handler:
    """Board writes some numbers as text."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        draft.mapped(key, value, target, numeric(value))

    return handle


def _val_size(draft: Draft, key: str, value: Any) -> None:
    validation(draft, key, value)
    board = draft.tool == BOARD and not is_off(value) and "save_steps" in draft.given
    if board and "eval_steps" not in draft.given and (steps := numeric(draft.given["save_steps"])):
        draft.default("eval_steps", "train.eval_steps", steps, "Board evaluates when it saves")


_LOADING = drop("how data is loaded changes no result")
_GPUS = drop(ONE_GPU)
_LOGS = drop(NO_UPLOADS)
_KERNEL = drop(LOSSLESS)
_VOCABULARY = feature("new tokens need embeddings that are trained, which an adapter alone has not")
_ANSWERING = drop("belongs to answering, not to training")
_PISSA = feature("PiSSA starts the adapter from the weights' singular vectors; here A is random")

_TABLE: dict[str, Handler] = {
    "model_name_or_path": to("model.name_or_path"),
    "model_name": drop("Board's name of the model; top.model_path is what loads"),
    "model_revision": to("model.revision"),
    "trust_remote_code": flag("model.trust_remote_code"),
    "adapter_name_or_path": feature("goes on with an adapter; here each run starts a new one"),
    "create_new_adapter": drop("each run starts a new adapter"),
    "use_fast_tokenizer": drop("the fast tokenizer is always used"),
    "cache_dir": drop("the hub's own cache is used (HF_HOME)"),
    "low_cpu_mem_usage": drop("weights are loaded piece by piece"),
    "resize_vocab": _VOCABULARY,
    "add_tokens": _VOCABULARY,
    "new_special_tokens": _VOCABULARY,
    "add_special_tokens": _VOCABULARY,
    "split_special_tokens": question("special tokens in a row's text are read as such"),
    "rope_scaling": feature("changes the model's own config, which is taken as it is"),
    "stage": _stage,
    "do_train": on_only("training is what is done", "the file trains nothing"),
    "do_eval": drop("held-out rows decide whether there is an evaluation"),
    "do_predict": drop("`evenfall chat` asks the model after training"),
    "predict_with_generate": _ANSWERING,
    "finetuning_type": _method,
    "lora_rank": to("adapter.r"),
    "lora_alpha": to("adapter.lora_alpha"),
    "lora_dropout": to("adapter.lora_dropout"),
    "lora_target": modules,
    "additional_target": feature("whole layers cannot be trained beside the adapter"),
    "use_rslora": flag("adapter.use_rslora"),
    "use_dora": feature("DoRA is not there"),
    "pissa_init": _PISSA,
    "pissa_iter": drop("belongs to PiSSA"),
    "pissa_convert": drop("belongs to PiSSA"),
    "loraplus_lr_ratio": feature("LoRA+ gives the B matrices a rate of their own; there is one rate"),
    "loraplus_lr_embedding": drop("belongs to LoRA+"),
    "quantization_bit": _bits,
    "quantization_method": _only("bnb", "only bitsandbytes' 4-bit format is there"),
    "quantization_type": _only("nf4", "only nf4 is there"),
    "quantization_device_map": _GPUS,
    "double_quantization": flag("model.use_double_quant"),
    "use_llama_pro": feature("training added blocks is not there"),
    "use_galore": feature("GaLore is not there"),
    "use_apollo": feature("APOLLO is not there"),
    "use_badam": feature("BAdam is not there"),
    "use_adam_mini": feature("Adam-mini is not there"),
    "use_muon": feature("Muon is not there"),
    **dict.fromkeys(
        ("use_dft_loss", "use_asft_loss", "use_eaft_loss", "label_smoothing_factor"),
        feature("the loss is plain cross-entropy"),
    ),
    "ignore_pad_token_for_loss": drop("packed bins need no padding"),
    "shift_attn": feature("shifted sparse attention computes another model"),
    "mixture_of_depths": feature("mixture of depths changes the model"),
    "moe_aux_loss_coef": feature("the router's balancing loss is not there"),
    "neftune_noise_alpha": feature("NEFTune's noise on embeddings is not there"),
    "ref_model": drop("belongs to preference training"),
    "reward_model": drop("belongs to preference training"),
    "simpo_gamma": drop("belongs to preference training"),
    "dataset": dataset,
    "dataset_dir": dataset_dir,
    "eval_dataset": eval_dataset,
    "val_size": _val_size,
    "max_samples": max_samples,
    "mix_strategy": _only("concat", "data sets are joined, not interleaved"),
    "interleave_probs": feature("data sets are joined, not interleaved"),
    "streaming": question("all rows are prepared before training"),
    "disable_shuffling": flag("data.shuffle", negated=True),
    "eval_on_each_dataset": drop("held-out rows are evaluated together"),
    "media_dir": drop("only for images, video and sound"),
    **dict.fromkeys(
        ("overwrite_cache", "preprocessing_num_workers", "preprocessing_batch_size", "buffer_size",
         "tokenized_path", "remove_unused_columns", "data_seed"),
        _LOADING,
    ),
    "template": of_llamafactory,
    "default_system": question("a system message is not added to rows that have none"),
    "tool_format": question("tools are written as the chat template writes them"),
    "enable_thinking": on_only(
        "the template decides what stands before an answer", "the template decides about thinking"
    ),
    "cutoff_len": _cutoff,
    "packing": _pack,
    "neat_packing": _pack,
    "train_on_prompt": flag("data.assistant_only_loss", negated=True),
    "mask_history": _history,
    "group_by_length": drop("rows are packed by their length"),
    "per_device_train_batch_size": to("train.per_device_train_batch_size"),
    "gradient_accumulation_steps": to("train.gradient_accumulation_steps"),
    **dict.fromkeys(
        ("per_device_eval_batch_size", "eval_accumulation_steps"),
        drop("the size of a batch does not change an evaluation"),
    ),
    "learning_rate": _number_to("train.learning_rate"),
    "num_train_epochs": _number_to("train.num_train_epochs"),
    "max_steps": _max_steps,
    "lr_scheduler_type": schedule,
    "lr_scheduler_kwargs": feature("the schedules take no further settings"),
    "warmup_steps": warmup,
    "warmup_ratio": warmup,
    "optim": optimizer,
    "optim_args": feature("AdamW takes its betas, its epsilon and nothing else"),
    "weight_decay": to("train.weight_decay"),
    "max_grad_norm": _number_to("train.max_grad_norm"),
    "adam_beta1": to("train.adam_beta1"),
    "adam_beta2": to("train.adam_beta2"),
    "adam_epsilon": to("train.adam_epsilon"),
    "bf16": compute_type("bfloat16"),
    "fp16": compute_type("float16"),
    "pure_bf16": compute_type("bfloat16"),
    "compute_type": _precision,
    "tf32": drop("decided by the device; adapters are kept in float32"),
    "upcast_layernorm": drop("norms compute in float32 as the model's own code does"),
    "upcast_lmhead_output": drop("the loss computes in float32"),
    "disable_gradient_checkpointing": checkpointing,
    "gradient_checkpointing": checkpointing,
    "gradient_checkpointing_kwargs": drop("how a layer is recomputed changes no number"),
    "use_reentrant_gc": drop("how a layer is recomputed changes no number"),
    **dict.fromkeys(
        ("flash_attn", "enable_liger_kernel", "use_unsloth", "use_unsloth_gc", "booster",
         "torch_compile"),
        _KERNEL,
    ),
    "logging_steps": drop(EVERY_STEP),
    "logging_strategy": drop(EVERY_STEP),
    "logging_first_step": drop(EVERY_STEP),
    "logging_dir": drop("events are kept in the run's folder"),
    "save_steps": _save_steps,
    "save_strategy": _strategy("train.save_steps", False),
    "save_total_limit": to("train.save_total_limit"),
    "save_only_model": drop("checkpoints hold what resuming needs"),
    "eval_strategy": _strategy("train.eval_steps", True),
    "evaluation_strategy": _strategy("train.eval_steps", True),
    "eval_steps": _eval_steps,
    "early_stopping_steps": question("a run does not end early by itself"),
    "load_best_model_at_end": question("the last adapter is what a run ends with, not the best"),
    **dict.fromkeys(
        ("metric_for_best_model", "greater_is_better"), drop("no checkpoint is chosen by a metric")
    ),
    "compute_accuracy": drop("an evaluation is the loss"),
    "plot_loss": drop("the loss is drawn as it falls"),
    "output_dir": to("output_dir", "the folder that holds run folders"),
    "overwrite_output_dir": drop("each run has a folder of its own"),
    "resume_from_checkpoint": question("a run of another tool cannot be taken up"),
    "seed": to("train.seed"),
    "report_to": _LOGS,
    "run_name": _LOGS,
    **dict.fromkeys(("hf_hub_token", "ms_hub_token", "om_hub_token"), _LOGS),
    "save_safetensors": drop("adapters are written as safetensors"),
    "push_to_hub": _LOGS,
    "include_num_input_tokens_seen": drop("tokens are always counted"),
    "include_tokens_per_second": drop("speed is always shown"),
    "ddp_timeout": _GPUS,
    "deepspeed": _GPUS,
    "device_count": _GPUS,
    "print_param_status": drop("prints more"),
    "lang": drop("the language of Board"),
    "max_new_tokens": _ANSWERING,
    "infer_dtype": _ANSWERING,
    "use_kv_cache": _ANSWERING,
    "temperature": _ANSWERING,
    "top_p": _ANSWERING,
    "infer_backend": _ANSWERING,
}  # fmt: skip
"""Key -> what is done with it."""

_PREFIXES: tuple[tuple[str, Handler], ...] = (
    *((name, drop("belongs to preference training")) for name in (
        "pref_", "kto_", "ppo_", "reward_model_", "ref_model_")),
    *((name, drop("only with the optimiser of that name")) for name in (
        "galore_", "apollo_", "badam_")),
    *((name, drop("only with finetuning_type: freeze, or for images")) for name in (
        "freeze_", "num_layer_trainable")),
    *((name, drop("only for images, video and sound")) for name in ("image_", "video_", "audio_")),
    *((name, _LOGS) for name in ("swanlab_", "use_swanlab", "trackio_", "wandb_", "hub_")),
    *((name, _GPUS) for name in ("fsdp", "ds_", "ddp_", "ray_", "use_ray")),
    ("dataloader_", _LOADING),
    ("export_", drop("`evenfall export` writes the model after training")),
)  # fmt: skip
