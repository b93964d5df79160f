"""Put a memory plan into effect: tell every layer what it saves, by what is free now."""

import gc
from typing import Any

from ..config.run_config import RunConfig
from ..machine.memory import free_bytes
from ..model.base import base_of
from ..model.families.fast_layer import fast_states
from ..model.trained import TrainedModel
from .cost import saved_bytes
from .plan import MARGIN, MemoryPlan, plan_memory


def set_recompute(model: Any, on: bool) -> None:
    """Switch activation recompute (gradient checkpointing) of every decoder layer.

    Stock layers recompute as transformers has it, fast ones (`fast_layer.py`) by themselves.
    """
    base = base_of(model)
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


def fit_memory(trained: TrainedModel, config: RunConfig, margin: float = MARGIN) -> MemoryPlan | None:
    """Set what every layer saves, by the configuration and the memory that is free now.

    Args:
        margin: part of the GPU's memory to leave alone.

    Returns:
        The plan; None where nothing is planned: on a CPU, and for stock layers.
    """
    train = config.train
    set_recompute(trained.model, train.gradient_checkpointing)
    states = fast_states(trained.model)
    if not states or trained.device.type != "cuda":
        return None
    for state in states:
        state.parts.stream.clear()
        for group in state.parts.groups:
            group.keep_weights(False)
    gc.collect()  # failed steps and earlier models leave cycles that hold memory
    tokens = train.per_device_train_batch_size * config.data.max_length
    free, total = free_bytes(trained.device)
    arch = trained.model.config.get_text_config()
    if trained.head is None:  # logits, their fp32 copy, and a gradient of each
        free -= 12 * tokens * arch.vocab_size
    stock = arch.num_hidden_layers - len(states)
    if stock > 0:  # they hold what they like: about twice as much as fast ones
        free -= stock * 2 * saved_bytes(states[0].parts, tokens, "kept")
    plan = plan_memory(
        [state.parts for state in states], tokens, free, total,
        recompute=train.gradient_checkpointing, margin=margin,
    )  # fmt: skip
    for index, (state, level) in enumerate(zip(states, plan.levels(), strict=True)):
        state.level = level
        for group in state.parts.groups:
            group.keep_weights(index < plan.cached)
    return plan
