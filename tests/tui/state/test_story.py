"""What a run tells in words, on the screen and as plain lines."""

import pytest

from evenfall.engine.run import events as ev
from evenfall.tui.commands.plain import describe
from evenfall.tui.state.story import Story


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            ev.MemoryPlanned(32, 0, 0, 32, 61.9, 13.96),
            "activations kept in 32 layers: 61.9 GB; weights of 32 layers dequantised: 14.0 GB",
        ),
        (
            ev.MemoryPlanned(3, 10, 19, 0, 14.2, 0.0),
            (
                "activations kept in 3 layers, norms and activations recomputed in 10 layers, "
                "recomputed in 19 layers: 14.2 GB"
            ),
        ),
        (
            ev.StepCaptured(16_384, 16_376, 0, 0.0),
            "micro-steps of 16,384 tokens, up to 16,376 of them learnt, run as one CUDA graph, proven here",
        ),
        (
            ev.StepCaptured(4096, 4096, 0, 0.0),
            "micro-steps of 4,096 tokens run as one CUDA graph, proven here",
        ),
    ],
)
def test_what_was_chosen_for_this_gpu_is_told(event: ev.Event, words: str) -> None:
    story = Story()
    story.add(event)
    assert [line.text for line in story.lines] == [words]
    assert describe(event) == words
