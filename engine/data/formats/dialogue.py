"""Dialogues that stand in one text: `\\n\\nHuman: Hi\\n\\nAssistant: Hello`, as HH-RLHF has them."""

import re

from .normal import Message

_SPEAKER = re.compile(r"(?:\A|\n\n)\s*(Human|User|Assistant|HUMAN|USER|ASSISTANT):[ \t]*", re.MULTILINE)
_ROLES = {"human": "user", "user": "user", "assistant": "assistant"}


def read_dialogue(text: str) -> list[Message] | None:
    """The turns of a text that begins with a user's and goes on with an answer; None: it holds no dialogue."""
    said = _SPEAKER.split(text.strip())
    if said[0].strip() or len(said) < 5 or _ROLES[said[1].lower()] != "user":
        return None
    turns: list[Message] = [
        {"role": _ROLES[speaker.lower()], "content": words.strip()}
        for speaker, words in zip(said[1::2], said[2::2], strict=True)
    ]
    return turns if any(turn["role"] == "assistant" for turn in turns) else None
