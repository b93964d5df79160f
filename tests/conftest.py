"""Shared fixtures: a tiny chat model made on the spot, and a small data set that it can learn."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Kernels run in Triton's interpreter where there is no GPU; Triton reads this when it is imported.
if not any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy cores can cost a tiny model 100x
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from word_tokenizer import WORDS, word_tokenizer_into


@pytest.fixture(autouse=True)
def own_state_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Each test has a registry of live runs of its own. Its path is short: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ev-", ignore_cleanup_errors=True) as folder:
        monkeypatch.setenv("XDG_STATE_HOME", folder)
        yield Path(folder) / "evenfall"


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> None:
    """Kernels take a third of the time in the interpreter; nothing is imported for it."""
    backend = sys.modules.get("evenfall.kernels.backend")
    if backend is not None and backend.INTERPRETED:
        from quick_interpreter import quicken

        quicken()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama (hidden 64, grouped heads) and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    word_tokenizer_into(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        eos_token_id=1, pad_token_id=0, bos_token_id=None, tie_word_embeddings=True,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jsonl file of 60 conversations of differing lengths."""
    file = tmp_path_factory.mktemp("tiny-data") / "rows.jsonl"
    rows = []
    for n in range(60):
        words = [WORDS[(n * 7 + k) % len(WORDS)] for k in range(2 + n % 9)]
        answer = " ".join(reversed(words))
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": "what is next after " + " ".join(words)},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
