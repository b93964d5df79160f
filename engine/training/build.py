"""From a loaded base to a run at step 0: adapter, kernels (each proven first), optimiser, memory plan."""

import torch

from ...kernels.adamw import AdamWSettings
from ..config.run_config import RunConfig
from ..data.prepare.prepare import PreparedData
from ..model.adapter import add_adapter, trainable_parameters
from ..model.families.fast_layer import fast_states
from ..model.layers.packed_attention import STOCK_WAYS
from ..model.load import LoadedModel
from ..model.patch.attention import patch_attention
from ..model.patch.layers import patch_layers
from ..model.patch.loss_head import read_head
from ..model.patch.matmuls import patch_matmuls
from ..model.patch.norms_and_mlps import patch_model
from ..model.patch.proof import no_kernels_on
from ..model.trained import TrainedModel
from ..run import events as ev
from ..run.control import Control
from ..run.directory import RunDirectory
from .commands import reporter
from .next_update import micro_batches
from .optimizer import FlatAdamW
from .state import LoopState, Run


def build_run(
    directory: RunDirectory,
    config: RunConfig,
    control: Control,
    loaded: LoadedModel,
    data: PreparedData,
    device: torch.device,
    packed_length: int,
) -> Run:
    """Adapter, kernels and optimiser on the loaded base, at step 0."""
    options = config.train
    control.emit(ev.Progress("adding the adapter"))
    model = add_adapter(loaded.model, config.adapter, options.seed)
    head, ways = None, STOCK_WAYS
    if options.kernels == "auto":
        if not no_kernels_on(device):
            control.emit(ev.Progress("proving the kernels on this device"))
        ways, attention = patch_attention(model, device, _first_lengths(config, data))
        parts = [*patch_model(model, device).parts, *patch_layers(model, device, ways)]
        parts += [] if attention is None else [attention]
        if not no_kernels_on(device):
            head, part = read_head(model)
            parts.append(part)
            tokens = options.per_device_train_batch_size * packed_length
            matmuls = patch_matmuls(model, head, tokens, device, reporter(control))
            parts += [] if matmuls is None else [matmuls]
        control.emit(ev.PartsPatched(parts))
    bins = options.per_device_train_batch_size * options.gradient_accumulation_steps
    state = LoopState(packed_length=packed_length, bins_per_update=bins, data=data.fingerprint())
    settings = AdamWSettings(
        beta1=options.adam_beta1, beta2=options.adam_beta2, eps=options.adam_epsilon, weight_decay=options.weight_decay,
        max_norm=options.max_grad_norm,
    )  # fmt: skip
    optimizer = FlatAdamW(trainable_parameters(model), settings, options.optim)
    for layer in fast_states(model):
        layer.accumulate = True  # into the optimiser's buffer
    trained = TrainedModel(model=model, device=device, packed=loaded.packed, ways=ways, head=head)
    run = Run(
        directory=directory,
        config=config,
        control=control,
        trained=trained,
        optimizer=optimizer,
        data=data,
        state=state,
    )
    run.fit_memory()
    return run


def _first_lengths(config: RunConfig, data: PreparedData) -> tuple[int, ...]:
    """Of the documents of a micro-batch like those of the run."""
    bins = data.train.window(0, 0)
    assert bins is not None
    count = min(len(bins), config.train.per_device_train_batch_size)
    batches = micro_batches([bins.rows(index) for index in range(count)], config, packed=True)
    return batches[0].lengths if batches else ()
