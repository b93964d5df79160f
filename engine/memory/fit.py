"""Put a memory plan into effect: tell every layer what it saves, by what is free now."""

import gc
from typing import Any

from peft import PeftModel

from ..machine.memory import free_bytes
from ..model.families.fast_layer import fast_states
from ..run.events import MemoryPlanned
from ..training.state import Run
from .cost import saved_bytes
from .plan import plan_memory


def set_recompute(model: Any, on: bool) -> None:
    """Switch activation recompute (gradient checkpointing) of every decoder layer.

    Stock layers recompute as transformers has it, fast ones (`fast_layer.py`) by themselves.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    options = {"use_reentrant": False}
    if hasattr(base, "activation_checkpointing_enable"):  # transformers >= 5.23
        if on:
            base.activation_checkpointing_enable(options)
        else:
            base.activation_checkpointing_disable()
    elif on:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    else:
        base.gradient_checkpointing_disable()
    for layer in base.modules():
        if (state := getattr(layer, "evenfall", None)) is not None:
            state.level = "layer" if on else "kept"
            layer.gradient_checkpointing = False


def fit_memory(run: Run) -> None:
    """Set what every layer saves by the run's configuration and the memory that is free now."""
    train = run.config.train
    set_recompute(run.model, train.gradient_checkpointing)
    states = fast_states(run.model)
    if not states or run.device.type != "cuda":
        return
    for state in states:
        state.parts.stream.clear()
        for group in state.parts.groups:
            group.keep_weights(False)
    gc.collect()  # failed steps and earlier models leave cycles that hold memory
    tokens = train.per_device_train_batch_size * run.config.data.max_length
    free, total = free_bytes(run.device)
    arch = run.model.config.get_text_config()
    if run.head is None:  # logits, their fp32 copy, and a gradient of each
        free -= 12 * tokens * arch.vocab_size
    stock = arch.num_hidden_layers - len(states)
    if stock > 0:  # they hold what they like: about twice as much as fast ones
        free -= stock * 2 * saved_bytes(states[0].parts, tokens, "kept")
    plan = plan_memory(
        [state.parts for state in states], tokens, free, total,
        recompute=train.gradient_checkpointing, margin=run.state.memory_margin,
    )  # fmt: skip
    for index, (state, level) in enumerate(zip(states, plan.levels(), strict=True)):
        state.level = level
        for group in state.parts.groups:
            group.keep_weights(index < plan.cached)
    run.saves_more = bool(plan.kept or plan.cheap or plan.cached)
    run.control.emit(
        MemoryPlanned(
            plan.kept, plan.cheap, plan.recomputed, plan.cached, plan.activations / 1e9,
            plan.weights / 1e9,
        )
    )  # fmt: skip
