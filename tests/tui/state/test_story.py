"""What a run tells in words, on the screen and as plain lines."""

import pytest

from evenfall.engine.run import events as ev
from evenfall.tui.commands.plain import describe
from evenfall.tui.state.story import Story


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            ev.MemoryPlanned(kept=32, cheap=0, recomputed=0, cached=32, activations_gb=61.9, weights_gb=13.96),
            "activations kept in 32 layers: 61.9 GB; weights of 32 layers dequantised: 14.0 GB",
        ),
        (
            ev.MemoryPlanned(kept=3, cheap=10, recomputed=19, cached=0, activations_gb=14.2, weights_gb=0.0),
            (
                "activations kept in 3 layers, norms and activations recomputed in 10 layers, "
                "recomputed in 19 layers: 14.2 GB"
            ),
        ),
        (
            ev.StepCaptured(tokens=16_384, labels=16_376, filled=0, difference=0.0),
            "micro-steps of 16,384 tokens, up to 16,376 of them learnt, run as one CUDA graph, proven here",
        ),
        (
            ev.StepCaptured(tokens=4096, labels=4096, filled=0, difference=0.0),
            "micro-steps of 4,096 tokens run as one CUDA graph, proven here",
        ),
    ],
)
def test_what_was_chosen_for_this_gpu_is_told(event: ev.Event, words: str) -> None:
    story = Story()
    story.add(event)
    assert [line.text for line in story.lines] == [words]
    assert describe(event) == words


@pytest.mark.parametrize(
    ("threads", "words"),
    [(None, "in float32"), (1, "in float32 with 1 thread"), (4, "in float32 with 4 threads")],
)
def test_the_threads_that_compute_on_a_cpu_are_told(threads: int | None, words: str) -> None:
    event = ev.ModelLoaded(
        name="demo", family="llama", parameters=2_600_000, trainable=262_144, quantization="nf4",
        compute_dtype="float32", weights_gb=0.002, seconds=1.0, threads=threads,
    )  # fmt: skip
    assert describe(event).endswith(words)
