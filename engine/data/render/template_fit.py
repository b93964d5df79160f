"""What a chat template has a place for, and rows in the shape that it takes.

Templates differ in what they accept: no system role, or only at the beginning, or only where a user turn is the last;
no tools, no reasoning, calls whose arguments are objects or JSON text, with ids of nine letters, one at a time. What
one accepts is found by rendering probes, once per tokenizer; it is never guessed from the template's text. A row that
does not fit is changed where that loses nothing (and said in a note). What there is no place for is left out with a
note where the row still says something without it (tools, reasoning), otherwise the row is refused. Nothing is lost
without a word.
"""

import datetime
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import DataError
from ..formats.calls import one_by_one, with_short_ids
from ..formats.cells import dumps
from ..formats.normal import REASONING, Conversation, Flag, Message, is_empty
from .chat_template import PROBE, ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM_FOLDED = "the chat template has no system role: system text put before the first user turn"
LATE_SYSTEM_FOLDED = (
    "the chat template has no place for system text within a conversation: put before the next user turn"
)
REASONING_LEFT_OUT = "the chat template has no place for reasoning: left out"
TEXT_LEFT_OUT = "the chat template has no place for text beside tool calls: left out"
CALLS_LEFT_OUT = "the chat template writes one call of several made at once: the others left out"
TOOLS_LEFT_OUT = "the chat template has no place for tools: their definitions left out"
CALLS_AS_TEXT = "the chat template has no tool calls: calls written as JSON in the answer"
CALLS_ONE_BY_ONE = "the chat template takes one call at a time: calls made at once written one after the other"
CALL_UNENDED = "the chat template writes no end of turn behind a single call: to stop there is not learnt"
HEAD_LEFT_OUT = "the chat template takes all that stands before </think> for reasoning: text before <think> left out"
IDS_SHORTENED = "the chat template takes ids of calls of nine letters: longer ones shortened"

_OPENS, _CLOSES = "<think>", "</think>"
_LONG_ID = "call_0123456789abcdef01234567"
_PLACE = Literal["any", "user_last", "none"]


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
    system: list[Message] = field(default_factory=list)
    """System text that the template writes into the last user turn, wherever that is; not among the messages."""
    reasoning: dict[int, str] = field(default_factory=dict)
    """Place of an answer -> reasoning that the template leaves out, though its prompt opens it."""

    @property
    def answers(self) -> list[int]:
        """The places of the answers that are learnt."""
        return [
            place
            for place, message in enumerate(self.messages)
            if message["role"] == "assistant" and place not in self.masked
        ]

    def last_only(self) -> "Fitted":
        """With the last answer alone to learn."""
        return replace(self, masked=self.masked | frozenset(self.answers[:-1]))

    def asked(self, place: int) -> list[Message]:
        """The messages before an answer, as they are sent to be answered."""
        return [*self.system, *self.messages[:place]]

    def answered(self, place: int) -> list[Message]:
        """The messages through an answer, each text where the template writes it when it asks for the answer."""
        messages = self.messages[: place + 1]
        users = [at for at, message in enumerate(messages) if message["role"] == "user"]
        if self.system and users:
            messages[users[-1]] = _joined([*self.system, messages[users[-1]]])
        return messages


class FittedTemplate(ChatTemplate):
    """The tokenizer's chat template.

    Args:
        answers: the assistant's answers alone are learnt.
        training: its version for training, where there is one.
        date: the day that a template which writes one is given; None: today.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        answers: bool,
        training: bool = False,
        date: datetime.date | None = None,
    ) -> None:
        super().__init__(tokenizer, training, date)
        self._answers = answers
        self._system_after: dict[str, _PLACE] = {}

    def fit(self, row: Conversation) -> Fitted:
        """The conversation in a shape that the template takes; where answers alone are learnt, up to the last of them:
        what comes after it teaches nothing.

        Raises:
            DataError: the template has no place for something that cannot be left out.
        """
        answers = [
            place
            for place, message in enumerate(row.messages)
            if message["role"] == "assistant" and place not in row.masked
        ]
        return self._fit(row, answers[-1] + 1 if self._answers else len(row.messages))

    def fit_prompt(self, row: Conversation) -> list[Message]:
        """A conversation that waits for an answer, in a shape that the template takes: as `Fitted.asked` has it of one
        that is learnt.

        Raises:
            DataError: as `fit`.
        """
        fitted = self._fit(row, len(row.messages))
        return fitted.asked(len(fitted.messages))

    def _fit(self, row: Conversation, end: int) -> Fitted:
        fitted = self._with_system_placed(row, end)
        messages, masked, notes = fitted.messages, set(fitted.masked), fitted.notes
        flags, reasoning = fitted.flags, {}
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
        if any("tool_calls" in message for message in messages):
            messages, masked, flags = self._with_calls_fitted(messages, masked, flags, notes)
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            if _CLOSES in message["content"] and _head(message["content"]) and not self._keeps_head:
                notes.append(HEAD_LEFT_OUT)
            if not (lost := self._reasoning_lost(message)):
                continue
            if self._answers and self.opening.close:
                reasoning[place] = lost
                continue
            notes.append(REASONING_LEFT_OUT)
            if is_empty(message, reasoning=False):
                masked.add(place)
                for key in REASONING:
                    message.pop(key, None)
        return Fitted(
            messages=messages,
            masked=frozenset(masked),
            flags=flags,
            notes=list(dict.fromkeys(notes)),
            system=fitted.system,
            reasoning=reasoning,
        )

    def _with_calls_fitted(
        self, messages: list[Message], masked: set[int], flags: dict[int, Flag], notes: list[str]
    ) -> tuple[list[Message], set[int], dict[int, Flag]]:
        """The messages with their calls as the template takes them, and where those that are masked or flagged are
        now."""
        for message in messages:
            if "tool_calls" in message:
                notes += self._notes_of_calls(message)
                if message["content"].strip() and self._takes_calls != "no" and not self._takes_text_beside_calls:
                    message["content"] = ""
                _fit_calls(message, self._takes_calls)
        if self._takes_calls == "no":
            return messages, masked, flags
        if self._wants_short_ids and with_short_ids(messages):
            notes.append(IDS_SHORTENED)
        if self._takes_several_calls != "refused":
            return messages, masked, flags
        single, now = one_by_one(messages)
        if len(single) == len(messages):
            return messages, masked, flags
        notes.append(CALLS_ONE_BY_ONE)
        return (
            single,
            {at for place in masked for at in now[place]},
            {at: flag for place, flag in flags.items() for at in now[place]},
        )

    def _notes_of_calls(self, message: Message) -> Iterator[str]:
        if self._takes_calls == "no":
            yield CALLS_AS_TEXT
            return
        if len(message["tool_calls"]) == 1 and self._forgets_to_end_a_call:
            yield CALL_UNENDED
        if message["content"].strip() and not self._takes_text_beside_calls:
            yield TEXT_LEFT_OUT
        if len(message["tool_calls"]) > 1 and self._takes_several_calls == "first":
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
            place_of_system = self._takes_system_after(before) if message["role"] == "system" else "any"
            if place_of_system == "user_last" and self._answers and not before:
                fitted.system.append(message)
                continue
            if place_of_system != "any":
                waiting.append(given)
                fitted.notes.append(LATE_SYSTEM_FOLDED if before else SYSTEM_FOLDED)
                continue
            if waiting:
                if message["role"] != "user":
                    raise _no_user_turn(row, before)
                self._require_one_flag(row, [*waiting, given])
                message = _joined([*waiting, message])
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
            system=fitted.system,
        )

    def _require_one_flag(self, row: Conversation, messages: list[Message]) -> None:
        """Raises:
        DataError: messages that become one are not learnt alike.
        """
        flags = [message["flag"] for message in messages if "flag" in message]
        says = {"flag" not in message or message["flag"].learnt for message in messages}
        if not self._answers and len(says) > 1:
            raise row.source.error(
                f"`{flags[0].key}`: the chat template has no place for system text here, so it is put into the user "
                "turn that follows, and both are learnt or neither: flag them alike"
            )

    @functools.cached_property
    def _left_out(self) -> set[str]:
        """Roles whose text the template leaves out, in some turn or all. A template that refuses the probe is
        not judged by it. Answers that are learnt are looked for in each row anyway."""
        roles = ["user", "assistant"] * 2
        text = self.try_render([{"role": role, "content": f"{PROBE}{place}"} for place, role in enumerate(roles)])
        lost = {role for place, role in enumerate(roles) if f"{PROBE}{place}" not in text}
        return lost - ({"assistant"} if self._answers else set()) if text else set()

    def _takes_system_after(self, role: str) -> _PLACE:
        """Whether system text reaches the rendering behind a message of this role; none: at the beginning. Mistral's
        templates write it only while a user turn is the last."""
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
            turns = [*before, {"role": "system", "content": PROBE}]
            if role != "user":
                turns += [{"role": "user", "content": "So?"}]
            place: _PLACE = "any" if PROBE in self.try_render(turns, prompt=True) else "none"
            answered = self.try_render([*turns, {"role": "assistant", "content": "Yes"}])
            if place == "any" and answered and PROBE not in answered:
                place = "user_last"
            self._system_after[role] = place
        return self._system_after[role]

    def _reasoning_lost(self, message: Message) -> str:
        """The reasoning of an answer that the template does not write, as a message's own or within its content."""
        keys = [key for key in REASONING if message.get(key, "").strip()]
        if keys:
            kept = any(self._takes_reasoning[key, "tool_calls" in message] for key in keys)
            return "" if kept else message[keys[0]]
        inside, closed, _ = message["content"].rpartition(_CLOSES)
        return inside.partition(_OPENS)[2].strip() if closed and not self._keeps_reasoning_inside else ""

    @functools.cached_property
    def _keeps_reasoning_inside(self) -> bool:
        """Whether reasoning that stands in the content, in <think> tags, reaches the rendering of a last answer."""
        content = f"{_OPENS}\n{PROBE}\n{_CLOSES}\n\nYes"
        text = self.try_render([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}])
        return not text or PROBE in text

    @functools.cached_property
    def _keeps_head(self) -> bool:
        """Whether what an answer says before its reasoning reaches the rendering."""
        answer = {"role": "assistant", "content": f"{PROBE} {_OPENS}Hm{_CLOSES} Yes"}
        text = self.try_render([{"role": "user", "content": "Hi"}, answer])
        return not text or PROBE in text

    @functools.cached_property
    def _takes_reasoning(self) -> dict[tuple[str, bool], bool]:
        """(The key of reasoning, whether tools are called beside it) -> whether it reaches the rendering."""
        taken = {}
        for key in REASONING:
            for calls in (False, True):
                answer = {"role": "assistant", "content": "Yes", key: PROBE}
                if calls:
                    answer = {**self._call_and_result("done")[0], key: PROBE}
                turns = [{"role": "user", "content": "Hi"}, answer]
                taken[key, calls] = PROBE in self.try_render(turns)
        return taken

    @functools.cached_property
    def _takes_tools(self) -> bool:
        function = {
            "name": PROBE,
            "description": "probe",
            "parameters": {"type": "object", "properties": {}},
        }
        tools = [{"type": "function", "function": function}]
        return PROBE in self.try_render([{"role": "user", "content": "Hi"}], tools, prompt=True)

    @functools.cached_property
    def _takes_calls(self) -> str:
        """How it takes the arguments of a call: as an `object`, as `text`, or not at all: `no`. Settles also what
        stands for content where there is none: DeepSeek-R1's template has calls only where that is null."""
        forms = (("object", {"key": PROBE}), ("text", f'{{"key": "{PROBE}"}}'))
        for self.no_content in ("", None):
            for form, arguments in forms:
                call = {**_call("Call5X"), "function": {"name": "Call5X", "arguments": arguments}}
                asks = {"role": "assistant", "content": "", "tool_calls": [call]}
                text = self.try_render([{"role": "user", "content": "Hi"}, asks])
                # 'key' in quotes: an object was printed as Python prints it, which is no JSON. (LFM2
                # writes Python calls, key='value'; that is its own form.)
                if "Call5X" in text and PROBE in text and "'key'" not in text:
                    return form
        self.no_content = ""
        return "no"

    @functools.cached_property
    def _wants_short_ids(self) -> bool:
        """Whether it refuses calls without an id, or with one that is not of nine letters."""
        asks, answer = self._call_and_result("done")
        (call,) = asks["tool_calls"]
        long = [{**asks, "tool_calls": [{**call, "id": _LONG_ID}]}, {**answer, "tool_call_id": _LONG_ID}]
        none = [{**asks, "tool_calls": [{"type": "function", "function": call["function"]}]}, {**answer}]
        del none[1]["tool_call_id"]
        user = {"role": "user", "content": "Hi"}
        short, *others = (bool(self.try_render([user, *turns])) for turns in ([asks, answer], long, none))
        return short and not all(others)

    @functools.cached_property
    def _takes_several_calls(self) -> Literal["all", "first", "refused"]:
        asks = self._call_and_result("done")[0]
        (call,) = asks["tool_calls"]
        other = {**call, "id": "e4d3c2b1a", "function": {**call["function"], "name": PROBE}}
        text = self.try_render([{"role": "user", "content": "Hi"}, {**asks, "tool_calls": [call, other]}])
        return "all" if PROBE in text else "first" if text else "refused"

    @functools.cached_property
    def _forgets_to_end_a_call(self) -> bool:
        """Whether a message of one call lacks the end that one of several has: DeepSeek's templates do so."""
        user, asks = {"role": "user", "content": "Hi"}, self._call_and_result("done")[0]
        (call,) = asks["tool_calls"]
        one = self.try_render([user, asks])
        several = self.try_render([user, {**asks, "tool_calls": [call, {**call, "id": "e4d3c2b1a"}]}])
        eos = self.tokenizer.eos_token
        return isinstance(eos, str) and several.rstrip().endswith(eos) and not one.rstrip().endswith(eos)

    @functools.cached_property
    def _takes_text_beside_calls(self) -> bool:
        asks = {**self._call_and_result("done")[0], "content": PROBE}
        text = self.try_render([{"role": "user", "content": "Hi"}, asks])
        return PROBE in text and "look" in text

    @functools.cached_property
    def _takes_results(self) -> bool:
        turns = [{"role": "user", "content": "Hi"}, *self._call_and_result(PROBE)]
        return PROBE in self.try_render(turns)

    def _call_and_result(self, result: str) -> list[Message]:
        """A call as the template takes it, and what it gave."""
        asks: Message = {"role": "assistant", "content": "", "tool_calls": [_call("look")]}
        _fit_calls(asks, self._takes_calls)
        answer = {"role": "tool", "content": result, "name": "look", "tool_call_id": _call("look")["id"]}
        return [asks, answer]


def _head(content: str) -> str:
    """What an answer says before reasoning that stands inside it."""
    head, opens, _ = content.partition(_OPENS)
    return head.strip() if opens else ""


def _call(name: str) -> dict[str, Any]:
    return {"id": "a1b2c3d4e", "type": "function", "function": {"name": name, "arguments": {}}}


def _joined(messages: list[Message]) -> Message:
    """Messages as one user turn. Not with `instruction` and `input`, which some templates write in place of the
    content."""
    return {"role": "user", "content": "\n\n".join(message["content"] for message in messages)}


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
