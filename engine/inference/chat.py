"""Chat: one loaded model, asked with its adapter or without.

Base and tuned answers come from the same weights, the same prompt ids and the same seed, with the
adapter switched on or off, so the difference that is seen is the training and nothing else. The
prompt is rendered by the tokenizer's own chat template, as the training rows were.
"""

import contextlib
import datetime
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ..config.run_config import ModelConfig
from ..data.formats.normal import Conversation
from ..data.render.template_fit import FittedTemplate
from ..data.render.turn_end import unknown_turn_end
from ..data.report.report import DataReport
from ..data.row import SourceRow
from ..machine.device import describe_device, pick_device
from ..machine.jobs import TellStage
from ..machine.threads import answering_threads, set_threads
from ..model.adapter import load_adapter
from ..model.load import load_base
from ..model.tokenizer import load_tokenizer
from ..run.directory import RunDirectory, RunError, adapter_folder

Message = dict[str, str]
_NO_REASONING = re.compile(r"^\s*(?:<think>)?\s*</think>\s*")
"""Reasoning that says nothing: an answer without any is learnt so, where the prompt opens the tag."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    text: str
    tokens: int
    """Tokens generated, end-of-turn included."""
    seconds: float
    ended: Literal["eos", "length", "stopped"]


def _ignore(_: str) -> None:
    """Nobody follows the text as it grows."""


class Chat:
    """A run's base model with its adapter. Not thread-safe: one answer at a time.

    Attributes:
        name: of the run. device: what it runs on, in words. system: the system text that all of its rows had; empty:
            none, or not one for all. takes_system: there is a chat template to write it with.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        device: torch.device,
        *,
        ends: set[int],
        system: str = "",
        date: datetime.date | None = None,
    ) -> None:
        self.name, self.system, self._date = name, system, date
        self.device = describe_device(device)
        self._model: Any = model
        self._tokenizer = tokenizer
        self._device = device
        self._ends = ends
        self.takes_system = bool(tokenizer.chat_template)

    @classmethod
    def open(cls, run: RunDirectory, report: TellStage, overrides: Sequence[str] = ()) -> "Chat":
        """Load a run's base, as it was trained, and its final adapter (or newest checkpoint).

        Args:
            overrides: of its configuration, for this chat alone, such as where its base is now.

        Raises:
            ConfigError: an override does not fit.
            RunError: there is no adapter yet. LoadError: the base cannot be loaded.
        """
        folder = adapter_folder(run)
        config = run.config().with_overrides(overrides)
        device = pick_device(config.train.device)
        tokenizer = load_tokenizer(config)
        base = load_base(config.model, device, report, packed=False)
        if device.type == "cpu":
            set_threads(answering_threads(base.parameters))
        report("adding the adapter", None)
        model = load_adapter(base.model, folder)
        model.eval()
        return cls(
            run.name,
            model,
            tokenizer,
            device,
            ends=_end_tokens(config.model, model, tokenizer),
            system=trained_system(run.progress().data),
            date=config.data.date,
        )

    def reply(
        self,
        messages: list[Message],
        *,
        adapter: bool,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        on_text: Callable[[str], None] = _ignore,
        stop: threading.Event | None = None,
    ) -> Reply:
        """Answer the last message.

        Args:
            messages: {"role", "content"} turns, a user's last.
            temperature: 0 takes the likeliest token each time.
            on_text: gets the whole text so far, as it grows.
            stop: set it to end early; what there is so far is the answer.
        """
        ids = prompt_ids(self._tokenizer, messages, self._date)
        prompt = torch.tensor([ids], device=self._device)
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        options = GenerationConfig(
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self._ends),
            pad_token_id=min(self._ends),
            use_cache=True,
            **sampling,
        )
        stream = _Stream(self._tokenizer, self._ends, on_text)
        stop = stop or threading.Event()
        torch.manual_seed(seed)
        start = time.perf_counter()
        with torch.inference_mode(), self._adapter(adapter):
            self._model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=options,
                streamer=stream,
                stopping_criteria=StoppingCriteriaList([_Stopped(stop)]),
            )
        seconds = time.perf_counter() - start
        ended: Literal["eos", "length", "stopped"] = "length"
        if stream.ids and stream.ids[-1] in self._ends:
            ended = "eos"
        elif stop.is_set():
            ended = "stopped"
        return Reply(text=stream.text, tokens=len(stream.ids), seconds=seconds, ended=ended)

    def close(self) -> None:
        """Let go of the model and its memory."""
        self._model = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @contextlib.contextmanager
    def _adapter(self, on: bool) -> Iterator[None]:
        with contextlib.nullcontext() if on else self._model.disable_adapter():
            yield


def prompt_ids(tokenizer: Any, messages: list[Message], date: datetime.date | None = None) -> list[int]:
    """Token ids of a conversation up to where the answer begins: those that an answer in the training rows stood
    behind.

    A model without a chat template goes on from the last message's text as it stands.

    Args:
        date: the day that a chat template which writes one is given.
    """
    if not tokenizer.chat_template:
        return tokenizer(messages[-1]["content"]).input_ids
    row = Conversation(source=SourceRow(file="chat", number=1, value=""), messages=tuple(messages))
    template = FittedTemplate(tokenizer, answers=True, date=date)
    text = template.render(row.source, template.fit_prompt(row), None, prompt=True)
    return tokenizer(text, add_special_tokens=False).input_ids


def trained_system(data: DataReport | None) -> str:
    """The system text that all rows of a run's data had; empty: none, or not one for all."""
    texts = {source.system for source in data.sources} if data else set()
    return texts.pop() if len(texts) == 1 else ""


class _Stream(BaseStreamer):
    """Collects token ids as they come and passes the text on."""

    def __init__(self, tokenizer: Any, ends: set[int], on_text: Callable[[str], None]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self._prompt_seen = False
        self._tokenizer, self._ends, self._on_text = tokenizer, ends, on_text

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_seen:  # generate() streams the prompt first
            self._prompt_seen = True
            return
        self.ids += value.flatten().tolist()
        shown = [token for token in self.ids if token not in self._ends]
        text = self._tokenizer.decode(shown, skip_special_tokens=True)
        self.text = _NO_REASONING.sub("", text)
        self._on_text(self.text)

    def end(self) -> None:
        """Nothing is held back."""


class _Stopped(StoppingCriteria):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._stop.is_set(), device=input_ids.device)


def _end_tokens(config: ModelConfig, model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the model's, the tokenizer's, and what the chat template ends a turn with."""
    ends: set[int] = set()
    named = getattr(model.generation_config, "eos_token_id", None)
    for value in (named, tokenizer.eos_token_id, unknown_turn_end(config, tokenizer)):
        if isinstance(value, int):
            ends.add(value)
        elif value is not None:
            ends.update(value)
    if not ends:
        raise RunError("the tokenizer names no end-of-sequence token, so no answer would end")
    return ends
