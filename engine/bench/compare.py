"""Whether a stack did the work, told by its losses. A speed means nothing where they are others.

The same rows, weights and optimiser give the same losses, but for rounding. So each step's loss is compared
with another stack's, and the first step's gradient norm too: it tells of a wrong backward at once. The
mean loss of random tokens is the same for half of them, so a stack must also have batched all that were to be
learnt. Where there is no other stack, losses must at least be numbers, and random tokens as hard to
guess as they are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .shapes import WEIGHT_STD, ModelShape
from .work import StackResult

LOSS_TOLERANCE = 1e-3
NORM_TOLERANCE = 0.02
FIRST_LOSS_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a stack's losses say about its speed."""

    stack: str
    good: bool
    reason: str
    """In words for the table."""
    against: str | None = None
    """The stack that it was compared with."""
    largest: float | None = None
    """Largest relative difference of a step's loss."""


def judge(
    results: Sequence[StackResult], shape: ModelShape, trained: Sequence[int], *, random: bool
) -> dict[str, Verdict]:
    """A verdict for each stack.

    TRL, or else the first that is not Evenfall, is what the others are compared with. Its own speed
    counts only if another stack's losses are the same, or if there is no other.

    Args:
        trained: tokens that each step is to learn.
        random: whether they are random.
    """
    verdicts = {}
    for result in results:
        for step, (did, due) in enumerate(zip(result.trained, trained, strict=False), 1):
            if did != due:
                reason = f"step {step} trains {did:,} tokens, not {due:,}"
                verdicts[result.stack] = Verdict(stack=result.stack, good=False, reason=reason)
                break
    whole = [result for result in results if result.stack not in verdicts]
    whole.sort(key=lambda result: (result.stack == "evenfall", result.stack != "trl"))
    if len(whole) == 1:
        verdicts[whole[0].stack] = check_alone(whole[0], shape, random=random)
    elif whole:
        reference, *others = whole
        compared = [compare(result, reference) for result in others]
        same = ", ".join(verdict.stack for verdict in compared if verdict.good)
        reason = f"losses agree with {same}" if same else "no other stack has these losses"
        verdicts[reference.stack] = Verdict(stack=reference.stack, good=bool(same), reason=reason)
        verdicts |= {verdict.stack: verdict for verdict in compared}
    return verdicts


def compare(result: StackResult, reference: StackResult) -> Verdict:
    """Step by step, as far as both go. What is not a number agrees with nothing."""
    pairs = list(zip(result.losses, reference.losses, strict=False))
    differences = [_relative(*pair) for pair in pairs]
    largest = max(differences, default=math.inf)
    reason = ""
    if not pairs:
        reason = "no losses to compare"
    elif largest > LOSS_TOLERANCE:
        at = next(step for step, by in enumerate(differences) if by > LOSS_TOLERANCE)
        ours, theirs = pairs[at]
        reason = f"losses differ: step {at + 1} {ours:.4f} against {theirs:.4f}"
    elif result.grad_norms and reference.grad_norms:
        ours, theirs = result.grad_norms[0], reference.grad_norms[0]
        if _relative(ours, theirs) > NORM_TOLERANCE:
            reason = f"gradients differ: first norm {ours:.4f} against {theirs:.4f}"
    return Verdict(
        stack=result.stack,
        good=not reason,
        reason=reason or f"losses agree, largest difference {largest:.1e}",
        against=reference.stack,
        largest=largest,
    )


def check_alone(result: StackResult, shape: ModelShape, *, random: bool) -> Verdict:
    """Losses are numbers, and at first what a model that knows nothing must have.

    With random weights the logits are normal with variance hidden x std^2, and the mean loss of
    tokens drawn evenly is ln(vocabulary) and half of that variance.
    """
    for step, loss in enumerate(result.losses, 1):
        if not math.isfinite(loss):
            return Verdict(stack=result.stack, good=False, reason=f"the loss of step {step} is {loss}")
    if not result.losses:
        return Verdict(stack=result.stack, good=False, reason="it told no losses")
    if random:
        expected = math.log(shape.vocabulary) + shape.hidden * WEIGHT_STD**2 / 2
        first = result.losses[0]
        if _relative(first, expected) > FIRST_LOSS_TOLERANCE:
            return Verdict(
                stack=result.stack,
                good=False,
                reason=f"the first loss is {first:.4f}; random tokens must give {expected:.4f}",
            )
        return Verdict(
            stack=result.stack,
            good=True,
            reason=f"first loss {first:.4f}; random tokens must give {expected:.4f}",
        )
    return Verdict(
        stack=result.stack,
        good=True,
        reason="every loss is a number; there is no stack to compare it with",
    )


def _relative(ours: float, theirs: float) -> float:
    """Infinite where either is not a finite number."""
    if not (math.isfinite(ours) and math.isfinite(theirs)):
        return math.inf
    return abs(ours - theirs) / max(abs(theirs), 1e-12)
