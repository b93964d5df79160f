"""A chat template at work: what it renders, what it has a place for, and rows in the shape that it takes.

Templates differ in what they accept: no system role, no tools, calls whose arguments are objects or JSON text,
content as text or as a list of blocks. What one accepts is found by rendering probes, once per tokenizer; it is
never guessed from the template's text. A row that does not fit is changed where that loses nothing (and said in
a note), otherwise refused.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from .errors import DataError
from .normal import Conversation, Message
from .row import SourceRow
from .training_template import template_for_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Probe7Q"

SYSTEM_FOLDED = "the chat template has no system role: system text put before the first user turn"
TOOLS_LEFT_OUT = "the chat template has no place for tools: their definitions left out"
CALLS_AS_TEXT = "the chat template has no tool calls: calls written as JSON in the answer"

Tools = list[dict[str, Any]] | None
Spans = tuple[tuple[int, int], ...]


class FittedTemplate:
    """The tokenizer's chat template; `training`: its version for training, where there is one."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", training: bool) -> None:
        self.tokenizer = tokenizer
        self.training = training

    def fit(self, row: Conversation) -> tuple[list[Message], frozenset[int], list[str]]:
        """The messages in a shape that the template takes, those of them that are masked, and a
        note on each change.

        Raises:
            DataError: the template has no place for something that cannot be left out.
        """
        messages, masked, notes = [dict(message) for message in row.messages], row.masked, []
        if messages[0]["role"] == "system" and not self._takes_system:
            if len(messages) < 2 or messages[1]["role"] != "user":
                raise row.source.error(
                    "the chat template has no system role, and no user turn follows the system "
                    "text that could take it in"
                )
            notes.append(SYSTEM_FOLDED)
            system = messages.pop(0)["content"]
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
            masked = frozenset(place - 1 for place in masked)
        if any(message["role"] == "tool" for message in messages) and not self._takes_results:
            raise row.source.error(
                "holds tool results, for which the model's chat template has no place; leave the "
                "row out, or choose a model whose template has tools"
            )
        if row.tools and not self._takes_tools:
            notes.append(TOOLS_LEFT_OUT)
        if any("tool_calls" in message for message in messages):
            if self._takes_calls == "no":
                notes.append(CALLS_AS_TEXT)
            for message in messages:
                if "tool_calls" in message:
                    _fit_calls(message, self._takes_calls)
        return messages, masked, notes

    def render(
        self, source: SourceRow | None, messages: list[Message], tools: Tools, prompt: bool = False
    ) -> str:
        """The text of a conversation; with `prompt`, up to where an answer would begin."""
        return self._apply(source, self._written(messages), tools, add_generation_prompt=prompt)[0]

    def marked(self, tools: Tools) -> bool:
        """Whether the template's markers say what is learnt."""
        return self._template(tools)[1]

    def render_marked(
        self, source: SourceRow | None, messages: list[Message], tools: Tools
    ) -> tuple[str, Spans]:
        """The text, and the character ranges that the markers enclose; a turn may have several.

        Raises:
            DataError: the template refuses the row, or its markers enclose nothing in it.
        """
        written = self._written(messages)
        text, spans = self._apply(source, written, tools, return_assistant_tokens_mask=True)
        return text, tuple((int(start), int(end)) for start, end in spans if start < end)

    @functools.cached_property
    def markers_close(self) -> bool:
        """Whether the markers enclose what ends a turn. Told from a turn that another follows: some
        templates write a turn's end before the next one."""
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _PROBE}]
        try:
            text, spans = self.render_marked(None, [*turns, turns[0]], None)
        except DataError:
            return False
        learnt = text[spans[-1][0] : spans[-1][1]] if spans else ""
        ids = self.tokenizer(learnt.rstrip(), add_special_tokens=False)["input_ids"]
        return bool(ids) and ids[-1] in self.tokenizer.added_tokens_decoder

    def _template(self, tools: Tools) -> tuple[str, bool]:
        template = self.tokenizer.get_chat_template(tools=tools)
        return template_for_training(template) if self.training else (template, False)

    def _apply(
        self, source: SourceRow | None, messages: list[Message], tools: Tools, **how: bool
    ) -> tuple[str, Sequence[Sequence[int]]]:
        # apply_chat_template would give the token mask at once, but drops all later answers when one begins
        # with a character that no token holds, tokenises row by row, and refuses what stands
        # before a chat that the assistant opens.
        from transformers.utils.chat_template_utils import render_jinja_template

        settings: dict[str, Any] = {**self.tokenizer.special_tokens_map, **how}
        with _template_errors(source, messages):
            rendered: Any = render_jinja_template(
                [messages],
                tools=tools,  # type: ignore[arg-type]
                chat_template=self._template(tools)[0],
                **settings,
            )
        texts, spans = rendered
        return texts[0], spans[0] if spans else ()

    def _written(self, messages: list[Message]) -> list[Message]:
        if not self._takes_blocks:
            return messages
        return [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            for message in messages
        ]

    def _try(self, messages: list[Message], tools: Tools = None, prompt: bool = False) -> str:
        """What the template makes of a probe; nothing where it refuses."""
        try:
            return self.render(None, messages, tools, prompt)
        except DataError:
            return ""

    @functools.cached_property
    def _takes_blocks(self) -> bool:
        """Content only as a list of blocks. SmolVLM's template, given text, leaves it out without a
        word."""
        blocks = [{"type": "text", "text": _PROBE}]
        for content in (_PROBE, blocks):
            with contextlib.suppress(DataError):
                if _PROBE in self._apply(None, [{"role": "user", "content": content}], None)[0]:
                    return content is blocks
        return False

    @functools.cached_property
    def _takes_system(self) -> bool:
        turns = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "Hi"}]
        return _PROBE in self._try(turns, prompt=True)

    @functools.cached_property
    def _takes_tools(self) -> bool:
        function = {
            "name": _PROBE,
            "description": "probe",
            "parameters": {"type": "object", "properties": {}},
        }
        tools = [{"type": "function", "function": function}]
        return _PROBE in self._try([{"role": "user", "content": "Hi"}], tools, prompt=True)

    @functools.cached_property
    def _takes_calls(self) -> str:
        """How it takes the arguments of a call: as an `object`, as `text`, or not at all: `no`."""
        for form, arguments in (("object", {"key": _PROBE}), ("text", f'{{"key": "{_PROBE}"}}')):
            function = {"name": "Call5X", "arguments": arguments}
            call = {"id": "a1b2c3d4e", "type": "function", "function": function}
            turns = [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "", "tool_calls": [call]},
            ]
            text = self._try(turns)
            # 'key' in quotes: an object was printed as Python prints it, which is no JSON. (LFM2
            # writes Python calls, key='value'; that is its own form.)
            if "Call5X" in text and _PROBE in text and "'key'" not in text:
                return form
        return "no"

    @functools.cached_property
    def _takes_results(self) -> bool:
        function = {"name": "look", "arguments": {}}
        calls = [{"id": "a1b2c3d4e", "type": "function", "function": function}]
        asks: Message = {"role": "assistant", "content": "", "tool_calls": calls}
        _fit_calls(asks, self._takes_calls)
        result = {"role": "tool", "content": _PROBE, "name": "look", "tool_call_id": "a1b2c3d4e"}
        return _PROBE in self._try([{"role": "user", "content": "Hi"}, asks, result])


def _fit_calls(message: Message, form: str) -> None:
    if form == "object":
        return
    calls = message["tool_calls"]
    if form == "text":
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _dumps(call)}} for call in calls
        ]
        return
    del message["tool_calls"]
    lines = [orjson.dumps(call["function"]).decode() for call in calls]
    message["content"] = "\n".join([message["content"], *lines] if message["content"] else lines)


def _dumps(call: dict[str, Any]) -> str:
    return orjson.dumps(call["function"]["arguments"]).decode()


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
