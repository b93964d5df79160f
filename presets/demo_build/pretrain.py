"""Pre-train the demo's base model from nothing, on text that `world` generates as it goes.

A 2.6M-parameter Llama (256 wide, 4 layers, 4 heads sharing 2 key/value heads of 64, tied embeddings). Every width is a
multiple of 256, so that NF4's blocks of 64 and GGUF's K-quant blocks of 256 both fit. The loop is plain: packed rows with
attention bounded to each document by restarting position ids, AdamW, warm-up and cosine, bf16 autocast on a GPU.

The model must keep its facts when its linear layers are quantised to NF4 (about 9 % relative error per weight), so
weight decay is strong and the run goes on well after recall is perfect.

    python -m evenfall.presets.demo_build.pretrain --out presets/demo/model [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import world
from .tokenizer import VOCAB_SIZE, build_tokenizer

ROW_TOKENS = 512
ROWS = 8
WARMUP = 100
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
IGNORE = -100


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
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
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, document: str | list[world.Message]) -> list[int]:
    """Token ids of one document: plain text between bos and eos, or a chat through the chat template."""
    if isinstance(document, str):
        text = f"{tokenizer.bos_token}{document}{tokenizer.eos_token}"
    else:
        text = str(tokenizer.apply_chat_template(list(document), tokenize=False))
    return tokenizer.encode(text)


def batches(
    tokenizer: PreTrainedTokenizerFast, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Endless (input ids, position ids, labels), each int64 [ROWS, ROW_TOKENS]; whole documents, positions from 0 in each."""
    pad = int(tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token)))
    documents = (encode(tokenizer, document) for document in world.documents(seed))
    ids = next(documents)
    while True:
        batch = torch.full((ROWS, ROW_TOKENS), pad)
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
    """The share of all facts that the model states word for word when asked (greedy, every wording of every question)."""
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
                # Greedy decoding gives this answer exactly when each of its tokens is the likeliest after the ones before.
                best = model(input_ids=ids, use_cache=False).logits[0, -written - 1 : -1].argmax(-1)
                right += bool((best == ids[0, -written:]).all())
                total += 1
    return right / total


def pretrain(steps: int, seed: int, device: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Run the whole pre-training; returns the model (fp32, on `device`) and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.to(device).train()  # pyright: ignore[reportArgumentType] -- transformers types `to` for no argument
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY
    )
    started = time.perf_counter()
    for step, batch in zip(range(steps), batches(tokenizer, seed)):
        progress = max(0, step - WARMUP) / max(1, steps - WARMUP)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * progress)) / 2
        ids, positions, labels = (part.to(device) for part in batch)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step} loss {loss.item():.3f} {time.perf_counter() - started:.0f} s", flush=True)
    return model.eval(), tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bf16 and its tokenizer into the folder `out`."""
    model.to(torch.bfloat16)
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
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, tokenizer = pretrain(args.steps, args.seed, args.device)
    print(f"recall {recall(model, tokenizer):.1%}")
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
