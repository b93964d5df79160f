"""From a normal row to its text and the characters of it that are learnt, and on to token ids (`mask.py`).

What is learnt is never found by looking for marker strings in the rendered text (the classic cause of
"loss 0: everything is masked"). It comes from the chat template itself, in one of two ways:

* It has `{% generation %}` markers, its own or those of TRL's training version of it
  (`training_template.py`): the characters that they enclose are learnt. Where only some answers
  are to be learnt, whose a span is is told by rendering the conversation up to where masked and
  learnt answers meet.
* It has none, or whose the spans are cannot be told: for each answer the template renders the
  conversation up to it, with the generation prompt that chatting would use, and through it. What
  the second has more than the first is the answer with its end-of-turn. Both must be beginnings of
  one text. Where a template rewrites earlier turns (takes the reasoning out of them), they are not;
  then such answers become examples of their own, each rendered exactly as the model would see it
  when it answers. So what generating supplies is never learnt, and what it must produce always is.

A model without a chat template can learn documents, and rows that are one prompt and one answer:
`prompt + answer + eos`, nothing between (for alpaca rows the prompt is Stanford Alpaca's).

Special tokens that a row's text spells out (`<|im_end|>` inside a question) are encoded as the
control tokens that they name, as in TRL; rows from an untrusted source should not hold them.
"""

import collections
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from ..errors import DataError
from ..formats.normal import Conversation, Document, Learnable, Message, Segments, Tokens, is_empty
from ..row import SourceRow
from .mask import Encoded, Rendering, TokenMask
from .message_spans import spans_of_messages
from .template_fit import Fitted, FittedTemplate, Spans, Tools

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURNS_SPLIT = "the chat template rewrites earlier turns: answers learnt in examples of their own"
EOS_ADDED = "the chat template ends an answer with no special token: end-of-sequence token added"
ENDS_THERE = "the text has the tokenizer's begin or end of sequence already: not added again"
PROMPT_DIFFERS = "the chat template begins an answer unlike a generation: learnt where they part"


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
        self._template = FittedTemplate(tokenizer, training=assistant_only)
        self._noted: collections.Counter[str] = collections.Counter()
        self._noted_of: dict[str, SourceRow] = {}
        self._mask = TokenMask(tokenizer)
        first = next(iter(tokenizer("a", add_special_tokens=True)["input_ids"]), None)
        self._begin = str(tokenizer.bos_token) if first is not None and first == tokenizer.bos_token_id else ""
        """What the tokenizer puts before each text."""

    @overload
    def render(self, row: Conversation | Document | Segments) -> list[Rendering]: ...

    @overload
    def render(self, row: Learnable) -> "Sequence[Rendering | Encoded]": ...

    def render(self, row: Learnable) -> "Sequence[Rendering | Encoded]":
        """The examples of a row: one, unless the template rewrites earlier turns; none, where it leaves
        out all that was to be learnt. Token ids are encoded already.

        Raises:
            DataError: the template cannot render the row, or not so that its answers can be told;
                a token id is not in the vocabulary.
        """
        if isinstance(row, Document):
            text = self._without_own_ends(row)
            return [Rendering(source=row.source, text=text, spans=None, chat=False)] if text else []
        if isinstance(row, Segments):
            return [Rendering(source=row.source, text=row.text, spans=row.spans, chat=True, as_it_stands=True)]
        if isinstance(row, Tokens):
            return [self._as_tokens(row)]
        for note in row.notes:
            self._note(note, row.source)
        if not self.tokenizer.chat_template:
            if row.plain is None:
                raise row.source.error(
                    "is a conversation, but the base model has no chat template to write it with; "
                    "choose a chat (instruct) model, or write rows of text and set data.format=text"
                )
            prompt, answer = row.plain
            spans = ((len(prompt), len(prompt) + len(answer)),) if self.assistant_only else None
            return [Rendering(source=row.source, text=prompt + answer, spans=spans, chat=False)]
        if self.assistant_only:
            _require_no_prompt_learnt(row)
        fitted = self._template.fit(row)
        for note in fitted.notes:
            self._note(note, row.source)
        messages, masked = fitted.messages, fitted.masked
        tools = list(row.tools) or None
        answers = [
            place for place, message in enumerate(messages) if message["role"] == "assistant" and place not in masked
        ]
        if not answers:
            return []
        if not self.assistant_only:
            return [self._whole(row.source, fitted, tools)]
        if self.last_only:
            masked |= frozenset(answers[:-1])
            answers = answers[-1:]
        messages = messages[: answers[-1] + 1]
        if self._template.marked(tools):
            text, spans = self._template.render_marked(row.source, messages, tools)
            if masked:
                spans = self._without(row.source, messages, tools, masked, text, spans)
            elif not spans:
                raise row.source.error("the chat template's {% generation %} markers enclose nothing in this row")
            if spans:
                closed = self._template.markers_close
                return [Rendering(source=row.source, text=text, spans=spans, chat=True, closed=closed)]
        return self._derive(row.source, messages, tools, answers)

    def encode(self, renderings: "Sequence[Rendering | Encoded]") -> list[Encoded]:
        """Tokenise; uncut. One call for many rows is much faster than one for each."""
        encoded = [one if isinstance(one, Encoded) else None for one in renderings]
        for chat in (True, False):
            batch_of = {
                place: one for place, one in enumerate(renderings) if isinstance(one, Rendering) and one.chat is chat
            }
            if not batch_of:
                continue
            batch = self.tokenizer(
                [one.text for one in batch_of.values()],
                add_special_tokens=not chat,
                return_attention_mask=False,
                verbose=False,
            )
            assert batch.encodings is not None  # the tokenizer is a fast one
            for (place, one), ids, encoding in zip(batch_of.items(), batch["input_ids"], batch.encodings, strict=True):
                encoded[place], eos_added = self._mask.encode(one, np.array(ids, dtype=np.int32), encoding)
                if eos_added:
                    self._note(EOS_ADDED, one.source)
        return [one for one in encoded if one is not None]

    def _without_own_ends(self, row: Document) -> str:
        """A document without the tokens that are added to each anyway, where it was written with them."""
        text, begin, end = row.text, self._begin, self.tokenizer.eos_token
        if begin and text.lstrip().startswith(begin):
            text = text.lstrip().removeprefix(begin)
        if isinstance(end, str) and end and text.rstrip().endswith(end):
            text = text.rstrip().removesuffix(end)
        if text != row.text:
            self._note(ENDS_THERE, row.source)
        return text

    def _as_tokens(self, row: Tokens) -> Encoded:
        vocabulary = len(self.tokenizer)
        for place, token in enumerate(row.ids):
            if not 0 <= token < vocabulary:
                raise row.source.error(
                    f"`{row.key}[{place}]`: expected a token of the model's tokenizer, 0 to "
                    f"{vocabulary - 1}, got {token}; the row was tokenised for another model: give "
                    "its text instead, or choose that model"
                )
        trained = row.trained.copy()
        trained[0] = False
        return Encoded(row.source, np.array(row.ids, np.int32), trained)

    def _whole(self, source: SourceRow, fitted: Fitted, tools: Tools) -> Rendering:
        """All of a conversation, but for the messages that are not to be learnt."""
        text = self._template.render(source, fitted.messages, tools)
        skipped = {place: "an empty answer" for place in fitted.masked if is_empty(fitted.messages[place])}
        skipped |= {place: f"`{flag.key}`" for place, flag in fitted.flags.items() if not flag.learnt}
        unlearnt: Spans = ()
        if skipped:
            unlearnt = spans_of_messages(self._template, source, fitted.messages, tools, text, skipped)
        return Rendering(source=source, text=text, spans=None, chat=True, unlearnt=unlearnt)

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

    def _derive(
        self,
        source: SourceRow,
        messages: list[Message],
        tools: Tools,
        answers: list[int],
    ) -> list[Rendering]:
        groups: list[tuple[str, list[tuple[int, int]]]] = []
        for place in reversed(answers):
            before = self._template.render(source, messages[:place], tools, prompt=True)
            through = self._template.render(source, messages[: place + 1], tools)
            start = len(before)
            if not through.startswith(before):
                start = self._parting(source, messages[:place], tools, before, through)
            if len(through) <= start:
                raise source.error(f"the chat template leaves out message {place + 1}, an answer")
            for text, spans in groups:
                end = self._template.end_in(text, through)
                if end is not None:
                    spans.append((start, end))
                    break
            else:
                groups.append((through, [(start, len(through))]))
        if len(groups) > 1:
            self._note(TURNS_SPLIT, source)
        return [
            Rendering(source=source, text=text, spans=tuple(reversed(spans)), chat=True)
            for text, spans in reversed(groups)
        ]

    def _parting(
        self,
        source: SourceRow,
        asked: list[Message],
        tools: Tools,
        before: str,
        through: str,
    ) -> int:
        """Where an answer begins that does not go on from the generation prompt (DeepSeek's opens
        with `<think>`, which answers in the template do not): after the last whole token that both
        share."""
        base = self._template.render(source, asked, tools)
        shared = _shared(before, through)
        if not before.startswith(base) or shared < len(base):
            raise source.error(
                f"the answer in message {len(asked) + 1} cannot be told from its prompt: the chat "
                "template renders the turns before it otherwise once it is there; give the model a "
                "template with {% generation %} markers"
            )
        self._note(PROMPT_DIFFERS, source)
        offsets = self.tokenizer(before, add_special_tokens=False, return_offsets_mapping=True)
        return max((end for _, end in offsets["offset_mapping"] if end <= shared), default=0)

    def _without(
        self,
        source: SourceRow,
        messages: list[Message],
        tools: Tools,
        masked: frozenset[int],
        text: str,
        spans: Spans,
    ) -> Spans:
        """The spans of answers that are not masked; none where it cannot be told whose they are.

        A turn may have several spans, or none, so they are not counted against the turns: where
        masked and learnt answers meet, the spans of the conversation up to there are rendered.
        """
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        learnt: list[tuple[int, int]] = []
        done = 0
        for place, following in itertools.pairwise([*places, len(messages)]):
            if following < len(messages) and (following in masked) == (place in masked):
                continue
            end = len(spans)
            if following < len(messages):
                try:
                    before, inside = self._template.render_marked(source, messages[:following], tools)
                except DataError:
                    return ()
                end, shared = len(inside), _shared(before, text)
                if (
                    inside != spans[:end]
                    or any(stop > shared for _, stop in inside)
                    or any(start < shared for start, _ in spans[end:])
                ):
                    return ()
            if place not in masked:
                learnt += spans[done:end]
            done = end
        return tuple(learnt)


def _require_no_prompt_learnt(row: Conversation) -> None:
    """Raises:
    DataError: a message that is no answer is flagged to be learnt.
    """
    for message in row.messages:
        flag = message.get("flag")
        if flag and flag.learnt and message["role"] != "assistant":
            raise row.source.error(
                f"`{flag.key}`: asks to learn a message of role {message['role']}, but only the "
                "assistant's messages are learnt; set it to false, leave it out, or set "
                "data.assistant_only_loss=false, which learns prompts too"
            )


def _shared(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(second)))
