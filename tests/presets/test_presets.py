"""Presets: their keys are RunConfig's, their sizes are true, and each setting says why."""

import dataclasses
import itertools
import json

import pytest

from evenfall.engine.config.run_config import config_fields, parse_config
from evenfall.presets.load import (
    Architecture,
    PresetError,
    demo_folder,
    gpu_preset,
    gpu_presets,
    model_preset,
    model_presets,
    preset_overrides,
    recipe_preset,
    recipe_presets,
)

DEFAULTS = parse_config({})
REQUIRED_MODELS = {
    "demo",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-3B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    *(f"Qwen/Qwen2.5-{size}-Instruct" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B")),
    *(f"Qwen/Qwen2.5-Coder-{size}-Instruct" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B")),
    "mistralai/Mistral-7B-Instruct-v0.3",
    "google/gemma-2-2b-it",
    "google/gemma-2-9b-it",
    "google/gemma-2-27b-it",
    "microsoft/Phi-3.5-mini-instruct",
}


def weights(family: str, a: Architecture) -> int:
    """All weights of a dense decoder: what a memory estimate multiplies by bytes."""
    query, key_value = a.heads * a.head_dim, a.kv_heads * a.head_dim
    attention = 2 * a.hidden * query + 2 * a.hidden * key_value
    if family == "qwen2":
        attention += query + 2 * key_value  # biases on q, k and v
    norms = {"gemma2": 4}.get(family, 2)  # gemma2 also norms what each half of a layer gives
    layer = attention + 3 * a.hidden * a.intermediate + norms * a.hidden
    embeddings = a.vocab * a.hidden * (1 if a.tied_embeddings else 2)
    return embeddings + a.layers * layer + a.hidden


def test_the_promised_models_recipes_and_gpus_are_there():
    assert {preset.name_or_path for preset in model_presets()} >= REQUIRED_MODELS
    assert model_presets()[0].id == "demo"
    assert {preset.id for preset in recipe_presets()} == {
        "quick-test",
        "instruction-tuning",
        "domain-cpt",
        "small-data",
        "code",
    }
    sizes = {preset.name: preset.memory_gb for preset in gpu_presets()}
    assert sizes == {
        "T4": 16,
        "RTX 3090": 24,
        "RTX 4090": 24,
        "A10": 24,
        "L4": 24,
        "RTX 5090": 32,
        "A100 40GB": 40,
        "L40S": 48,
        "A6000": 48,
        "A100 80GB": 80,
        "H100": 80,
        "H200": 141,
        "B200": 180,
    }
    assert list(sizes.values()) == sorted(sizes.values())


def test_ids_are_unique():
    for ids in (
        [preset.id for preset in model_presets()],
        [preset.name_or_path for preset in model_presets()],
        [preset.id for preset in recipe_presets()],
        [preset.name for preset in gpu_presets()],
    ):
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("preset", model_presets(), ids=lambda preset: preset.id)
def test_a_models_parameter_count_is_that_of_its_architecture(preset):
    assert preset.parameters == weights(preset.family, preset.architecture)


@pytest.mark.parametrize("preset", model_presets(), ids=lambda preset: preset.id)
def test_a_model_names_a_recipe_that_exists_and_fits_its_context(preset):
    assert preset.recipe in {recipe.id for recipe in recipe_presets()}
    config = DEFAULTS.with_overrides(preset_overrides(preset.id, preset.recipe))
    assert config.data.max_length <= preset.context
    assert config.model.name_or_path == preset.name_or_path


@pytest.mark.skipif(not (demo_folder() / "model" / "config.json").exists(), reason="the demo model is not built")
def test_the_demo_preset_describes_the_model_that_ships():
    config = json.loads((demo_folder() / "model" / "config.json").read_text())
    demo = model_preset("demo")
    assert demo.family == config["model_type"]
    assert demo.context == config["max_position_embeddings"]
    assert dataclasses.astuple(demo.architecture) == (
        config["num_hidden_layers"],
        config["hidden_size"],
        config["intermediate_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
        config["vocab_size"],
        config["tie_word_embeddings"],
    )


def test_run_config_takes_every_combination_of_presets_as_it_is():
    """What a preset says is what the run gets: no key unknown, no value coerced or lost."""
    models = [None, *(preset.id for preset in model_presets())]
    recipes = [None, *(preset.id for preset in recipe_presets())]
    gpus = [None, *(preset.name for preset in gpu_presets())]
    for model, recipe, gpu in itertools.product(models, recipes, gpus):
        overrides = preset_overrides(model, recipe, gpu)
        config = DEFAULTS.with_overrides(overrides)
        for override in overrides:
            path, _, text = override.partition("=")
            section, key = path.split(".")
            assert getattr(getattr(config, section), key) == json.loads(text), override


def test_every_setting_of_a_recipe_or_gpu_has_a_reason():
    keys = {field.key for field in config_fields()}
    for preset in (*recipe_presets(), *gpu_presets()):
        assert preset.settings.keys() == preset.reasons.keys()
        assert preset.settings.keys() <= keys
        for key, reason in preset.reasons.items():
            assert len(reason) > 30 and reason.endswith("."), f"{preset}: {key}: {reason!r}"


def test_recipes_guide_rate_rank_and_batch():
    wanted = {
        "train.learning_rate",
        "adapter.r",
        "adapter.lora_alpha",
        "train.per_device_train_batch_size",
        "train.gradient_accumulation_steps",
    }
    for recipe in recipe_presets():
        assert wanted <= recipe.settings.keys(), recipe.id


def test_every_recipe_scales_the_adapter_alike():
    """alpha / r, or alpha / sqrt(r), is 2 everywhere, as the reasons say: rates then carry over."""
    for recipe in recipe_presets():
        config = DEFAULTS.with_overrides(preset_overrides(recipe=recipe.id))
        r = config.adapter.r
        assert config.adapter.lora_alpha / (r**0.5 if config.adapter.use_rslora else r) == 2


@pytest.mark.parametrize("gpu", [preset.name for preset in gpu_presets()])
@pytest.mark.parametrize("recipe", [None, *(preset.id for preset in recipe_presets())])
def test_a_gpu_does_not_change_how_much_an_update_learns_from(recipe, gpu):
    def bins(overrides):
        train = DEFAULTS.with_overrides(overrides).train
        return train.per_device_train_batch_size * train.gradient_accumulation_steps

    assert bins(preset_overrides(recipe=recipe, gpu=gpu)) == bins(preset_overrides(recipe=recipe))


def test_a_model_has_the_last_word_over_a_recipe():
    assert recipe_preset("instruction-tuning").settings["train.learning_rate"] == 2e-4
    overrides = preset_overrides("llama-3.3-70b", "instruction-tuning")
    assert DEFAULTS.with_overrides(overrides).train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("find", "wrong", "near"),
    [
        (model_preset, "llama3.1-8b", "llama-3.1-8b"),
        (recipe_preset, "instruct-tuning", "instruction-tuning"),
        (gpu_preset, "a100 80gb", "A100 80GB"),
    ],
)
def test_an_unknown_preset_is_answered_with_the_nearest(find, wrong, near):
    with pytest.raises(PresetError, match=r"no such .* preset") as error:
        find(wrong)
    assert repr(near) in str(error.value) and repr(wrong) in str(error.value)


def test_an_unknown_preset_like_no_other_is_answered_with_the_list():
    with pytest.raises(PresetError, match="quick-test, instruction-tuning"):
        preset_overrides(recipe="zzz")


def test_the_callers_list_is_its_own():
    model_presets().clear()
    assert model_presets()
