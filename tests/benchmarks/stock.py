"""The stock stack on a run's own rows: TRL's SFTTrainer, PEFT and bitsandbytes, unpatched.

Used as the oracle of the convergence test and of the GPU scripts. It gets the same rows in the same updates
and micro-batches, the same initial A, float32 adapters and no autocast, so that every loss can be
compared one by one; its attention, norms, padding and loss are its own.
"""

import itertools
import tempfile
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from evenfall.engine.bench.stack_trainer import float_adapters, in_this_order, labelled_rows
from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.data.pack.examples import Example
from evenfall.engine.data.prepare.prepare import PreparedData, prepare
from evenfall.engine.machine.device import compute_dtype, pick_device
from evenfall.engine.model.adapter import add_adapter
from evenfall.engine.model.load import compute_in, load_base
from evenfall.engine.model.source import model_source
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.engine.training.next_update import advance, next_update
from evenfall.engine.training.state import LoopState


class StockTraining(NamedTuple):
    losses: list[float]
    """Mean loss of each update."""
    adapter: dict[str, torch.Tensor]
    """At the end, by PEFT's names."""


def train_stock(config: RunConfig, steps: int) -> StockTraining:
    """The first `steps` updates of a run, by the stock stack.

    Raises:
        ValueError: one of several micro-batches would be a short one, at the end of an epoch.
    """
    device = pick_device(config.train.device)
    tokenizer = load_tokenizer(config)
    data = prepare(config, tokenizer, _quiet)
    model = _model_with_same_adapter(config, device)
    recipe = config.train
    collected: list[torch.Tensor] = []
    batches = _micro_batches(config, data, steps)
    rows = [row for batch in batches for row in batch]
    place = itertools.count()
    order = [[next(place) for _ in batch] for batch in batches]

    class Collecting(in_this_order(SFTTrainer, order)):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss = super().training_step(*args, **kwargs)
            collected.append(loss.detach())
            return loss

    with tempfile.TemporaryDirectory() as folder:
        options = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=recipe.per_device_train_batch_size,
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.lr_scheduler_type,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            adam_beta1=recipe.adam_beta1,
            adam_beta2=recipe.adam_beta2,
            adam_epsilon=recipe.adam_epsilon,
            optim="adamw_torch",
            gradient_checkpointing=recipe.gradient_checkpointing,
            bf16=False,
            fp16=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            use_cpu=device.type == "cpu",
            disable_tqdm=True,
        )
        trainer = Collecting(
            model=model,
            args=options,
            train_dataset=labelled_rows(rows),
            processing_class=tokenizer,
        )
        float_adapters(model)
        trainer.train()
    size = recipe.gradient_accumulation_steps
    losses = [torch.stack(collected[start : start + size]).sum().item() for start in range(0, len(collected), size)]
    return StockTraining(losses, get_peft_model_state_dict(model))


def _quiet(message: str, fraction: float | None) -> None:
    del message, fraction


def _micro_batches(config: RunConfig, data: PreparedData, steps: int) -> list[list[Example]]:
    """The rows of each micro-batch, in the order in which the loop takes them."""
    recipe = config.train
    size = recipe.per_device_train_batch_size
    state = LoopState(bins_per_update=size * recipe.gradient_accumulation_steps)
    batches = []
    for _ in range(steps):
        chosen = next_update(data.train, state, recipe.seed, config.data.shuffle)
        if recipe.gradient_accumulation_steps > 1 and len(chosen) < state.bins_per_update:
            raise ValueError(
                f"{steps} updates go past the end of an epoch, whose last one is short; the Trainer would "
                "fill it up with micro-batches: take more rows, or fewer updates"
            )
        for start in range(0, len(chosen), size):
            batches.append([row for rows in chosen[start : start + size] for row in rows])
        advance(data.train, state, len(chosen))
    return batches


def _model_with_same_adapter(config: RunConfig, device: torch.device) -> Any:
    ours = add_adapter(load_base(config.model, device, _quiet).model, config.adapter, config.train.seed)
    initial = {k: v.clone() for k, v in get_peft_model_state_dict(ours).items()}
    adapter: Any = ours.peft_config["default"]
    targets = adapter.target_modules
    del ours
    dtype = compute_dtype(config.model.dtype, device)
    options: dict[str, Any] = {}
    if config.model.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    base = AutoModelForCausalLM.from_pretrained(
        model_source(config.model), dtype=dtype, device_map={"": device}, **options
    )
    compute_in(base, dtype)
    base.requires_grad_(False)
    lora = LoraConfig(
        r=config.adapter.r,
        lora_alpha=config.adapter.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=config.adapter.lora_dropout,
        target_modules=targets,
        use_rslora=config.adapter.use_rslora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    set_peft_model_state_dict(model, initial)
    return model
