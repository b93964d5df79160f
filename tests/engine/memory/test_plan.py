"""The memory plan: what it counts is what is held, and it spends what there is and no more."""

import pytest
import torch
from tiny_layers import DEVICE, packed, tiny

from evenfall.engine.memory.cost import passing_bytes, saved_bytes, weight_bytes
from evenfall.engine.memory.plan import LEVELS, plan_memory
from evenfall.engine.model.families.fast_layer import FastDecoderLayer
from evenfall.engine.model.families.llama import read_llama_layer
from evenfall.engine.model.layers.decoder import Stream
from evenfall.engine.model.patch.proof import fast_class
from evenfall.kernels.backend import triton_runs_on
from evenfall.kernels.linear_cross_entropy import CHUNK_BYTES
from evenfall.kernels.qlora import Workspace

needs_triton = pytest.mark.skipif(not triton_runs_on(DEVICE), reason="needs Triton")


def states(family="llama", **changes):
    """A model on fast layers, and their states."""
    model = tiny(family, **changes)
    workspace, stream = Workspace(), Stream()
    layers = model.get_base_model().model.layers
    for layer in layers:
        layer.evenfall = read_llama_layer(layer, workspace, stream, torch.float32)
        layer.evenfall.leads = layer is layers[0]
        layer.__class__ = fast_class(type(layer), FastDecoderLayer)
    return model, [layer.evenfall for layer in layers]


@needs_triton
@pytest.mark.parametrize("changes", [{}, {"dropout": 0.3}])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_a_layer_is_counted_with_is_what_it_holds(family, level, changes):
    model, layers = states(family, **changes)
    for state in layers:
        state.level = level
    batch, held = packed(), {}
    frozen = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Kept alive, so that no address comes twice.
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = model.get_base_model().model(**batch)
    tokens = batch["input_ids"].shape[1]
    counted = sum(saved_bytes(state.parts, tokens, level) for state in layers)
    # Beside the layers the last norm saves its input, and layers share the rotation's tables.
    width = layers[0].parts.qkv.in_features
    beside = tokens * (3 * width + 4 * 16 + 8) * 4 + 4096
    assert counted <= sum(held.values()) + len(layers) * tokens * (width + 8) * 4
    assert sum(held.values()) <= counted + beside
    del output


def plan(gigabytes, layers=8, tokens=1 << 20, **options):
    _, (state, _) = states()
    total = int(gigabytes * 1e9)
    return plan_memory([state.parts] * layers, tokens, total, total, **options), state.parts


def test_all_is_kept_and_weights_too_where_there_is_room():
    found, parts = plan(1000)
    assert (found.kept, found.cheap, found.recomputed, found.cached) == (8, 0, 0, 8)
    assert found.weights == 8 * weight_bytes(parts)
    assert found.levels() == ["kept"] * 8


def test_nothing_is_kept_where_there_is_none():
    found, _ = plan(1)
    assert (found.kept, found.cheap, found.recomputed, found.cached) == (0, 0, 8, 0)


def test_more_memory_never_saves_less_and_the_plan_always_fits():
    tokens, last = 1 << 20, -1
    for gigabytes in range(2, 60, 2):
        found, parts = plan(gigabytes)
        assert found.kept + found.cheap + found.recomputed == 8
        assert found.activations >= last
        last = found.activations
        spent = found.activations + found.weights + passing_bytes(parts, tokens)
        assert found.recomputed == 8 or spent + 2 * CHUNK_BYTES < 0.94 * gigabytes * 1e9
        assert not found.cached or found.kept == 8
        assert not found.kept or not found.recomputed


def test_recompute_when_asked_is_recompute_whatever_there_is():
    found, parts = plan(1000, recompute=True)
    assert (found.recomputed, found.cached) == (8, 0)
    assert found.activations == 8 * saved_bytes(parts, 1 << 20, "layer")
