"""A conversation with one loaded model: turns, the history each side sees, and the answer under way.

Light: the model is whatever `reply` it was given, so the screen and its tests need no torch.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ...engine.machine.jobs import Job

if TYPE_CHECKING:
    from ...engine.inference.chat import Chat

Side = Literal["tuned", "base"]


@dataclass(kw_only=True)
class Answer:
    """One side's answer to one prompt. The job's thread writes `text`, the screen reads it."""

    side: Side
    text: str = ""
    note: str = ""
    """What it took, once it is there."""
    begun: bool = False


@dataclass
class Turn:
    prompt: str
    answers: list[Answer]

    def answer_of(self, side: Side) -> Answer:
        """That side's answer, else the other's: a side that was not asked saw the other speak."""
        return next((answer for answer in self.answers if answer.side == side), self.answers[0])


@dataclass
class Talk:
    """The turns so far."""

    turns: list[Turn] = field(default_factory=list)

    def messages(self, side: Side, system: str) -> list[dict[str, str]]:
        """What that side is asked: the system text, its own history and the last prompt."""
        found = [{"role": "system", "content": system}] if system else []
        for turn in self.turns[:-1]:
            found.append({"role": "user", "content": turn.prompt})
            found.append({"role": "assistant", "content": turn.answer_of(side).text})
        return [*found, {"role": "user", "content": self.turns[-1].prompt}]

    def begin(self, prompt: str, sides: Sequence[Side]) -> Turn:
        self.turns.append(Turn(prompt, [Answer(side=side) for side in sides]))
        return self.turns[-1]


def answer(
    chat: "Chat",
    talk: Talk,
    stop: threading.Event,
    system: str,
    temperature: float,
    max_new_tokens: int,
    job: Job[Any],
) -> None:
    """Let each side of the last turn answer, one after the other. Runs in a job.

    All sides get the same seed. A stop ends the answer under way; the sides after it stay silent.
    """
    turn = talk.turns[-1]
    for found in turn.answers:
        if stop.is_set():
            found.note = "not asked"
            continue
        job.report(f"{found.side} answers")
        found.begun = True

        def keep(text: str, found: Answer = found) -> None:
            found.text = text

        reply = chat.reply(
            talk.messages(found.side, system),
            adapter=found.side == "tuned",
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=len(talk.turns),
            on_text=keep,
            stop=stop,
        )
        found.text = reply.text
        speed = reply.tokens / reply.seconds if reply.seconds > 0 else 0.0
        ended = {"length": " · cut at max tokens", "stopped": " · stopped"}.get(reply.ended, "")
        found.note = f"{speed:.0f} tokens/s · {reply.tokens} tokens{ended}"
