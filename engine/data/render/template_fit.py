"""A chat template at work: what it renders, what it has a place for, and rows in the shape that it takes.

Templates differ in what they accept: no system role, or only at the beginning, no tools, no reasoning, calls whose
arguments are objects or JSON text, content as text or as a list of blocks. What one accepts is found by rendering
probes, once per tokenizer; it is never guessed from the template's text. A row that does not fit is changed where that
loses nothing (and said in a note). What there is no place for is left out with a note where the row still says
something without it (tools, reasoning), otherwise the row is refused. Nothing is lost without a word.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..formats.cells import dumps
from ..formats.normal import REASONING, Conversation, Flag, Message, is_empty
from ..row import SourceRow
from .special import special_ids
from .training_template import template_for_training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "Probe7Q"

SYSTEM_FOLDED = "the chat template has no system role: system text put before the first user turn"
LATE_SYSTEM_FOLDED = (
    "the chat template has no place for system text within a conversation: put before the next user turn"
)
REASONING_LEFT_OUT = "the chat template has no place for reasoning: left out"
TEXT_LEFT_OUT = "the chat template has no place for text beside tool calls: left out"
CALLS_LEFT_OUT = "the chat template writes one call of several made at once: the others left out"
TOOLS_LEFT_OUT = "the chat template has no place for tools: their definitions left out"
CALLS_AS_TEXT = "the chat template has no tool calls: calls written as JSON in the answer"

Tools = list[dict[str, Any]] | None
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A conversation in the shape that a template takes.

    Args:
        masked: places of answers that are not learnt.
        flags: place -> what the file says of a message there.
        notes: one on each kind of change.
    """

    messages: list[Message]
    masked: frozenset[int]
    flags: dict[int, Flag]
    notes: list[str]


class FittedTemplate:
    """The tokenizer's chat template; `training`: its version for training, where there is one, which learns the
    answers and nothing else."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", training: bool) -> None:
        self.tokenizer = tokenizer
        self.training = training
        texts = tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer)))
        self._special = tuple(text for text in texts if text)
        self._system_after: dict[str, bool] = {}

    def fit(self, row: Conversation) -> Fitted:
        """The conversation in a shape that the template takes; for training, up to the last answer that is learnt:
        what comes after it teaches nothing.

        Raises:
            DataError: the template has no place for something that cannot be left out.
        """
        answers = [
            place
            for place, message in enumerate(row.messages)
            if message["role"] == "assistant" and place not in row.masked
        ]
        end = answers[-1] + 1 if self.training else len(row.messages)
        fitted = self._with_system_placed(row, end)
        messages, masked, notes = fitted.messages, set(fitted.masked), fitted.notes
        roles = {message["role"] for message in messages}
        if lost := roles & self._left_out:
            raise row.source.error(
                f"the chat template leaves out what {' and '.join(sorted(lost))} messages say; "
                "give the model another one (data.chat_template)"
            )
        if "tool" in roles and not self._takes_results:
            raise row.source.error(
                "holds tool results, for which the model's chat template has no place; leave the "
                "row out, or choose a model whose template has tools"
            )
        if row.tools and not self._takes_tools:
            notes.append(TOOLS_LEFT_OUT)
        for place, message in enumerate(messages):
            if message["role"] == "assistant" and not self._keeps_reasoning(message):
                notes.append(REASONING_LEFT_OUT)
                if is_empty(message, reasoning=False):
                    masked.add(place)
                    for key in REASONING:
                        message.pop(key, None)
            if "tool_calls" in message:
                notes += self._notes_of_calls(message)
                _fit_calls(message, self._takes_calls)
        return Fitted(
            messages=messages,
            masked=frozenset(masked),
            flags=fitted.flags,
            notes=list(dict.fromkeys(notes)),
        )

    def _notes_of_calls(self, message: Message) -> Iterator[str]:
        if self._takes_calls == "no":
            yield CALLS_AS_TEXT
            return
        if message["content"].strip() and not self._takes_text_beside_calls:
            yield TEXT_LEFT_OUT
        if len(message["tool_calls"]) > 1 and not self._takes_several_calls:
            yield CALLS_LEFT_OUT

    def _with_system_placed(self, row: Conversation, end: int) -> Fitted:
        """The messages before `end`, as new objects, without their flags. System text that the template would leave
        out where it stands is put before the user turn that follows it."""
        fitted = Fitted(messages=[], masked=frozenset(), flags={}, notes=[])
        masked: set[int] = set()
        waiting: list[Message] = []
        for place, given in enumerate(row.messages[:end]):
            message = {key: item for key, item in given.items() if key != "flag"}
            before = fitted.messages[-1]["role"] if fitted.messages else ""
            if message["role"] == "system" and not self._takes_system_after(before):
                waiting.append(given)
                fitted.notes.append(LATE_SYSTEM_FOLDED if before else SYSTEM_FOLDED)
                continue
            if waiting:
                if message["role"] != "user":
                    raise _no_user_turn(row, before)
                self._require_one_flag(row, [*waiting, given])
                texts = [one["content"] for one in (*waiting, message)]
                # Not `instruction` and `input`, which some templates write in place of the content.
                message = {"role": "user", "content": "\n\n".join(texts)}
                waiting = []
            if place in row.masked:
                masked.add(len(fitted.messages))
            if "flag" in given:
                fitted.flags[len(fitted.messages)] = given["flag"]
            fitted.messages.append(message)
        if waiting:
            raise _no_user_turn(row, fitted.messages[-1]["role"])
        return Fitted(
            messages=fitted.messages,
            masked=frozenset(masked),
            flags=fitted.flags,
            notes=fitted.notes,
        )

    def _require_one_flag(self, row: Conversation, messages: list[Message]) -> None:
        """Raises:
        DataError: messages that become one are not learnt alike.
        """
        flags = [message["flag"] for message in messages if "flag" in message]
        says = {"flag" not in message or message["flag"].learnt for message in messages}
        if not self.training and len(says) > 1:
            raise row.source.error(
                f"`{flags[0].key}`: the chat template has no place for system text here, so it is put into the user "
                "turn that follows, and both are learnt or neither: flag them alike"
            )

    def render(self, source: SourceRow | None, messages: list[Message], tools: Tools, prompt: bool = False) -> str:
        """The text of a conversation; with `prompt`, up to where an answer would begin."""
        return self._apply(source, self._written(messages), tools, add_generation_prompt=prompt)[0]

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

    def marked(self, tools: Tools) -> bool:
        """Whether the template's markers say what is learnt."""
        return self._template(tools)[1]

    def render_marked(self, source: SourceRow | None, messages: list[Message], tools: Tools) -> tuple[str, Spans]:
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
        return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]

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
    def _left_out(self) -> set[str]:
        """Roles whose text the template leaves out, in some turn or all. A template that refuses the probe is
        not judged by it. Answers that are learnt are looked for in each row anyway."""
        roles = ["user", "assistant"] * 2
        text = self._try([{"role": role, "content": f"{_PROBE}{place}"} for place, role in enumerate(roles)])
        lost = {role for place, role in enumerate(roles) if f"{_PROBE}{place}" not in text}
        return lost - ({"assistant"} if self.training else set()) if text else set()

    def _takes_system_after(self, role: str) -> bool:
        """Whether system text reaches the rendering behind a message of this role; none: at the beginning."""
        if role not in self._system_after:
            before: list[Message] = [{"role": "user", "content": "Hi"}]
            if role == "system":
                before = [{"role": "system", "content": "One"}]
            elif role == "assistant":
                before += [{"role": "assistant", "content": "Yes"}]
            elif role == "tool":
                before += self._call_and_result("done")
            elif not role:
                before = []
            turns = [*before, {"role": "system", "content": _PROBE}]
            if role != "user":
                turns += [{"role": "user", "content": "So?"}]
            self._system_after[role] = _PROBE in self._try(turns, prompt=True)
        return self._system_after[role]

    def _keeps_reasoning(self, message: Message) -> bool:
        """Whether the template writes a message's reasoning, if it has any."""
        keys = [key for key in REASONING if message.get(key, "").strip()]
        return not keys or any(self._takes_reasoning[key, "tool_calls" in message] for key in keys)

    @functools.cached_property
    def _takes_reasoning(self) -> dict[tuple[str, bool], bool]:
        """(The key of reasoning, whether tools are called beside it) -> whether it reaches the rendering."""
        taken = {}
        for key in REASONING:
            for calls in (False, True):
                answer = {"role": "assistant", "content": "Yes", key: _PROBE}
                if calls:
                    answer = {**self._call_and_result("done")[0], key: _PROBE}
                turns = [{"role": "user", "content": "Hi"}, answer]
                taken[key, calls] = _PROBE in self._try(turns)
        return taken

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
    def _takes_several_calls(self) -> bool:
        asks = self._call_and_result("done")[0]
        (call,) = asks["tool_calls"]
        other = {**call, "id": "e4d3c2b1a", "function": {**call["function"], "name": _PROBE}}
        text = self._try([{"role": "user", "content": "Hi"}, {**asks, "tool_calls": [call, other]}])
        return _PROBE in text

    @functools.cached_property
    def _takes_text_beside_calls(self) -> bool:
        asks = {**self._call_and_result("done")[0], "content": _PROBE}
        return _PROBE in self._try([{"role": "user", "content": "Hi"}, asks])

    @functools.cached_property
    def _takes_results(self) -> bool:
        turns = [{"role": "user", "content": "Hi"}, *self._call_and_result(_PROBE)]
        return _PROBE in self._try(turns)

    def _call_and_result(self, result: str) -> list[Message]:
        """A call as the template takes it, and what it gave."""
        function = {"name": "look", "arguments": {}}
        calls = [{"id": "a1b2c3d4e", "type": "function", "function": function}]
        asks: Message = {"role": "assistant", "content": "", "tool_calls": calls}
        _fit_calls(asks, self._takes_calls)
        answer = {"role": "tool", "content": result, "name": "look", "tool_call_id": "a1b2c3d4e"}
        return [asks, answer]


def _no_user_turn(row: Conversation, before: str) -> DataError:
    place = f"after a message of role {before}" if before else "at the beginning"
    return row.source.error(
        f"the chat template has no place for system text {place}, and no user turn follows the system text that "
        "could take it in; move it, or leave it out with data.drop_system=true"
    )


def _fit_calls(message: Message, form: str) -> None:
    if form == "object":
        return
    calls = message["tool_calls"]
    if form == "text":
        message["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": dumps(call["function"]["arguments"])}}
            for call in calls
        ]
        return
    del message["tool_calls"]
    lines = [dumps(call["function"]) for call in calls]
    message["content"] = "\n".join([message["content"], *lines] if message["content"] else lines)


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
