"""A tokenizer is the one that transformers' AutoTokenizer gives, without its model's configuration."""

import json
import shutil
import subprocess
import sys

import pytest
import transformers
from packaging.version import Version
from transformers import AutoTokenizer

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.model import tokenizer as module
from evenfall.engine.model.tokenizer import load_tokenizer
from evenfall.presets.load import demo_folder


@pytest.fixture
def model(tmp_path):
    """The demo model's folder; given keys stand in its config.json and tokenizer_config.json."""

    def copy(config=None, of_tokenizer=None):
        folder = tmp_path / "model"
        shutil.copytree(demo_folder() / "model", folder)
        for name, more in (("config.json", config), ("tokenizer_config.json", of_tokenizer)):
            file = folder / name
            told = {**json.loads(file.read_bytes()), **(more or {})}
            file.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
        return RunConfig.model_validate({"data": {"path": "demo"}, "model": {"name_or_path": str(folder)}})

    return copy


def state(tokenizer):
    return (
        type(tokenizer), tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map, tokenizer.chat_template,
        {key: repr(value) for key, value in tokenizer.init_kwargs.items()},
        {number: repr(token) for number, token in tokenizer.added_tokens_decoder.items()},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "PreTrainedTokenizerFast"),
        ("llama", "LlamaTokenizerFast"),
        ("qwen2", "Qwen2Tokenizer"),
        ("gemma2", "GemmaTokenizer"),
        ("gpt2", "GPT2TokenizerFast"),
        ("mistral", "LlamaTokenizer"),
    ],
)
def test_it_is_what_the_whole_configuration_leads_to(model, kind, name):
    config = model({"model_type": kind}, {"tokenizer_class": name})
    assert module._what_is_asked(config.model) is not None
    assert state(load_tokenizer(config)) == state(AutoTokenizer.from_pretrained(config.model.name_or_path))


@pytest.mark.parametrize(
    ("config", "of_tokenizer"),
    [
        ({"model_type": "of-my-own"}, None),
        ({"auto_map": {"AutoConfig": "mine.Config"}}, None),
        (None, {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}}),
        (None, {"tokenizer_class": None}),
        ({"model_type": "gpt-sw3"}, None),
        ({"model_type": "mistral", "layer_types": ["full_attention"]}, None),
    ],
)
def test_whatever_else_is_left_to_transformers(model, config, of_tokenizer):
    assert module._what_is_asked(model(config, of_tokenizer).model) is None


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="older ones import torch with their tokenizers"
)
def test_data_are_prepared_and_checked_without_torch_which_is_there_when_it_is_asked():
    code = (
        "import sys\n"
        "from evenfall.tui.commands.main import main\n"
        "assert main(['data', 'check', 'demo']) == 0\n"
        "assert 'torch._C' not in sys.modules\n"
        "import torch.nn.functional\n"
        "assert type(torch).__name__ == 'module' and torch.ones(2).sum() == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
