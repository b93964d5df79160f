"""From a normal row to its text and the characters of it that are learnt, and on to token ids (`mask.py`).

An answer is learnt behind the very text that chat, and any server, sends to ask for it: the conversation before it with
the chat template's generation prompt. What that prompt supplies is never learnt, what the model must produce always is.
What is learnt is never found by looking for marker strings in the rendered text (the classic cause of "loss 0:
everything is masked"). It comes from the chat template itself, in one of two ways:

* It has `{% generation %}` markers, its own or those of TRL's training version of it (`training_template.py`): the
  characters that they enclose are learnt, from where the prompt of each answer ends. Where that text does not go on
  from each prompt, the second way is taken.
* For each answer the template renders the conversation up to it, with the generation prompt, and through it. What the
  second has more than the first is the answer with its end-of-turn. Where the second does not begin with the first,
  the answer is put behind the prompt: a tag that the prompt opens (`<think>`) is closed first, behind the row's own
  reasoning where it has some. Where a template rewrites earlier turns (takes the reasoning out of them), the answers
  become examples of their own, each behind the text that the model would see when it answers.

A model without a chat template can learn documents, and rows that are one prompt and one answer:
`prompt + answer + eos`, nothing between (for alpaca rows the prompt is Stanford Alpaca's).

Special tokens that a row's text spells out (`<|im_end|>` inside a question) are encoded as the
control tokens that they name, as in TRL; rows from an untrusted source should not hold them.
"""

import collections
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from ..errors import DataError
from ..formats.normal import REASONING, Conversation, Document, Learnable, Message, Segments, Tokens, is_empty
from ..row import SourceRow
from .chat_template import Spans, Tools, shared
from .mask import Encoded, Rendering, TokenMask
from .message_spans import spans_of_messages
from .template_fit import Fitted, FittedTemplate
from .word_cache import WordCache

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TURNS_SPLIT = "the chat template rewrites earlier turns: answers learnt in examples of their own"
ENDS_THERE = "the text has the tokenizer's begin or end of sequence already: not added again"
FIRST_UNASKED = "the assistant speaks first, which the chat template cannot ask for: not learnt, kept as context"
TAIL_LEFT_OUT = "the chat template writes its generation prompt behind answers too: that is not learnt"
SYSTEM_UNASKED = "the chat template writes system text only while a user turn is the last: answers behind tools without"

_OTHER = "Other7Q"


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
        date: datetime.date | None = None,
    ) -> None:
        if not tokenizer.is_fast:
            raise DataError(
                f"{tokenizer.name_or_path}: its tokenizer gives no character offsets, which the "
                "mask needs; the model needs a tokenizer.json (a fast tokenizer)"
            )
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.last_only = last_only
        self._template = FittedTemplate(tokenizer, answers=assistant_only, date=date)
        self._for_answers = FittedTemplate(tokenizer, answers=True, training=assistant_only, date=date)
        if self._for_answers.is_the_models_own and assistant_only:
            self._template = self._for_answers  # it has its own markers, if any
        self._noted: collections.Counter[str] = collections.Counter()
        self._noted_of: dict[str, SourceRow] = {}
        self._mask = TokenMask(tokenizer)
        first = next(iter(tokenizer("a", add_special_tokens=True)["input_ids"]), None)
        self._begin = str(tokenizer.bos_token) if first is not None and first == tokenizer.bos_token_id else ""
        """What the tokenizer puts before each text."""
        self._adds_nothing = len(tokenizer("", add_special_tokens=True)["input_ids"]) == 0
        self._words = WordCache.of(tokenizer)

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
        tools = list(row.tools) or None
        answers = fitted.answers
        if not answers:
            self._note_all(fitted.notes, row.source)
            return []
        if not self.assistant_only:
            self._note_all(fitted.notes, row.source)
            return [self._whole(row, fitted, tools)]
        if self.last_only:
            fitted, answers = fitted.last_only(), answers[-1:]
        if not fitted.system and not self._template.tail and self._for_answers.marked(tools):
            one = self._as_marked(row, fitted, tools)
            if one is not None:
                return [one]
        self._note_all(fitted.notes, row.source)
        if self._template.tail:
            self._note(TAIL_LEFT_OUT, row.source)
        return self._derive(row.source, fitted, tools, answers)

    def encode(self, renderings: "Sequence[Rendering | Encoded]") -> list[Encoded]:
        """Tokenise; uncut. One call for many rows is much faster than one for each."""
        encoded = [one if isinstance(one, Encoded) else None for one in renderings]
        for chat in (True, False):
            batch_of = {}
            for place, one in enumerate(renderings):
                if not isinstance(one, Rendering) or one.chat is not chat:
                    continue
                words = self._words.encode(one.text) if self._words and (chat or self._adds_nothing) else None
                if words is None:
                    batch_of[place] = one
                    continue
                encoded[place], notes = self._mask.encode(one, np.array(words.ids, dtype=np.int32), words)
                self._note_all(notes, one.source)
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
                encoded[place], notes = self._mask.encode(one, np.array(ids, dtype=np.int32), encoding)
                self._note_all(notes, one.source)
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
        return Encoded(source=row.source, ids=np.array(row.ids, np.int32), trained=trained)

    def _whole(self, row: Conversation, fitted: Fitted, tools: Tools) -> Rendering:
        """All of a conversation, but for the messages that are not to be learnt."""
        source = row.source
        text = self._template.render(source, fitted.messages, tools)
        skipped = {place: "an empty answer" for place in fitted.masked if is_empty(fitted.messages[place])}
        skipped |= {place: f"`{flag.key}`" for place, flag in fitted.flags.items() if not flag.learnt}
        unlearnt: Spans = ()
        if skipped:
            unlearnt = spans_of_messages(self._template, source, fitted.messages, tools, text, skipped)
        asking = self._for_answers.fit(row)
        prompts = (self._for_answers.try_render(asking.asked(place), tools, prompt=True) for place in asking.answers)
        differs = not all(map(text.startswith, prompts))  # what cannot be asked for is not asked otherwise
        return Rendering(
            source=source, text=text, spans=None, chat=True, unlearnt=unlearnt, prompt_differs=differs
        )  # fmt: skip

    def _note_all(self, notes: list[str], source: SourceRow) -> None:
        for note in notes:
            self._note(note, source)

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

    def _as_marked(self, row: Conversation, fitted: Fitted, tools: Tools) -> Rendering | None:
        """The conversation as the markers have it; None: they do not say what is learnt behind each prompt."""
        training = fitted
        if self._for_answers is not self._template:
            training = self._for_answers.fit(row)
            training = training.last_only() if self.last_only else training
            if [m["role"] for m in training.messages] != [m["role"] for m in fitted.messages] or training.system:
                return None
        end = training.answers[-1] + 1
        text, marked = self._for_answers.render_marked(row.source, training.messages[:end], tools)
        places = [place for place, message in enumerate(fitted.messages[:end]) if message["role"] == "assistant"]
        starts = []
        for place in places:
            prompt = self._prompt(row.source, fitted.asked(place), tools)
            if not text.startswith(prompt):
                return None
            starts.append(len(prompt))
        spans: list[tuple[int, int]] = []
        for place, start, following in zip(places, starts, [*starts[1:], len(text) + 1], strict=True):
            inside = [(max(begin, start), stop) for begin, stop in marked if start < stop < following]
            if not inside or place in training.masked:
                continue
            spans += [(start, inside[0][1]), *inside[1:]] if start else inside
        if not spans:
            return None
        self._note_all(training.notes, row.source)
        closed = self._for_answers.markers_close
        return Rendering(source=row.source, text=text, spans=tuple(spans), chat=True, closed=closed)

    def _prompt(self, source: SourceRow, asked: list[Message], tools: Tools) -> str:
        """What asks for an answer; nothing where nobody does, and the template refuses to."""
        if _is_asked_for(asked):
            return self._template.render(source, asked, tools, prompt=True)
        return self._template.try_render(asked, tools, prompt=True)

    def _derive(self, source: SourceRow, fitted: Fitted, tools: Tools, answers: list[int]) -> list[Rendering]:
        groups: list[tuple[str, list[tuple[int, int]]]] = []
        differ: set[str] = set()
        for place in reversed(answers):
            try:
                through, start, asked = self._behind(source, fitted, place, tools)
            except DataError:
                if _is_asked_for(fitted.asked(place)) or len(answers) < 2:
                    raise
                self._note(FIRST_UNASKED, source)
                continue
            if not asked:
                differ.add(through)
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
            Rendering(
                source=source,
                text=text,
                spans=tuple(reversed(spans)),
                chat=True,
                prompt_differs=any(map(text.startswith, differ)),
            )
            for text, spans in reversed(groups)
        ]

    def _behind(self, source: SourceRow, fitted: Fitted, place: int, tools: Tools) -> tuple[str, int, bool]:
        """The text through an answer, where the answer begins, and whether it stands behind the prompt that asks for
        it."""
        template = self._template
        before = template.render(source, fitted.asked(place), tools, prompt=True)
        if any(message["content"] not in before for message in fitted.system):
            self._note(SYSTEM_UNASKED, source)
        messages = fitted.answered(place)
        through = template.render(source, messages, tools)
        reasoning = fitted.reasoning.get(place, "").strip()
        if through.startswith(before) and not reasoning:
            return through, len(before), True
        answer = self._added(source, messages, tools, before, through)
        if answer is None:
            return through, self._parting(source, messages[:-1], tools, through), False
        left, close = template.opening
        if close and before.endswith(left):
            answer = reasoning + (close.rstrip() if answer.startswith("\n") else close) + answer
        return before + answer, len(before), True

    def _added(self, source: SourceRow, messages: list[Message], tools: Tools, before: str, through: str) -> str | None:
        """What an answer adds to the prompt that asks for it, where the text through it does not go on from that
        prompt; None: that cannot be told."""
        template = self._template
        left, close = template.opening
        common = len(before) - len(left)
        if left and before.endswith(left) and through[:common] == before[:common]:
            return through[common:] if close or not left.strip() else None
        base = template.render(source, messages[:-1], tools)
        if (
            before.startswith(base)
            and through.startswith(base)
            and not shared(before[len(base) :], through[len(base) :])
        ):
            return through[len(base) :]  # it has no header of its own
        if not _is_plain(messages[-1]):
            return None
        # The turns before it are written otherwise once it is there: another answer in its place tells them apart.
        other = template.render(source, [*messages[:-1], {**messages[-1], "content": _OTHER}], tools)
        at = other.find(_OTHER)
        return through[at:] if at >= 0 and through[:at] == other[:at] else None

    def _parting(self, source: SourceRow, asked: list[Message], tools: Tools, through: str) -> int:
        """Where an answer begins that does not go on from the generation prompt: after the last whole token that both
        share."""
        before = self._template.render(source, asked, tools, prompt=True)
        if through.startswith(before):
            return len(before)
        base = self._template.render(source, asked, tools)
        common = shared(before, through)
        if not before.startswith(base) or common < len(base):
            raise source.error(
                f"the answer in message {len(asked) + 1} cannot be told from its prompt: the chat "
                "template renders the turns before it otherwise once it is there; give the model a "
                "template with {% generation %} markers"
            )
        offsets = self.tokenizer(before, add_special_tokens=False, return_offsets_mapping=True)
        return max((end for _, end in offsets["offset_mapping"] if end <= common), default=0)


def _is_asked_for(turns: list[Message]) -> bool:
    """Whether somebody else has spoken before an answer."""
    return any(message["role"] in ("user", "tool") for message in turns)


def _is_plain(message: Message) -> bool:
    return "tool_calls" not in message and not any(key in message for key in REASONING)


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
