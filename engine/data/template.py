"""From a normal row to token ids and the mask of what is learnt.

The mask is never found by looking for marker strings in the rendered text (the classic cause of
"loss 0: everything is masked"). It comes from the chat template itself, in one of two ways:

* The template has `{% generation %}` markers: the characters that they enclose are learnt.
* It has none: for each answer the template renders the conversation up to it, with the generation
  prompt that chatting would use, and through it. What the second has more than the first is the
  answer with its end-of-turn. Both must be beginnings of one text. Where a template rewrites
  earlier turns (Qwen3 takes the reasoning out of them), they are not; then such answers become
  examples of their own, each rendered exactly as the model would see it when it answers. So what
  generating supplies is never learnt, and what it must produce always is.

Characters become tokens through the fast tokenizer's offsets: a token is learnt if it holds any
character that is. The end-of-turn must be learnt, or the model never stops: where a template puts
it outside of the answer, the special token that follows is added; where there is none, the
tokenizer's end-of-sequence token is.

A model without a chat template can learn documents, and rows that are one prompt and one answer:
`prompt + answer + eos`, nothing between (for alpaca rows the prompt is Stanford Alpaca's).

Special tokens that a row's text spells out (`<|im_end|>` inside a question) are encoded as the
control tokens that they name, as in TRL; rows from an untrusted source should not hold them.
"""

import collections
import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from .errors import DataError
from .formats import Conversation, Document, Message
from .row import SourceRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HAS_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for them
_PROBE = "Probe7Q"

SYSTEM_FOLDED = "the chat template has no system role: system text put before the first user turn"
TOOLS_LEFT_OUT = "the chat template has no place for tools: their definitions left out"
CALLS_AS_TEXT = "the chat template has no tool calls: calls written as JSON in the answer"
TURNS_SPLIT = "the chat template rewrites earlier turns: answers learnt in examples of their own"
PROMPT_DIFFERS = "the chat template begins an answer unlike a generation: learnt where they part"
EOS_ADDED = "the chat template ends an answer with no special token: end-of-sequence token added"


@dataclass(frozen=True)
class Rendering:
    """The text of one example, and which of its characters are learnt."""

    source: SourceRow
    text: str
    spans: tuple[tuple[int, int], ...] | None
    """Learnt character ranges [start, end); None: all."""
    chat: bool
    """Rendered by a chat template, which writes its own special tokens; otherwise the tokenizer
    adds those it adds by default, and an end-of-sequence token is appended."""


@dataclass(frozen=True)
class Encoded:
    """Token ids (int32) and which are learnt (bool), both [tokens]. The first token never is:
    nothing comes before it that could predict it."""

    source: SourceRow
    ids: np.ndarray
    trained: np.ndarray


class Renderer:
    """Renders and encodes rows for one tokenizer.

    Raises:
        DataError: the tokenizer gives no offsets.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        assistant_only: bool = True,
        last_only: bool = False,
    ) -> None:
        if not tokenizer.is_fast:
            raise DataError(
                f"{tokenizer.name_or_path}: its tokenizer gives no character offsets, which the "
                "mask needs; the model needs a tokenizer.json (a fast tokenizer)"
            )
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.last_only = last_only
        self._noted: collections.Counter[str] = collections.Counter()
        self._noted_of: dict[str, SourceRow] = {}
        added = tokenizer.added_tokens_decoder
        self._special = {
            *tokenizer.all_special_ids,
            *(number for number, token in added.items() if token.special),
        }
        self._added = {*self._special, *added}
        self._special_texts = tuple(tokenizer.convert_ids_to_tokens(sorted(self._special)))

    def render(self, row: Conversation | Document) -> list[Rendering]:
        """The examples of a row: one, unless the template rewrites earlier turns.

        Raises:
            DataError: the template cannot render the row, or not so that its answers can be told.
        """
        if isinstance(row, Document):
            return [Rendering(row.source, row.text, None, chat=False)]
        if not self.tokenizer.chat_template:
            if row.plain is None:
                raise row.source.error(
                    "is a conversation, but the base model has no chat template to write it with; "
                    "choose a chat (instruct) model, or write rows of text and set data.format=text"
                )
            prompt, answer = row.plain
            spans = ((len(prompt), len(prompt) + len(answer)),) if self.assistant_only else None
            return [Rendering(row.source, prompt + answer, spans, chat=False)]
        messages, masked = self._fit(row)
        tools = list(row.tools) or None
        if not self.assistant_only:
            text = self._apply(row.source, messages, tools)
            return [Rendering(row.source, text, None, chat=True)]
        answers = [
            place
            for place, message in enumerate(messages)
            if message["role"] == "assistant" and place not in masked
        ]
        if self.last_only:
            masked |= frozenset(answers[:-1])
            answers = answers[-1:]
        messages = messages[: answers[-1] + 1]  # what comes after the last answer teaches nothing
        if _HAS_MARKERS.search(self._template(tools)) and not masked:
            text, spans = self._apply_marked(row.source, messages, tools)
            return [Rendering(row.source, text, spans, chat=True)]
        return self._derive(row.source, messages, tools, answers)

    def encode(self, renderings: Sequence[Rendering]) -> list[Encoded]:
        """Tokenise; uncut. One call for many rows is much faster than one for each."""
        encoded: list[Encoded | None] = [None] * len(renderings)
        for chat in (True, False):
            places = [place for place, one in enumerate(renderings) if one.chat is chat]
            if not places:
                continue
            batch = self.tokenizer(
                [renderings[place].text for place in places],
                add_special_tokens=not chat,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )
            for place, ids, offsets in zip(
                places, batch["input_ids"], batch["offset_mapping"], strict=True
            ):
                encoded[place] = self._mask(
                    renderings[place],
                    np.array(ids, dtype=np.int32),
                    np.array(offsets, dtype=np.int64).reshape(-1, 2),
                )
        return [one for one in encoded if one is not None]

    def _mask(self, one: Rendering, ids: np.ndarray, offsets: np.ndarray) -> Encoded:
        trained = np.full(len(ids), one.spans is None)
        ended = False
        for start, end in one.spans or ((0, len(one.text)),):
            inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
            if not inside.size:
                continue
            trained[inside] = True
            last, following = int(inside[-1]), int(inside[-1]) + 1
            while last > inside[0] and not one.text[slice(*offsets[last])].strip():
                last -= 1  # the line break that many templates put behind the end-of-turn
            ended = int(ids[last]) in self._added
            closes = following < len(ids) and int(ids[following]) in self._special
            if closes and int(ids[last]) not in self._special:
                trained[following] = ended = True
        eos = self.tokenizer.eos_token_id
        if isinstance(eos, int) and not (one.chat and ended):
            if one.chat:
                self._note(EOS_ADDED, one.source)
            if not (len(ids) and ids[-1] == eos):
                ids, trained = np.append(ids, np.int32(eos)), np.append(trained, True)
            trained[-1] = True
        trained[:1] = False
        return Encoded(one.source, ids, trained)

    def _note(self, note: str, source: SourceRow) -> None:
        if self._noted_of.get(note) is not source:  # a row's answers come one after the other
            self._noted_of[note] = source
            self._noted[note] += 1

    def take_notes(self) -> dict[str, int]:
        """What was done to rows, since this was last asked, that the template could not take as they
        are -> rows."""
        notes = dict(self._noted)
        self._noted.clear()
        self._noted_of.clear()
        return notes

    def _fit(self, row: Conversation) -> tuple[list[Message], frozenset[int]]:
        """The messages in a shape that the template takes; each change is noted."""
        messages, masked = [dict(message) for message in row.messages], row.masked
        if messages[0]["role"] == "system" and not self._takes_system:
            if len(messages) < 2 or messages[1]["role"] != "user":
                raise row.source.error(
                    "the chat template has no system role, and no user turn follows the system "
                    "text that could take it in"
                )
            self._note(SYSTEM_FOLDED, row.source)
            system = messages.pop(0)["content"]
            messages[0]["content"] = f"{system}\n\n{messages[0]['content']}"
            masked = frozenset(place - 1 for place in masked)
        if any(message["role"] == "tool" for message in messages) and not self._takes_results:
            raise row.source.error(
                "holds tool results, for which the model's chat template has no place; leave the "
                "row out, or choose a model whose template has tools"
            )
        if row.tools and not self._takes_tools:
            self._note(TOOLS_LEFT_OUT, row.source)
        if any("tool_calls" in message for message in messages):
            if self._takes_calls == "no":
                self._note(CALLS_AS_TEXT, row.source)
            for message in messages:
                if "tool_calls" in message:
                    _fit_calls(message, self._takes_calls)
        return messages, masked

    def _derive(
        self,
        source: SourceRow,
        messages: list[Message],
        tools: list[dict[str, Any]] | None,
        answers: list[int],
    ) -> list[Rendering]:
        groups: list[tuple[str, list[tuple[int, int]]]] = []
        for place in reversed(answers):
            before = self._apply(source, messages[:place], tools, prompt=True)
            through = self._apply(source, messages[: place + 1], tools)
            start = len(before)
            if not through.startswith(before):
                start = self._parting(source, messages[:place], tools, before, through)
            if len(through) <= start:
                raise source.error(f"the chat template leaves out message {place + 1}, an answer")
            for text, spans in groups:
                end = self._shared_end(text, through)
                if end is not None:
                    spans.append((start, end))
                    break
            else:
                groups.append((through, [(start, len(through))]))
        if len(groups) > 1:
            self._note(TURNS_SPLIT, source)
        return [
            Rendering(source, text, tuple(reversed(spans)), chat=True)
            for text, spans in reversed(groups)
        ]

    def _shared_end(self, text: str, through: str) -> int | None:
        """Where the answer that ends `through` ends in `text`; None: it is not in there."""
        if text.startswith(through):
            return len(through)
        # Some templates (Phi-3's) close the whole conversation with one more token.
        eos = self.tokenizer.eos_token
        inner = through.removesuffix(eos) if isinstance(eos, str) else through
        closed = inner.rstrip().endswith(self._special_texts)
        return len(inner) if closed and text.startswith(inner) else None

    def _parting(
        self,
        source: SourceRow,
        asked: list[Message],
        tools: list[dict[str, Any]] | None,
        before: str,
        through: str,
    ) -> int:
        """Where an answer begins that does not go on from the generation prompt (DeepSeek's opens
        with `<think>`, which answers in the template do not): after the last whole token that both
        share."""
        base = self._apply(source, asked, tools)
        pairs = enumerate(zip(before, through, strict=False))
        shared = next((place for place, (a, b) in pairs if a != b), len(through))
        if not before.startswith(base) or shared < len(base):
            raise source.error(
                f"the answer in message {len(asked) + 1} cannot be told from its prompt: the chat "
                "template renders the turns before it otherwise once it is there; give the model a "
                "template with {% generation %} markers"
            )
        self._note(PROMPT_DIFFERS, source)
        offsets = self.tokenizer(before, add_special_tokens=False, return_offsets_mapping=True)
        return max((end for _, end in offsets["offset_mapping"] if end <= shared), default=0)

    def _template(self, tools: list[dict[str, Any]] | None) -> str:
        return self.tokenizer.get_chat_template(tools=tools)

    def _apply(
        self,
        source: SourceRow | None,
        messages: list[Message],
        tools: list[dict[str, Any]] | None,
        prompt: bool = False,
    ) -> str:
        with _template_errors(source, messages):
            text = self.tokenizer.apply_chat_template(
                messages,
                tools=tools,  # type: ignore[arg-type]
                add_generation_prompt=prompt,
                tokenize=False,
            )
        assert isinstance(text, str)
        return text

    def _apply_marked(
        self, source: SourceRow, messages: list[Message], tools: list[dict[str, Any]] | None
    ) -> tuple[str, tuple[tuple[int, int], ...]]:
        # apply_chat_template would give the token mask at once, but drops all later answers when
        # one begins with a character that no token holds, and tokenises row by row.
        from transformers.utils.chat_template_utils import render_jinja_template

        with _template_errors(source, messages):
            texts, spans = render_jinja_template(
                [messages],
                tools=tools,  # type: ignore[arg-type]
                chat_template=self._template(tools),
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,  # type: ignore[arg-type]
            )
        if not spans[0]:
            raise source.error(
                "the chat template's {% generation %} markers enclose nothing in this row"
            )
        return texts[0], tuple(spans[0])  # type: ignore[return-value]

    def _try(
        self,
        messages: list[Message],
        tools: list[dict[str, Any]] | None = None,
        prompt: bool = False,
    ) -> str:
        """What the template makes of a probe; nothing where it refuses."""
        try:
            return self._apply(None, messages, tools, prompt)
        except DataError:
            return ""

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
            # Single quotes: an object was printed as Python prints it, which is no JSON.
            if "Call5X" in text and _PROBE in text and f"'{_PROBE}'" not in text:
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
