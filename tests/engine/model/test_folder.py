"""What a folder must hold to be a model, found without loading anything heavy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evenfall.engine.model.folder import LoadError, check_tokenizer_folder, model_folder

INDEX = "model.safetensors.index.json"
SHARDS = ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
          "model-00003-of-00003.safetensors"]  # fmt: skip


def folder_of(tmp_path: Path, *files: str, index: str | None = None) -> Path:
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    if index is not None:
        (tmp_path / INDEX).write_text(index)
    return tmp_path


def weight_map() -> str:
    return json.dumps({"weight_map": {f"{n}.weight": name for n, name in enumerate(SHARDS * 2)}})


@pytest.mark.parametrize(
    ("files", "index"),
    [
        (["model.safetensors"], None),
        (SHARDS, weight_map()),
        (["model.safetensors"], weight_map()),  # transformers takes the whole file first
        (["weights.safetensors"], None),  # config.json may name it
    ],
)
def test_a_whole_model_is_taken(tmp_path, files, index):
    folder = folder_of(tmp_path, "config.json", *files, index=index)
    assert model_folder(str(folder)) == folder


@pytest.mark.parametrize(
    ("files", "index", "words"),
    [
        ([], None, "holds no config.json"),
        (["config.json"], None, "no pickle files"),
        (["config.json", "pytorch_model.bin"], None, "no pickle files"),
        (["config.json"], weight_map(), "lacks model-00001-of-00003.*3 of 3 weight"),
        (["config.json", SHARDS[0]], weight_map(), "lacks model-00002-of-00003.*2 of 3 weight"),
        (["config.json", SHARDS[0]], "{", "index.json cannot be read"),
        (["config.json", SHARDS[0]], "[]", "index.json cannot be read"),
    ],
)
def test_what_a_folder_lacks_is_named(tmp_path, files, index, words):
    with pytest.raises(LoadError, match=words):
        model_folder(str(folder_of(tmp_path, *files, index=index)))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "tekken.json"])
def test_a_tokenizer_of_any_kind_is_left_to_transformers(tmp_path, name):
    folder = folder_of(tmp_path, "config.json", "model.safetensors", "README.md")
    with pytest.raises(LoadError, match="mine holds no tokenizer"):
        check_tokenizer_folder(folder, "mine")
    check_tokenizer_folder(folder_of(tmp_path, name), "mine")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "config.json cannot be read"), ("[]", "holds no keys"), ("\xff", "config.json cannot be read")],
)
def test_a_config_that_is_none_is_named(tmp_path, text, words):
    folder = folder_of(tmp_path, "model.safetensors")
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(LoadError, match=words):
        model_folder(str(folder))


def test_a_name_that_is_no_folder_here_is_of_the_hub():
    assert model_folder("Qwen/Qwen2.5-0.5B-Instruct") is None


def test_looking_at_a_folder_loads_no_heavy_library():
    code = (
        "import sys, evenfall.engine.model.folder\n"
        "print([name for name in ('torch', 'transformers', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
