"""Loading: which models are taken, how they are held, and what is said of those that are not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, ByT5Tokenizer, LlamaForCausalLM

from evenfall.engine.config.run_config import AdapterConfig, ModelConfig, RunConfig
from evenfall.engine.model.adapter import add_adapter, trainable_parameters
from evenfall.engine.model.folder import LoadError
from evenfall.engine.model.load import count_parameters, load_base
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.engine.run import events as ev
from evenfall.engine.run.find import create_run
from evenfall.engine.session.session import Session

CPU = torch.device("cpu")


def quiet(message: str, fraction: float | None) -> None:
    del message, fraction


def load(folder: Path, **options):
    return load_base(ModelConfig(name_or_path=str(folder), **options), CPU, quiet)


def copy_of(folder: Path, tmp_path: Path, **changes) -> Path:
    """A copy of a model folder with keys of its config.json changed."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_nf4_holds_linear_weights_in_four_bits_and_counts_what_they_stand_for(
    tiny_model: Path,
) -> None:
    four, sixteen = load(tiny_model), load(tiny_model, quantization="none")
    assert four.parameters == sixteen.parameters == count_parameters(sixteen.model)
    kinds = {type(module).__name__ for module in four.model.modules()}
    assert "Linear4bit" in kinds and four.quantization == "nf4" and four.packed
    layer = four.model.model.layers[0].self_attn.q_proj
    assert layer.weight.quant_state.nested, "double quantisation"
    plain = load(tiny_model, use_double_quant=False)
    assert not plain.model.model.layers[0].mlp.up_proj.weight.quant_state.nested
    assert not any(parameter.requires_grad for parameter in four.model.parameters())


def test_a_base_stays_in_its_own_dtype_and_the_adapter_is_float32(tiny_model: Path) -> None:
    loaded = load(tiny_model, dtype="bfloat16")
    assert loaded.model.model.embed_tokens.weight.dtype == torch.bfloat16
    adapted = add_adapter(loaded.model, AdapterConfig(r=4), seed=1)
    assert {p.dtype for p in trainable_parameters(adapted).values()} == {torch.float32}
    assert all(not p.any() for n, p in trainable_parameters(adapted).items() if "lora_B" in n)


def test_the_initial_adapter_comes_from_the_seed(tiny_model: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        adapted = add_adapter(load(tiny_model).model, AdapterConfig(r=4), seed)
        return next(iter(trainable_parameters(adapted).values())).clone()

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_a_new_adapter_is_as_peft_begins_one(tiny_model: Path) -> None:
    reset = torch.nn.Linear.reset_parameters
    for name, values in trainable_parameters(add_adapter(load(tiny_model).model, AdapterConfig(r=16), seed=1)).items():
        if "lora_B" in name:
            assert not values.any()
        else:  # uniform up to 1 / sqrt(in)
            bound = values.shape[1] ** -0.5
            assert 0.95 * bound < values.abs().max() <= bound
            assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert torch.nn.Linear.reset_parameters is reset


def test_rslora_scales_by_the_root_of_the_rank(tiny_model: Path) -> None:
    config = AdapterConfig(r=16, lora_alpha=32, use_rslora=True, target_modules=["q_proj"])
    adapted = add_adapter(load(tiny_model).model, config, seed=1)
    base: Any = adapted.get_base_model()
    layer = base.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 8.0
    assert all("q_proj" in name for name in trainable_parameters(adapted))


def test_a_prequantised_checkpoint_trains(
    tiny_model: Path, tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    folder = quantized(tiny_model, tmp_path / "tiny-bnb-4bit")
    load_tokenizer(RunConfig(model=ModelConfig(name_or_path=str(tiny_model)))).save_pretrained(folder)
    losses = []
    for source in (folder, tiny_model):
        run = create_run(tiny_config(model={"name_or_path": str(source)}))
        session = Session(run)
        session.start()
        assert session.wait(600) and session.state == "finished"
        events = session.events_since(0)
        losses.append([event.loss for event in events if isinstance(event, ev.Step)])
        (model,) = (event for event in events if isinstance(event, ev.ModelLoaded))
        assert model.quantization == "nf4"
        adapter = load_file(run.adapter / "adapter_model.safetensors")
        assert all(tensor.any() for name, tensor in adapter.items() if "lora_B" in name)
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-5, atol=0)
    with pytest.raises(LoadError, match=r"is a 4-bit checkpoint: set model.quantization=nf4"):
        load(folder, quantization="none")


def quantized(tiny_model: Path, folder: Path, **options) -> Path:
    """A 4-bit checkpoint, made in float32 unless told otherwise."""
    dtype = options.pop("dtype", torch.float32)
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype, **options,
    )  # fmt: skip
    made = AutoModelForCausalLM.from_pretrained(tiny_model, quantization_config=settings, dtype=dtype)
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16, "bnb_4bit_quant_storage": torch.bfloat16}])
def test_a_prequantised_checkpoint_comes_in_the_dtype_that_was_asked_for(
    tiny_model: Path, tmp_path: Path, options: dict[str, Any], dtype: str
) -> None:
    folder = quantized(tiny_model, tmp_path / "four", **options)
    loaded = load(folder, dtype=dtype)
    packed = [p for p in loaded.model.parameters() if hasattr(p, "quant_state")]
    others = {p.dtype for p in loaded.model.parameters() if not hasattr(p, "quant_state")}
    states = {p.quant_state.dtype for p in packed}
    assert len(packed) == 14 and others == states == {loaded.dtype}
    assert loaded.model.config.dtype == loaded.dtype == getattr(torch, dtype)
    ids = torch.arange(4, 20)[None]
    logits = loaded.model(ids).logits
    assert logits.dtype == loaded.dtype
    reference = quantized(tiny_model, tmp_path / "reference", dtype=options.get("dtype", torch.float32))
    want = load(reference, dtype="float32").model(ids).logits
    assert (logits.float() - want).norm() / want.norm() < 0.05


def test_what_a_model_keeps_in_float32_stays_so(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = quantized(tiny_model, tmp_path / "four")
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", {"input_layernorm"})
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules", {"norm"})
    for dtype, last in ((torch.bfloat16, torch.bfloat16), (torch.float16, torch.float32)):
        model = load(folder, dtype=str(dtype).removeprefix("torch.")).model
        assert model.model.layers[1].input_layernorm.weight.dtype == torch.float32
        assert model.model.layers[1].post_attention_layernorm.weight.dtype == dtype
        assert model.model.norm.weight.dtype == last


def test_a_four_bit_layer_without_scales_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = quantized(tiny_model, tmp_path / "four")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["llm_int8_skip_modules"] = []
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match=r"lm_head: is to be 4-bit.*llm_int8_skip_modules"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised with gptq"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            "bitsandbytes 4-bit checkpoints",
        ),
        ({"model_type": "no-such-architecture"}, "does not know the architecture"),
    ],
)
def test_models_that_cannot_be_taken_say_why(tiny_model: Path, tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        load(copy_of(tiny_model, tmp_path, **changes))


def test_pickle_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LoadError, match="reads no pickle files"):
        load(folder)


def test_code_that_comes_with_a_model_is_not_run_unasked(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path, model_type="mine", auto_map={"AutoConfig": "mine.MineConfig"})
    marker = tmp_path / "ran"
    (folder / "mine.py").write_text(f"open({str(marker)!r}, 'w')\n")
    with pytest.raises(LoadError, match="trust_remote_code"):
        load(folder)
    assert not marker.exists()


def test_a_tokenizer_in_python_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    ByT5Tokenizer().save_pretrained(str(folder))
    with pytest.raises(LoadError, match="has no fast tokenizer"):
        load_tokenizer(RunConfig(model=ModelConfig(name_or_path=str(folder))))


def test_a_tokenizer_that_cannot_be_loaded_is_not_looked_for_on_the_hub(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "vocab.json").write_text("{}")
    with pytest.raises(LoadError, match="cannot be loaded: transformers says"):
        load_tokenizer(RunConfig(model=ModelConfig(name_or_path=str(folder))))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(LoadError, match="does not exist"):
        load_base(ModelConfig(name_or_path=name), CPU, quiet)


def test_a_hub_model_without_network() -> None:
    with pytest.raises(LoadError, match=r"evenfall-tests/none.*cannot be reached or has no such"):
        load_tokenizer(RunConfig(model=ModelConfig(name_or_path="evenfall-tests/none")))


def test_a_damaged_file_is_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_model, tmp_path)
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(LoadError, match="damaged or not whole"):
        load(folder)


def test_one_name_among_others_that_fits_nothing_is_an_error(tiny_model: Path) -> None:
    """PEFT leaves it out without a word."""
    model = load(tiny_model).model
    with pytest.raises(LoadError, match="q_prj fits no module") as caught:
        add_adapter(model, AdapterConfig(r=4, target_modules=["v_proj", "q_prj"]), seed=1)
    assert caught.value.hint.startswith("did you mean q_proj? it has down_proj, ")
