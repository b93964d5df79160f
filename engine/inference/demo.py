"""The demo: the very path of any run, on a model and data that ship with Evenfall.

What it shows at the end is asked of the trained run through `Chat`, as a user would: the same fixed
questions, none of them in the training data, with the adapter off and on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from ...presets.load import demo_folder, model_preset, preset_overrides
from ..config.run_config import RunConfig
from ..run.directory import RunDirectory


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One fixed question, answered by the base and by the tuned model (greedy)."""

    question: str
    expected: str
    before: str
    after: str

    @property
    def learnt(self) -> bool:
        """Right now, and not before."""
        return self.after == self.expected != self.before


def demo_config(overrides: list[str]) -> RunConfig:
    """What the Model screen's first row trains, with overrides.

    Raises:
        ConfigError: an override does not fit.
    """
    preset = preset_overrides(model="demo", recipe=model_preset("demo").recipe)
    return RunConfig().with_overrides([*preset, *overrides])


def compare_answers(run: RunDirectory, report: Callable[[str, float | None], None]) -> list[Answer]:
    """Ask the fixed questions before (adapter off) and after (adapter on)."""
    from .chat import Chat

    questions = json.loads((demo_folder() / "questions.json").read_text(encoding="utf-8"))
    chat = Chat.open(run, report)
    answers = []
    for number, item in enumerate(questions, 1):
        report(f"question {number} of {len(questions)}", number / len(questions))
        messages = [{"role": "user", "content": item["question"]}]
        before, after = (
            chat.reply(messages, adapter=adapter, max_new_tokens=64).text.strip() for adapter in (False, True)
        )
        answers.append(Answer(question=item["question"], expected=item["expected"], before=before, after=after))
    chat.close()
    return answers
