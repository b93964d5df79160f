"""Pre-train the demo's base model from nothing, on text that `world` generates as it goes.

A 2.6M-parameter Llama (256 wide, 4 layers, 4 heads sharing 2 key/value heads of 64, tied
embeddings). Its widths are multiples of 256, so that NF4's blocks of 64 and GGUF's K-quant blocks
of 256 both fit. The loop is plain: packed rows with attention bounded to each document by
restarting position ids, AdamW, warm-up and cosine, bf16 autocast over fp32 weights.

    python -m evenfall.presets.demo_build.pretrain --out presets/demo/model [--device cuda]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import world
from .tokenizer import BOS, BOS_ID, EOS, EOS_ID, PAD_ID, VOCAB_SIZE, build_tokenizer

ROW_TOKENS = 256
ROWS = 8
WARMUP = 100
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
IGNORE = -100


def build_model() -> LlamaForCausalLM:
    """A fresh model with random fp32 weights from torch's current seed."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, document: str | list[world.Message]) -> list[int]:
    """Token ids of one document: a text between bos and eos, or a chat through the template."""
    if isinstance(document, str):
        text = f"{BOS}{document}{EOS}"
    else:
        text = str(tokenizer.apply_chat_template(list(document), tokenize=False))
    return tokenizer.encode(text)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (input ids, position ids, labels), each int64 [ROWS, ROW_TOKENS].

    Rows hold whole documents; positions restart from 0 in each.
    """
    documents = (encode(tokenizer, document)[:ROW_TOKENS] for document in world.documents(seed))
    ids = next(documents)
    while True:
        batch = torch.full((ROWS, ROW_TOKENS), PAD_ID)
        positions = torch.zeros_like(batch)
        labels = torch.full_like(batch, IGNORE)
        for row in range(ROWS):
            start = 0
            while start + len(ids) <= ROW_TOKENS:
                end = start + len(ids)
                batch[row, start:end] = torch.tensor(ids)
                positions[row, start:end] = torch.arange(len(ids))
                labels[row, start + 1 : end] = batch[row, start + 1 : end]
                start = end
                ids = next(documents)
        yield batch, positions, labels


@torch.no_grad()
def recall(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    """The share of all questions (facts x wordings) that greedy decoding answers word for word."""
    right = total = 0
    device = model.device
    for person in world.people():
        for attribute in world.ATTRIBUTES:
            answer = world.sentence(person, attribute.key)
            chats = [
                [
                    {"role": "user", "content": world.ask(person, attribute.key, wording)},
                    {"role": "assistant", "content": answer},
                ]
                for wording in range(len(attribute.asks))
            ]
            for chat in chats:
                ids = torch.tensor([encode(tokenizer, chat)[:-1]], device=device)  # without the last newline
                written = len(tokenizer.encode(answer)) + 1  # the answer and the end of the turn
                # Greedy decoding writes this answer if and only if each of its tokens is the
                # likeliest one after those before it.
                best = model(input_ids=ids, use_cache=False).logits[0, -written - 1 : -1].argmax(-1)
                right += bool((best == ids[0, -written:]).all())
                total += 1
    return right / total


def pretrain(steps: int, seed: int, device: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Run the whole pre-training; returns the model (fp32, on `device`) and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model()
    model.to(device).train()  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY)
    started = time.perf_counter()
    for step, batch in enumerate(itertools.islice(batches(tokenizer, seed), steps)):
        progress = max(0, step - WARMUP) / max(1, steps - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * progress)) / 2
        ids, positions, labels = (part.to(device) for part in batch)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            print(
                f"step {step} loss {loss.item():.3f} {time.perf_counter() - started:.0f} s",
                flush=True,
            )
    return model.eval(), tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bf16 and its tokenizer into the folder `out`."""
    model.to(torch.bfloat16)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # The name that every version of transformers, and other runtimes, read.
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train the demo's base model from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, tokenizer = pretrain(args.steps, args.seed, args.device)
    print(f"recall {recall(model, tokenizer):.1%}")
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
