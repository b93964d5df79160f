"""The benchmark: the same work for all, refusals instead of wrong speeds, and nothing left behind."""

import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes import ended
from torch._C._autograd import DeviceType

from evenfall.engine.bench import children, run, stack_evenfall
from evenfall.engine.bench.compare import check_alone, compare, judge
from evenfall.engine.bench.model import is_there, write_adapter, write_model
from evenfall.engine.bench.profile import _gaps, phase_of, summarise
from evenfall.engine.bench.rows import (
    bins_of_step,
    random_rows,
    read_bins,
    real_rows,
    write_rows,
)
from evenfall.engine.bench.shapes import SHAPES, needed_flops
from evenfall.engine.bench.stack_trainer import micro_batches
from evenfall.engine.bench.stacks import Clock
from evenfall.engine.bench.work import StackResult, Work, read_result, to_json
from evenfall.engine.config.run_config import ModelConfig
from evenfall.engine.model.load import load_base
from evenfall.tui.commands.main import main

TINY = SHAPES["tiny"]
SMALL = ["bench", "tiny", "--rows", "2", "--length", "48", "--steps", "6", "--warmup", "2"]


def made_up(stack: str = "evenfall", **fields) -> StackResult:
    """A result whose losses are right for random rows of the tiny shape."""
    usual = StackResult(
        stack=stack, device="CPU", losses=[6.94, 6.95, 6.93], grad_norms=[0.2, 0.2, 0.2], trained=[94, 94, 94],
        seconds=[0.5, 0.1, 0.2], warmup=1, import_seconds=1.0, load_seconds=2.0,
        first_step_seconds=3.0, peak_gb=1.0, reserved_gb=None, versions={"torch": "2"},
        matmul_tflops=0.1 if stack == "evenfall" else None,
    )  # fmt: skip
    return dataclasses.replace(usual, **fields)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for --keep, with the tiny model in it."""
    keep = tmp_path_factory.mktemp("keep")
    write_model(TINY, keep / "tiny-cpu", torch.device("cpu"), lambda text: None)
    return keep


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def stacks_are(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces stacks' processes: by one that sends a result, or by one that runs some Python."""

    def install(**stacks: StackResult | str) -> None:
        def command(stack: str, work_file: Path, started: float) -> list[str]:
            fake = stacks[stack]
            if isinstance(fake, str):
                return [sys.executable, "-c", fake]
            message = json.dumps({"result": json.loads(to_json(fake))})
            return [sys.executable, "-c", f"print({message!r}, flush=True)"]

        monkeypatch.setattr(children, "command", command)
        monkeypatch.setattr(run, "STACKS", {**run.STACKS, **dict.fromkeys(stacks, run.STACKS["evenfall"])})

    return install


# The whole of it


def test_the_same_work_gives_the_same_losses_in_evenfall_and_in_trl(model, tmp_path, capsys):
    figures = tmp_path / "bench.json"
    assert main([*SMALL, "--against", "trl", "--keep", str(model), "--json", str(figures)]) == 0
    shown = capsys.readouterr()
    assert "as fast" in shown.out and "losses agree, largest difference" in shown.out
    assert "trl: step 8/8" in shown.err
    tree = json.loads(figures.read_bytes())
    ours, stock = (read_result(result) for result in tree["results"])
    assert (ours.stack, stock.stack) == ("evenfall", "trl")
    assert len(ours.losses) == len(stock.losses) == 8
    assert ours.losses == pytest.approx(stock.losses, rel=1e-4)
    assert ours.trained == stock.trained == [94] * 8
    assert ours.grad_norms == pytest.approx(stock.grad_norms, rel=1e-3)
    assert ours.losses[6] < 0.9995 * ours.losses[0]  # the same rows: something was learnt
    assert tree["speeds"]["trl"]["evenfall_is"] > 0 and tree["speeds"]["evenfall"]["mfu"] > 0
    # JSON holds all of a result.
    assert to_json(ours) == to_json(read_result(json.loads(to_json(ours))))


@pytest.fixture(scope="module")
def train_here(model, tmp_path_factory) -> Callable[..., StackResult]:
    """Evenfall's part in this process, with the work changed as told."""
    folder = tmp_path_factory.mktemp("work")
    write_adapter(TINY, 4, model / "tiny-cpu", folder / "adapter")
    work = Work(
        shape="tiny",
        device="cpu",
        model=str(model / "tiny-cpu"),
        adapter=str(folder / "adapter"),
        rows="",
        bins=2,
        bin_tokens=48,
        real=False,
        warmup=2,
        steps=6,
        rank=4,
        recompute=False,
    )

    def train(change_row: bool = False, **changes) -> StackResult:
        own = folder / str(len(list(folder.iterdir())))
        own.mkdir()
        bins = random_rows(TINY, 4, 48)
        if change_row:
            bins.examples[1].ids[:] = bins.examples[1].ids[::-1].copy()
        write_rows(bins, own / "rows")
        changed = dataclasses.replace(work, rows=str(own / "rows"), **changes)
        return stack_evenfall.run(changed, Clock(time.time(), lambda text: None), own)

    return train


def test_another_learning_rate_or_another_row_makes_losses_differ(train_here):
    right = train_here()
    assert compare(train_here(), right).good
    assert check_alone(right, TINY, random=True).good
    for rate in (0.0, 1e-3):
        verdict = compare(train_here(learning_rate=rate), right)
        assert not verdict.good and "losses differ: step" in verdict.reason
    verdict = compare(train_here(change_row=True), right)
    assert not verdict.good and "differ: " in verdict.reason


# Refusals


def test_a_stack_whose_losses_differ_gets_no_speed_anywhere(stacks_are, model, tmp_path, capsys):
    stacks_are(evenfall=made_up(losses=[6.94, 6.96, 6.93]), trl=made_up("trl"))
    figures = tmp_path / "bench.json"
    code = main([*SMALL, "--against", "trl", "--keep", str(model), "--json", str(figures)])
    assert code == 1
    shown = capsys.readouterr().out
    assert "evenfall  losses differ: step 2 6.9600 against 6.9500" in shown
    assert "as fast" not in shown
    tree = json.loads(figures.read_bytes())
    assert tree["speeds"] == {} and [result["seconds"] for result in tree["results"]] == [[], []]


def test_others_keep_their_speed_where_one_is_wrong():
    results = [made_up(), made_up("liger", losses=[6.94, math.nan, 6.93]), made_up("trl")]
    verdicts = judge(results, TINY, [94, 94, 94], random=True)
    assert {name: verdict.good for name, verdict in verdicts.items()} == {
        "evenfall": True, "liger": False, "trl": True,
    }  # fmt: skip
    assert verdicts["evenfall"].against == verdicts["liger"].against == "trl"


def test_a_stack_that_leaves_tokens_out_is_compared_with_nothing():
    results = [made_up(), made_up("trl", trained=[94, 60, 94])]
    verdicts = judge(results, TINY, [94, 94, 94], random=True)
    assert not verdicts["trl"].good and verdicts["trl"].reason == "step 2 trains 60 tokens, not 94"
    assert verdicts["evenfall"].good and verdicts["evenfall"].against is None


@pytest.mark.parametrize(
    ("ours", "theirs", "good"),
    [
        ([7.0, 7.0], [7.006, 7.0], True),
        ([7.0, 7.0], [7.0, 7.008], False),
        ([7.0], [7.0, 9.9], True),  # as far as both go
        ([math.nan], [math.nan], False),
        ([math.inf], [math.inf], False),
        ([], [7.0], False),
    ],
)
def test_losses_agree_within_a_thousandth_and_nan_with_nothing(ours, theirs, good):
    assert compare(made_up(losses=ours), made_up("trl", losses=theirs)).good == good


def test_a_wrong_gradient_is_found_out_in_the_first_step():
    assert compare(made_up(grad_norms=[0.203]), made_up("trl")).good
    verdict = compare(made_up(grad_norms=[0.205]), made_up("trl"))
    assert not verdict.good and "gradients differ" in verdict.reason
    assert compare(made_up(grad_norms=[]), made_up("trl")).good  # a stack that tells none


def test_alone_losses_must_be_numbers_and_the_first_that_of_random_tokens():
    assert check_alone(made_up(), TINY, random=True).good
    assert not check_alone(made_up(losses=[6.94, math.nan]), TINY, random=True).good
    easy = made_up(losses=[6.5, 6.4])
    assert not check_alone(easy, TINY, random=True).good
    assert check_alone(easy, TINY, random=False).good


# Stacks that give no result


def test_a_stack_that_is_not_installed_is_named_and_the_others_go_on(stacks_are, model, capsys, monkeypatch):
    stacks_are(evenfall=made_up(), trl=made_up("trl"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main([*SMALL, "--against", "unsloth,trl", "--keep", str(model)]) == 1
    shown = capsys.readouterr().out
    assert "unsloth   unsloth is not installed: pip install unsloth" in shown
    assert "1.00x as fast" in shown


def test_a_stack_that_dies_is_shown_with_its_last_words(stacks_are, model, capsys):
    words = "import sys; print('loading', file=sys.stderr); sys.exit('no \\x1b[31mkernel image')"
    stacks_are(evenfall=made_up(), trl=words)
    assert main([*SMALL, "--against", "trl", "--keep", str(model)]) == 1
    shown = capsys.readouterr().out
    assert "trl: its process ended with code 1\n    loading\n    no ␛[31mkernel image" in shown
    assert "evenfall" in shown and "0.1" in shown  # its own speed is still told


def test_a_killed_process_is_told_by_its_signal(stacks_are, model, capsys):
    stacks_are(evenfall="import os; os.kill(os.getpid(), 9)")
    assert main([*SMALL, "--keep", str(model)]) == 1
    assert "its process was killed by SIGKILL" in capsys.readouterr().out


def test_ctrl_c_ends_a_stack_and_what_it_started(stacks_are, tmp_path):
    pids = tmp_path / "pids"
    stacks_are(
        trl=f"""
import os, subprocess, time
other = subprocess.Popen(["sleep", "60"])
open({str(pids)!r}, "w").write(f"{{os.getpid()}} {{other.pid}}")
print('{{"progress": "loading"}}', flush=True)
time.sleep(60)
"""
    )

    def interrupted(text: str) -> None:
        assert text == "trl: loading"
        raise KeyboardInterrupt

    work = Work(
        shape="tiny",
        device="cpu",
        model="",
        adapter="",
        rows="",
        bins=1,
        bin_tokens=8,
        real=False,
        warmup=0,
        steps=1,
        rank=4,
        recompute=False,
    )
    with pytest.raises(KeyboardInterrupt):
        children.run_child("trl", work, tmp_path, interrupted)
    for pid in map(int, pids.read_text().split()):
        assert ended(pid), pid


def test_what_cannot_be_measured_is_refused_before_any_work(capsys):
    if not torch.cuda.is_available():
        assert main(["bench", "8b"]) == 2
        assert "8b needs a GPU with about 81 GB, 14 GB with --recompute" in capsys.readouterr().err
    assert main(["bench", "tiny", "--against", "magic"]) == 2
    assert "--against magic: there is trl, liger, unsloth" in capsys.readouterr().err
    assert main(["bench", "tiny", "--json", "/nowhere/at/all.json"]) == 2
    assert main(["bench", "tiny", "--rows", "0"]) == 2
    assert main(["bench", "tiny", "--length", "5000"]) == 2


# The work


def test_the_model_on_disk_is_what_the_engine_trains_on(model):
    folder = model / "tiny-cpu"
    assert is_there(folder, TINY, "cpu") and not is_there(folder, TINY, "cuda")
    loaded = load_base(ModelConfig(name_or_path=str(folder)), torch.device("cpu"), lambda text, fraction: None)
    assert loaded.quantization == "nf4" and loaded.packed
    tables = 2 * TINY.vocabulary * TINY.hidden + 5 * TINY.hidden
    assert loaded.parameters == TINY.linear_parameters + tables
    down = loaded.model.model.layers[1].mlp.down_proj
    assert type(down).__name__ == "Linear4bit"
    # x W^T of many random rows: its spread is that of the weights.
    out = down(torch.randn(512, TINY.intermediate))
    assert float(out.std()) == pytest.approx(0.02 * TINY.intermediate**0.5, rel=0.05)


def test_a_tied_model_has_one_table(tmp_path):
    shape = dataclasses.replace(TINY, tied=True, rope_factor=32.0, layers=1)
    write_model(shape, tmp_path / "m", torch.device("cpu"), lambda text: None)
    loaded = load_base(ModelConfig(name_or_path=str(tmp_path / "m")), torch.device("cpu"), lambda *_: None)
    base = loaded.model
    assert base.lm_head.weight.data_ptr() == base.model.embed_tokens.weight.data_ptr()
    assert base.config.rope_parameters["rope_type"] == "llama3"


def test_a_folder_with_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "tiny-cpu").mkdir()
    (tmp_path / "tiny-cpu" / "thesis.txt").write_text("mine")
    assert main([*SMALL, "--keep", str(tmp_path)]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "tiny-cpu" / "thesis.txt").read_text() == "mine"


def test_real_rows_are_packed_cut_to_whole_steps_and_come_back_from_disk(tiny_data, tmp_path):
    bins = real_rows(str(tiny_data), 64, 3, TINY, lambda text: None)
    assert len(bins) % 3 == 0 and len(bins) > 3
    assert all(sum(len(bins.examples[i]) for i in one) <= 64 for one in bins.bins)
    write_rows(bins, tmp_path / "rows")
    back = read_bins(tmp_path / "rows")
    for ours, stored in zip(bins.bins, back.bins, strict=True):
        for a, b in zip(ours, stored, strict=True):
            assert np.array_equal(bins.examples[a].ids, back.examples[b].ids)
            assert np.array_equal(bins.examples[a].trained, back.examples[b].trained)
    steps = len(back) // 3
    assert bins_of_step(back, 3, steps) == bins_of_step(back, 3, 0)  # they begin again


def test_padded_micro_batches_hold_each_document_of_a_step_once(tiny_data):
    bins = real_rows(str(tiny_data), 256, 2, TINY, lambda text: None)
    work = Work(
        shape="tiny",
        device="cpu",
        model="",
        adapter="",
        rows="",
        bins=2,
        bin_tokens=256,
        real=True,
        warmup=1,
        steps=3,
        rank=4,
        recompute=False,
    )
    whole, padded = (micro_batches(bins, work, padded=padded) for padded in (False, True))
    assert len(whole) == 4
    parts = len(padded) // 4
    assert parts > 1 and max(map(len, padded)) <= 16
    for step, documents in enumerate(whole):
        of_step = padded[step * parts : (step + 1) * parts]
        assert all(of_step) and [index for one in of_step for index in one] == documents


# Arithmetic


def test_needed_operations_of_an_8b_step():
    shape = SHAPES["8b"]
    assert shape.linear_parameters == 6_979_321_856
    assert 5.5 < shape.weights_gb < 6
    needed = needed_flops(shape, [2048] * 8, 8 * 2047)
    assert needed.layers == 4 * 6_979_321_856 * 16384
    assert needed.head == 4 * 8 * 2047 * 4096 * 128256
    # Half of 2048 x 2048 pairs, 8 documents, 32 layers, heads of 4096 together.
    assert needed.attention == 3.5 * 4 * (8 * 2048 * 2048 / 2) * 4096 * 32


def test_times_are_medians_after_the_warm_up(stacks_are, model, tmp_path):
    slow_start = made_up(losses=[6.94] * 8, seconds=[9, 9, 0.1, 0.2, 0.1, 0.1, 5, 0.1], warmup=2)
    stacks_are(evenfall=slow_start)
    figures = tmp_path / "bench.json"
    assert main([*SMALL, "--keep", str(model), "--json", str(figures)]) == 0
    tree = json.loads(figures.read_bytes())
    speed = tree["speeds"]["evenfall"]
    assert speed["step_ms"] == pytest.approx(100)
    assert speed["tokens_per_second"] == pytest.approx(2 * 48 / 0.1)
    needed = needed_flops(TINY, [48, 48], 94).total
    assert speed["mfu"] == pytest.approx(needed / 0.1 / 0.1e12)


@pytest.mark.parametrize(
    ("kernel", "phase"),
    [
        ("nvjet_tst_192x192_64x4_2x1_v_bz_coopB_NNT", "matmuls"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>", "matmuls"),
        ("void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<cutlass>", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_6", "attention"),
        ("_attention_key_gradient_kernel", "attention"),
        ("_dequantize_nf4_kernel", "dequantise"),
        ("void kDequantizeBlockwise<__nv_bfloat16, 512, 64, 8, 2>", "dequantise"),
        ("_rms_norm_backward_kernel", "norm, rope, glu"),
        ("_glu_backward_gradients_kernel", "norm, rope, glu"),
        ("_cross_entropy_kernel", "loss head"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimiser"),
        ("Memcpy DtoH (Device -> Pinned)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, AddFunctor>", "other"),
    ],
)
def test_kernels_are_known_by_their_names(kernel, phase):
    assert phase_of(kernel) == phase


def test_a_profile_counts_what_the_step_did_and_no_more():
    def event(name, kind, start, us):
        span = SimpleNamespace(start=start, end=start + us, elapsed_us=lambda: us)
        return SimpleNamespace(name=name, device_type=kind, time_range=span)

    cpu, gpu = DeviceType.CPU, DeviceType.CUDA
    profile = summarise(
        [
            event("evenfall bench step", cpu, 10, 100),
            event("evenfall bench step", gpu, 10, 100),
            event("cudaLaunchKernel", cpu, 20, 1),
            event("cuLaunchKernelEx", cpu, 30, 1),
            event("cudaMemcpyAsync", cpu, 40, 1),
            event("cudaEventSynchronize", cpu, 50, 1),
            event("cudaDeviceSynchronize", cpu, 120, 1),  # the profiler's own
            event("nvjet_tst", gpu, 30, 2000),
            event("_rope_kernel", gpu, 130, 500),
            event("Memcpy DtoH (Device -> Pinned)", gpu, 140, 10),
        ]
    )
    assert (profile.launches, profile.kernels) == (2, 2)
    assert profile.syncs == {"cudaEventSynchronize": 1}
    assert profile.phases_ms == {"matmuls": 2.0, "norm, rope, glu": 0.5, "copies": 0.01}


def test_the_time_between_kernels_is_told_by_the_kernel_that_was_waited_for():
    ran = [(30.0, 31.0, "b"), (0.0, 10.0, "a"), (13.0, 20.0, "b"), (15.0, 18.0, "c")]
    assert _gaps(ran) == {"b": pytest.approx(0.013)}
    assert not _gaps([])
