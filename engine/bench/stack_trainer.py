"""The stacks that train through TRL's SFTTrainer: stock, with Liger's kernels, and Unsloth.

Each is set up as its own documentation says and otherwise left alone. What is made equal is the work: the
base model and its bits, the initial adapter (float32), the documents of each update, the optimiser.
Where a stack pads, a step's documents are cut into micro-batches of at most 16; where it does not, they
are one. The Trainer divides by the trained tokens of the whole update, so that changes no loss.
"""

import contextlib
import ctypes
import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.pack.examples import Example
from ..data.pack.windows import Bins
from .rows import bins_of_step, read_bins
from .shapes import PROJECTIONS
from .stacks import Clock, PeakMemory, installed_versions
from .work import LORA_ALPHA, MAX_GRAD_NORM, SEED, StackResult, Work

_PADDED_BATCH = 16
"""Documents in a micro-batch where they are padded to the longest."""

_OPTIMISER = {"trl": "adamw_torch", "liger": "adamw_torch", "unsloth": "adamw_torch"}
"""The same as Evenfall's, so that losses agree; adamw_8bit rounds the moments."""


def run(stack: str, work: Work, clock: Clock, folder: Path) -> StackResult:
    """Train and measure; `folder` is for what the Trainer writes."""
    name, _, mode = stack.partition(":")
    if name == "unsloth":
        _preload_cuda_runtime()
        import unsloth  # type: ignore[import-not-found] # noqa: F401 - before all that it patches
    import transformers
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from trl.trainer.sft_trainer import SFTTrainer

    from ..machine.device import describe_device, pick_device

    clock.done("import")
    clock.tell("loading the model")
    device = pick_device(work.device)
    load = _load_unsloth if name == "unsloth" else _load_stock
    model, tokenizer = load(work, device, recompute=_recompute(name, mode, work))
    clock.done("load")
    clock.tell("building the trainer")
    bins = read_bins(Path(work.rows))
    batches = micro_batches(bins, work, padded=work.real and name != "unsloth")
    accumulation = len(batches) // work.total_steps
    config = _trainer_config(
        name, mode, work, folder / "trainer", bins_per_batch=max(map(len, batches)),
        accumulation=accumulation, on_gpu=device.type == "cuda",
    )  # fmt: skip
    watch = Watch(work=work, clock=clock)
    trained: list[int] = []
    trainer = in_this_order(SFTTrainer, batches, trained)(
        model=model,
        args=config,
        train_dataset=labelled_rows(bins.examples),
        processing_class=tokenizer,
        callbacks=[_callback(transformers.TrainerCallback, watch)],
    )
    float_adapters(model)
    initial = load_file(str(Path(work.adapter) / "adapter_model.safetensors"))
    set_peft_model_state_dict(model, initial)
    trainer.train()
    memory = PeakMemory.read()
    return StackResult(
        stack=stack,
        device=describe_device(device),
        losses=watch.losses,
        grad_norms=watch.grad_norms,
        trained=[
            sum(trained[start : start + accumulation])
            for start in range(0, len(trained), accumulation)
        ],
        seconds=watch.seconds,
        warmup=work.warmup,
        **clock.seconds(),
        peak_gb=memory.peak_gb,
        reserved_gb=memory.reserved_gb,
        versions=installed_versions(
            "trl", "torch", "transformers", "peft", "bitsandbytes",
            *{"liger": ["liger-kernel"], "unsloth": ["unsloth", "unsloth_zoo", "xformers"]}.get(
                name, []
            ),
        ),
    )  # fmt: skip


def _trainer_config(
    name: str,
    mode: str,
    work: Work,
    folder: Path,
    *,
    bins_per_batch: int,
    accumulation: int,
    on_gpu: bool,
) -> Any:
    """TRL's SFTConfig for the work."""
    from trl.trainer.sft_config import SFTConfig

    options: dict[str, Any] = {
        "max_length": None,
        "use_liger_kernel": name == "liger",
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    if name == "unsloth":  # lays documents end to end by itself, if it may prepare the rows and cut them
        options = {"max_length": work.bin_tokens}
    return SFTConfig(
        output_dir=str(folder),
        max_steps=work.total_steps,
        per_device_train_batch_size=bins_per_batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        optim=_OPTIMISER[name],
        gradient_checkpointing=bool(_recompute(name, mode, work)),
        bf16=on_gpu,
        fp16=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show the loss before instead of a NaN
        seed=SEED,
        use_cpu=not on_gpu,
        disable_tqdm=True,
        **options,
    )


def micro_batches(bins: Bins, work: Work, *, padded: bool) -> list[list[int]]:
    """Documents of each micro-batch of each step, as many in every step."""
    steps = [
        [index for one in bins_of_step(bins, work.bins, step) for index in one] for step in range(work.total_steps)
    ]
    parts = 1
    if padded:
        parts = -(-max(map(len, steps)) // _PADDED_BATCH)
        parts = min(parts, *map(len, steps))
    return [part.tolist() for step in steps for part in np.array_split(step, parts)]


def labelled_rows(examples: Sequence[Example]) -> Any:
    """A `datasets.Dataset` of input_ids and labels, -100 where a token is not learnt."""
    from datasets import Dataset

    rows = []
    for example in examples:
        ids = example.ids.tolist()
        labels = np.where(example.trained, example.ids, -100).tolist()
        rows.append({"input_ids": ids, "labels": labels})
    return Dataset.from_list(rows)


def in_this_order(trainer: Any, batches: list[list[int]], trained: list[int] | None = None) -> Any:
    """A subclass of a Trainer that takes these micro-batches of row indices, one after the other.

    `trained` gets the number of tokens that each is to learn, as the Trainer's collator laid it out.
    """
    from torch.utils.data import DataLoader

    class FixedOrder(trainer):
        def _collate_and_count(self, rows: list[Any]) -> Any:
            batch = self.data_collator(rows)
            if trained is not None and "labels" in batch:
                trained.append(int((batch["labels"] != -100).sum()))
            return batch

        def get_train_dataloader(self) -> DataLoader:
            return DataLoader(
                self.train_dataset,
                batch_sampler=batches,
                collate_fn=self._collate_and_count,
                pin_memory=not self.args.use_cpu,
            )

    return FixedOrder


def float_adapters(model: Any) -> None:
    """Undo TRL's rounding of a QLoRA adapter to bfloat16, where small updates would be lost."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


@dataclass(kw_only=True)
class Watch:
    """Takes the time at each step's end, when the GPU has done it, and the figures that are logged."""

    work: Work
    clock: Clock
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    _mark: float = 0.0

    def begin(self) -> None:
        self._mark = time.perf_counter()

    def end_of_step(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._mark)
        self._mark = now
        self.clock.done("first_step")

    def logged(self, logs: dict[str, Any]) -> None:
        if "loss" not in logs:
            return  # the summary at the end
        self.losses.append(float(logs["loss"]))
        if "grad_norm" in logs:
            self.grad_norms.append(float(logs["grad_norm"]))
        self.clock.step(len(self.losses), self.work.total_steps, self.losses[-1])


def _callback(base: Any, watch: Watch) -> Any:
    class Callback(base):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            watch.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.end_of_step()

        def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            watch.logged(logs or {})

    return Callback()


def _recompute(name: str, mode: str, work: Work) -> bool | str:
    """Whether activations are recomputed; Unsloth's own way where it is on, and in its default mode."""
    if name == "unsloth":
        return "unsloth" if work.recompute or mode == "default" else False
    return work.recompute


def _load_stock(work: Work, device: Any, *, recompute: bool | str) -> tuple[Any, Any]:
    del recompute  # the Trainer's matter
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..machine.device import compute_dtype

    base = AutoModelForCausalLM.from_pretrained(
        work.model,
        dtype=compute_dtype("auto", device),
        device_map={"": device},
        attn_implementation="sdpa",
    )
    model = PeftModel.from_pretrained(base, work.adapter, is_trainable=True)
    return model, AutoTokenizer.from_pretrained(work.model)


def _load_unsloth(work: Work, device: Any, *, recompute: bool | str) -> tuple[Any, Any]:
    import torch
    from unsloth import FastLanguageModel  # type: ignore[import-not-found]

    base, tokenizer = FastLanguageModel.from_pretrained(
        model_name=work.model,
        max_seq_length=work.bin_tokens,
        dtype=torch.bfloat16,
        load_in_4bit=True,
        device_map={"": device.index or 0},
        local_files_only=True,
        use_gradient_checkpointing=recompute,
        offload_embedding=False,
        use_exact_model_name=True,
    )
    model = FastLanguageModel.get_peft_model(
        base,
        r=work.rank,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0,
        bias="none",
        target_modules=list(PROJECTIONS),
        use_gradient_checkpointing=recompute,
        random_state=SEED,
    )
    return model, tokenizer


def _preload_cuda_runtime() -> None:
    """Let xformers, which is built for CUDA 12, find its runtime beside a torch for CUDA 13.

    Without it Unsloth trains packed rows with a slower attention. Nothing happens where the wheel
    `nvidia-cuda-runtime-cu12` is not installed.
    """
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, OSError):
        for file in importlib.metadata.files("nvidia-cuda-runtime-cu12") or []:
            if file.name.startswith("libcudart.so.12"):
                ctypes.CDLL(str(file.locate()), ctypes.RTLD_GLOBAL)
