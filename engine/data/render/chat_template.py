"""A tokenizer's chat template at work: conversations as text, and how it opens and ends an answer.

What chat and every server send is the template's text with the generation prompt. How that opens an answer may differ
from how the template writes one that is there: DeepSeek-R1's prompt ends with `<think>`, answers in its history have
none; as first published Llama 3's wrote the prompt behind every conversation, asked for or not. Both are found by
rendering probes, as all habits of a template are.
"""

import contextlib
import datetime
import functools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from ..formats.normal import Message
from ..row import SourceRow
from .special import special_ids
from .training_template import template_for_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "Probe7Q"
_ASKED = "Asked7Q"
_TAG = re.compile(r"\s*(?:<(?P<angle>[^\s<>/]+)>|\[(?P<square>[A-Z_]+)\])(?P<gap>\s*)")
"""A tag that is opened, alone."""
_NOW = re.compile(r"strftime_now\(\s*(?P<quote>[\"'])(?P<format>[^\"'\\]*)(?P=quote)\s*\)")

Tools = list[dict[str, Any]] | None
Spans = tuple[tuple[int, int], ...]


class Opening(NamedTuple):
    """What the generation prompt has more than the template writes before an answer that is there."""

    left: str
    close: str
    """What closes the tag that it opens; empty: it opens none."""


def writes_the_date(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template writes the day on which it is rendered."""
    template = tokenizer.chat_template
    texts = template.values() if isinstance(template, dict) else (template,)
    return any("strftime_now" in text for text in texts if text)


class ChatTemplate:
    """The tokenizer's chat template.

    Args:
        training: its version for training, where there is one.
        date: the day that a template which writes one is given; None: today.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", training: bool = False, date: datetime.date | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._training, self._date = training, date
        texts = tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer)))
        self._special = tuple(text for text in texts if text)
        self._texts: dict[bool, tuple[str, bool]] = {}
        self.no_content: str | None = ""
        """What stands for the content of a message that has calls and no text."""

    def render(self, source: SourceRow | None, messages: list[Message], tools: Tools, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt`, up to where an answer would begin.

        Raises:
            DataError: the template refuses it.
        """
        text = self._apply(source, self._written(messages), tools, add_generation_prompt=prompt)[0]
        if not prompt and messages and messages[-1]["role"] == "assistant":
            return text.removesuffix(self.tail)
        return text

    @property
    def is_the_models_own(self) -> bool:
        """Whether there is no other version for training than the template itself."""
        templates = self.tokenizer.chat_template
        texts = templates.values() if isinstance(templates, dict) else (templates,)
        return all(template_for_training(text)[0] == text for text in texts if text)

    def marked(self, tools: Tools) -> bool:
        """Whether the template's markers say what is learnt."""
        return self._template(tools)[1]

    def render_marked(self, source: SourceRow | None, messages: list[Message], tools: Tools) -> tuple[str, Spans]:
        """The text, and the character ranges that the markers enclose; a turn may have several.

        Raises:
            DataError: the template refuses the row.
        """
        written = self._written(messages)
        text, spans = self._apply(source, written, tools, return_assistant_tokens_mask=True)
        return text, tuple((int(start), int(end)) for start, end in spans if start < end)

    @functools.cached_property
    def markers_close(self) -> bool:
        """Whether the markers enclose what ends a turn. Told from a turn that another follows: some
        templates write a turn's end before the next one."""
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": PROBE}]
        try:
            text, spans = self.render_marked(None, [*turns, turns[0]], None)
        except DataError:
            return False
        learnt = text[spans[-1][0] : spans[-1][1]] if spans else ""
        ids = self.tokenizer(learnt.rstrip(), add_special_tokens=False)["input_ids"]
        return bool(ids) and ids[-1] in self.tokenizer.added_tokens_decoder

    def end_in(self, text: str, through: str) -> int | None:
        """Where the rendering of a conversation's first messages ends in the text of all; None: it does not begin
        that text."""
        if text.startswith(through):
            return len(through)
        # Some templates (Phi-3's) close the whole conversation with one more token.
        eos = self.tokenizer.eos_token
        inner = through.removesuffix(eos) if isinstance(eos, str) else through
        closed = inner.rstrip().endswith(self._special)
        return len(inner) if closed and text.startswith(inner) else None

    def end_of_turn(self, text: str, start: int) -> int:
        """Where the special token ends that stands at `start`; `start` itself, if none does."""
        found = (len(token) for token in self._special if text.startswith(token, start))
        return start + max(found, default=0)

    @functools.cached_property
    def opening(self) -> Opening:
        """How an answer that is asked for begins otherwise than one that is there."""
        asked = [{"role": "user", "content": "Hi"}]
        prompt = self.try_render(asked, prompt=True)
        head, found, _ = self.try_render([*asked, {"role": "assistant", "content": PROBE}]).partition(PROBE)
        left = prompt[shared(prompt, head) :] if found else ""
        tag = _TAG.fullmatch(left)
        if not tag:
            return Opening(left, "")
        lead = "\n" if "\n" in tag["gap"] else ""
        closing = f"</{tag['angle']}>" if tag["angle"] else f"[/{tag['square']}]"
        return Opening(left, f"{lead}{closing}{2 * lead}")

    @functools.cached_property
    def tail(self) -> str:
        """The generation prompt that the template writes behind an answer, though none is asked for."""
        user, answer = {"role": "user", "content": _ASKED}, {"role": "assistant", "content": PROBE}
        asked = self._probed([user])
        if not asked or asked != self._probed([user], prompt=True):
            return ""
        behind = self._probed([user, answer]).partition(PROBE)[2]
        following = self._probed([user, answer, {"role": "user", "content": "So?"}]).partition(PROBE)[2]
        end = self._first_special(behind[: shared(behind, following)])
        tail = behind[end:].lstrip() if end else behind
        return tail if tail and asked.endswith(tail) else ""

    def try_render(self, messages: list[Message], tools: Tools = None, prompt: bool = False) -> str:
        """What the template makes of a probe; nothing where it refuses."""
        try:
            return self.render(None, messages, tools, prompt)
        except DataError:
            return ""

    def _probed(self, messages: list[Message], prompt: bool = False) -> str:
        """As `try_render`, with its tail."""
        try:
            return self._apply(None, self._written(messages), None, add_generation_prompt=prompt)[0]
        except DataError:
            return ""

    def _first_special(self, text: str) -> int:
        """Where the first special token in a text ends; 0: there is none."""
        places = [(place, -len(token), token) for token in self._special if (place := text.find(token)) >= 0]
        return min(places)[0] + len(min(places)[2]) if places else 0

    def _template(self, tools: Tools) -> tuple[str, bool]:
        """The template for rows with tools or without, and whether it marks the answers."""
        key = tools is not None
        if key not in self._texts:
            template, marked = self.tokenizer.get_chat_template(tools=tools), False
            if self._training:
                template, marked = template_for_training(template)
            self._texts[key] = _dated(template, self._date) if self._date else template, marked
        return self._texts[key]

    def _apply(
        self, source: SourceRow | None, messages: list[Message], tools: Tools, **how: bool
    ) -> tuple[str, Sequence[Sequence[int]]]:
        # apply_chat_template would give the token mask at once, but drops all later answers when one begins
        # with a character that no token holds, tokenises row by row, and refuses what stands
        # before a chat that the assistant opens.
        from transformers.utils.chat_template_utils import render_jinja_template

        settings: dict[str, Any] = {**self._special_tokens, **how}
        with _template_errors(source, messages):
            rendered: Any = render_jinja_template(
                [messages],
                tools=tools,  # type: ignore[arg-type]
                chat_template=self._template(tools)[0],
                **settings,
            )
        texts, spans = rendered
        return texts[0], spans[0] if spans else ()

    @functools.cached_property
    def _special_tokens(self) -> dict[str, Any]:
        return dict(self.tokenizer.special_tokens_map)

    def _written(self, messages: list[Message]) -> list[Message]:
        if self.no_content is None:
            messages = [
                {**message, "content": message["content"] or None} if "tool_calls" in message else message
                for message in messages
            ]
        if not self._takes_blocks:
            return messages
        return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]

    @functools.cached_property
    def _takes_blocks(self) -> bool:
        """Content only as a list of blocks. SmolVLM's template, given text, leaves it out without a
        word."""
        blocks = [{"type": "text", "text": PROBE}]
        for content in (PROBE, blocks):
            with contextlib.suppress(DataError):
                if PROBE in self._apply(None, [{"role": "user", "content": content}], None)[0]:
                    return content is blocks
        return False


def shared(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    if first.startswith(second) or second.startswith(first):
        return min(len(first), len(second))
    return next(place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)


def _dated(template: str, date: datetime.date) -> str:
    """The template with a day in place of the one on which it is rendered. It asks for that by a
    function of its own, with the format as text; a format that it makes up is left to it."""
    return _NOW.sub(lambda found: f'"{date.strftime(found["format"])}"', template)


@contextlib.contextmanager
def _template_errors(source: SourceRow | None, messages: list[Message]) -> Iterator[None]:
    """Turns what a template raises into a DataError that names the row."""
    import jinja2

    try:
        yield
    # Besides its own errors a template raises what the Python operations in it raise.
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        roles = ", ".join(message["role"] for message in messages) or "none"
        message = f"the model's chat template refuses it: {error} (turns rendered: {roles})"
        raise (source.error(message) if source else DataError(message)) from error
