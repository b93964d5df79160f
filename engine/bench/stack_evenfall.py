"""Evenfall's own part: the worker's build and the loop of every run, on the benchmark's rows.

Nothing here trains: `train` does, told by the same configuration keys as a run. The steps' events are
the measurement. Behind the timed steps come three more: the profiler sees the last of them, from one report
of the loop to the next, and so the host's work for one step and the kernels that it started.
"""

from pathlib import Path
from typing import Any

from ..config.run_config import RunConfig, parse_config
from ..machine import wake
from ..machine.allocator import grow_segments
from ..run import events as ev
from ..run.control import Control
from ..run.find import create_run
from ..run.log import EventLog
from ..session.imports import import_for_run
from .rows import read_bins
from .shapes import SHAPES
from .stacks import Clock, PeakMemory, installed_versions
from .work import LORA_ALPHA, MAX_GRAD_NORM, SEED, StackResult, StepProfile, Work

_BEYOND = 3
"""Steps after the timed ones: one to settle, one under way when the profiler starts, the one it sees."""


def run(work: Work, clock: Clock, folder: Path) -> StackResult:
    """Train and measure; `folder` is for the run directory."""
    grow_segments()
    import_for_run(work.device)
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from ..machine.device import describe_device, pick_device
    from ..model.load import load_base
    from ..model.tokenizer import load_tokenizer
    from ..training.build import build_run
    from ..training.train import train
    from .profile import measure_matmul

    clock.done("import")
    device = pick_device(work.device)
    on_gpu = device.type == "cuda"
    config = run_config(work, folder, work.total_steps + (_BEYOND if on_gpu else 0))
    directory = create_run(config)
    clock.tell("loading the model")
    load_tokenizer(config)  # a part of every start, though these rows are tokens already
    loaded = load_base(config.model, device, lambda text, fraction: None)
    clock.done("load")
    clock.tell("adapter, kernels and their proofs")
    log = EventLog(directory.events_file)
    story = _Story(log, work, clock, profiled=on_gpu)
    data = _prepared(Path(work.rows))
    wake.wait()
    run = build_run(directory, config, story, loaded, data, device, work.bin_tokens)
    initial = load_file(str(Path(work.adapter) / "adapter_model.safetensors"))
    set_peft_model_state_dict(run.trained.model, initial)
    train(run)
    log.close()
    del run, loaded
    if on_gpu:
        torch.cuda.empty_cache()
    clock.tell("the rate of its largest matmul")
    steps = story.steps[: work.total_steps]
    tokens = round(sum(step.tokens for step in steps) / len(steps))
    memory = story.memory
    assert memory is not None
    return StackResult(
        stack="evenfall",
        device=describe_device(device),
        losses=[step.loss for step in steps],
        grad_norms=[step.grad_norm for step in steps],
        trained=[step.trained_tokens for step in steps],
        seconds=[step.seconds for step in steps],
        warmup=work.warmup,
        **clock.seconds(),
        peak_gb=memory.peak_gb,
        reserved_gb=memory.reserved_gb,
        versions=installed_versions("evenfall", "torch", "triton", "transformers", "peft"),
        notes=story.notes,
        matmul_tflops=measure_matmul(SHAPES[work.shape], tokens, device),
        profile=story.profile,
    )


def run_config(work: Work, folder: Path, steps: int) -> RunConfig:
    """The benchmark's hyper-parameters as a run's; what is not named here is Evenfall's default."""
    return parse_config(
        {
            "name": "bench",
            "output_dir": str(folder),
            "model": {"name_or_path": work.model},
            "adapter": {"r": work.rank, "lora_alpha": LORA_ALPHA},
            "data": {"path": work.rows, "max_length": work.bin_tokens, "shuffle": False},
            "train": {
                "max_steps": steps,
                "per_device_train_batch_size": work.bins,
                "gradient_accumulation_steps": 1,
                "learning_rate": work.learning_rate,
                "lr_scheduler_type": "constant",
                "warmup_steps": 0,
                "max_grad_norm": MAX_GRAD_NORM,
                "gradient_checkpointing": work.recompute,
                "save_steps": steps,
                "seed": SEED,
                "device": work.device,
                "on_oom": "fail",
            },
        }
    )


def _prepared(rows: Path) -> Any:
    """The rows as the loop takes them; the account of a file that they are not from is empty."""
    from ..data.pack.windows import OneWindow
    from ..data.prepare.prepare import PreparedData
    from ..data.report.report import DataReport

    bins = read_bins(rows)
    report = DataReport(
        sources=[],
        eval_rows=0,
        tokens=0,
        trained_tokens=0,
        bins=len(bins),
        max_length=0,
        lengths=[],
        notes={},
    )
    return PreparedData(train=OneWindow(bins), tested=None, account=lambda: report, sources=(), accounts=())


class _Story(Control):
    """A run's control that keeps what the benchmark wants of its events."""

    def __init__(self, log: EventLog, work: Work, clock: Clock, *, profiled: bool) -> None:
        super().__init__(log, attended=False)
        self.steps: list[ev.Step] = []
        self.notes: list[str] = []
        self.memory: PeakMemory | None = None
        self.profile: StepProfile | None = None
        self._work = work
        self._clock = clock
        self._profiler: Any = None
        self._profiled = profiled

    def emit(self, event: ev.Event) -> None:
        super().emit(event)
        match event:
            case ev.PartsPatched(parts=parts):
                self.notes += [f"{part.name} x{part.count}: {part.reason}" for part in parts]
            case ev.MemoryPlanned():
                self.notes.append(
                    f"memory plan: {event.kept} layers save all, {event.cheap} compute norms and "
                    f"activations again, {event.recomputed} everything; {event.cached} keep their "
                    "weights dequantised"
                )
            case ev.StepCaptured():
                self.notes.append(
                    f"micro-steps of {event.tokens:,} tokens and {event.labels:,} labels are a CUDA "
                    f"graph; it differs by {event.difference:.1e} from single launches"
                )
            case ev.Alert(message=message):
                self.notes.append(message)
            case ev.Step():
                self._step(event)

    def _step(self, step: ev.Step) -> None:
        self.steps.append(step)
        last = self._work.total_steps
        if step.step <= last:
            self._clock.step(step.step, last, step.loss)
        if step.step == last:
            self.memory = PeakMemory.read()
        if not self._profiled:
            return
        from .profile import StepProfiler

        # The loop reports a step when the next one is enqueued: between these two it starts step last + 3.
        if step.step == last + 1:
            self._profiler = StepProfiler()
        elif step.step == last + 2:
            self.profile = self._profiler.stop()
