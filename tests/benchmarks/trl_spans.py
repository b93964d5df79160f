"""Our tokens and trained spans against TRL's, row by row, for every template that TRL has a training template of.

    python tests/benchmarks/trl_spans.py --alpaca FILE --sharegpt FILE --messages FILE [--rows 200]
                                         [--tokenizer FOLDER]

TRL's are what `apply_chat_template(..., return_assistant_tokens_mask=True)` gives with its training template.
Prints template x data set: rows compared, those that fitting the template changed (each change has a note: a
system text folded into the first turn, calls written as JSON), rows refused, tokens, trained tokens, rows
whose mask transformers cuts within a character (compared by the spans that TRL means), rows whose last answer TRL
leaves without a learnt end (compared with it), rows that are equal, rows that TRL trains behind other tokens than those
that ask for their answers (ours are then looked at alone). Exits with 1 where another row differs, one of ours is not
behind its prompt without a word, or one is refused though TRL's template has room for all of it.

The tokenizer is made for each template: one token a byte, and the template's special tokens. --tokenizer takes
a real one's vocabulary instead, to which the template's special tokens are added.
"""

import argparse
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from evenfall.engine.config.run_config import DatasetConfig
from evenfall.engine.data.errors import DataError
from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.read.read import read_rows
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.render.template_fit import CALLS_AS_TEXT, SYSTEM_FOLDED, FittedTemplate

_SPECIAL = re.compile(
    r"<\|[^<>|\s'\"]+\|?>|<[^<>|\s/'\"]+\|>|<(?:start|end)_of_\w+>|</?s>|\[/?INST\]|\[gMASK\]|<sop>"
    r"|<[｜][^<>'\"]{1,30}[｜]>"
)


def trl_templates() -> dict[str, tuple[str, str | None]]:
    """Name -> (template, its training version) of the installed TRL."""
    spec = importlib.util.find_spec("trl")
    assert spec and spec.submodule_search_locations, "TRL is not installed"
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    texts = {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.jinja")}
    return {
        name: (text, texts.get(f"{name}_training"))
        for name, text in sorted(texts.items())
        if not name.endswith("_training")
    }


def byte_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens that the template writes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: place for place, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<BOS>", "<EOS>", *sorted(set(_SPECIAL.findall(template)))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<BOS>", eos_token="<EOS>")
    tokenizer.chat_template = template
    return tokenizer


@dataclass
class Count:
    rows: int = 0
    changed: int = 0
    refused: int = 0
    tokens: int = 0
    trained: int = 0
    cut: int = 0
    open_ended: int = 0
    equal: int = 0
    unasked: int = 0
    wrong: str = ""
    """The first row that differs, and how."""


def compare(tokenizer: Any, training: str, rows: Sequence[Conversation]) -> Count:
    """Each row as we encode it and as TRL does."""
    count = Count()
    blocks = wants_blocks(tokenizer, training)
    for row in rows:
        renderer = Renderer(tokenizer)
        try:
            encoded = renderer.encode(renderer.render(row))
        except DataError as error:
            count.refused += 1
            if _holds_all(tokenizer, training, row, blocks):
                count.wrong = count.wrong or f"{error}; TRL's template has room for it"
            continue
        notes = set(renderer.take_notes())
        ids, trained, cut, open_ended = trl_tokens(tokenizer, training, row, notes, blocks)
        count.rows += 1
        count.changed += bool(notes)
        count.cut += cut
        count.open_ended += open_ended
        count.tokens += len(ids)
        count.trained += sum(trained)
        ours = [(one.ids.tolist(), one.trained.tolist()) for one in encoded]
        asked = prompts(tokenizer, row)
        behind = all(prompt == ids[: len(prompt)] for prompt in asked)
        if behind and ours == [(ids, from_the_prompts(trained, asked))]:
            count.equal += 1
        elif not behind:
            count.unasked += 1
            prefixes = [ids[:start] for ids, trained in ours for start in begins(trained)]
            if not any(one.prompt_differs for one in encoded) and any(prompt not in prefixes for prompt in asked):
                count.wrong = count.wrong or f"{row.source.place}: not behind the prompt that asks for it"
        else:
            count.wrong = count.wrong or f"{row.source.place} {_differs(tokenizer, ours, ids, trained)}"
    return count


def trl_tokens(
    tokenizer: Any, training: str, row: Conversation, notes: set[str], blocks: bool
) -> tuple[list[int], list[bool], bool, bool]:
    """Ids and mask as TRL derives them, of the row up to its last answer; whether the mask is
    its spans' and not the one that it would train on; whether its end had to be added."""
    arguments = {"tools": list(row.tools) or None, "chat_template": training}
    messages = trl_messages(row, notes, blocks)
    out = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **arguments)
    mask = [bool(flag) for flag in out["assistant_masks"]]
    # transformers asks which token holds a span's first and last character. Where several do it takes
    # the first, so that the rest of a last character is not learnt; where none is named it drops
    # all spans from there on. For such rows the mask is made from the same spans by the offsets.
    texts, marked = render_jinja_template(
        [messages], return_assistant_tokens_mask=True, **arguments, **tokenizer.special_tokens_map
    )
    spans = [(int(start), int(end)) for start, end in marked[0]]
    tokens = tokenizer(texts[0], add_special_tokens=False, return_offsets_mapping=True)
    offsets = tokens["offset_mapping"]
    shared = {place for a, b in itertools.pairwise(offsets) for place in range(b[0], a[1])}
    cut = any(out.char_to_token(start) is None or (end - 1) in shared for start, end in spans)
    if cut:
        mask = [any(a < end and b > start for start, end in spans) for a, b in offsets]
    open_ended = _train_the_end(tokenizer, list(out["input_ids"]), mask)
    mask[:1] = [False]  # nothing comes before the first token that could predict it
    return list(out["input_ids"]), mask, cut, open_ended


def prompts(tokenizer: Any, row: Conversation) -> list[list[int]]:
    """The tokens that are sent to ask for each answer of a row that is learnt."""
    template = FittedTemplate(tokenizer, answers=True)
    fitted = template.fit(row)
    tools = list(row.tools) or None
    texts = (_sent(tokenizer, template._written(fitted.asked(place)), tools) for place in fitted.answers)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _sent(tokenizer: Any, asked: list[dict[str, Any]], tools: Any) -> str:
    """What apply_chat_template renders. Since 5.24 it takes content that is null out of a message, with which
    DeepSeek-R1's template cannot write calls any more: where it refuses, what is below it is asked, as 4.57 does."""
    try:
        return str(tokenizer.apply_chat_template(asked, tools=tools, tokenize=False, add_generation_prompt=True))
    except jinja2.TemplateError:
        template: Any = tokenizer.get_chat_template(tools=tools)
        settings = tokenizer.special_tokens_map
        return render_jinja_template(
            [asked], tools=tools, chat_template=template, add_generation_prompt=True, **settings
        )[0][0]  # fmt: skip


def from_the_prompts(trained: Sequence[bool], asked: Sequence[Sequence[int]]) -> list[bool]:
    """The mask, what is learnt beginning where the prompts end: some of TRL's begin with the header of the answer,
    which the prompt writes already."""
    mask = list(trained)
    for start in map(len, asked):
        first = start
        while mask[first - 1]:
            first -= 1
        mask[first:start] = [False] * (start - first)
        while not mask[start]:
            mask[start] = True
            start += 1
    return mask


def begins(trained: Sequence[bool]) -> list[int]:
    """Where runs of learnt tokens begin."""
    pairs = enumerate(itertools.pairwise([False, *trained]))
    return [place for place, (before, now) in pairs if now and not before]


def _train_the_end(tokenizer: Any, ids: list[int], mask: list[bool]) -> bool:
    """Whether TRL's mask ends in text, so that the model would not learn to stop; the special token
    behind it is then added to the mask, as we do."""
    learnt = [place for place, flag in enumerate(mask) if flag]
    while learnt and not tokenizer.decode([ids[learnt[-1]]]).strip():
        learnt.pop()
    open_ended = ids[learnt[-1]] not in tokenizer.added_tokens_decoder
    if open_ended:
        mask[learnt[-1] + 1] = True
    return open_ended


def trl_messages(row: Conversation, notes: set[str], blocks: bool) -> list[dict[str, Any]]:
    """The row's messages up to the last answer, with what the notes say was done to them."""
    answers = [place for place, message in enumerate(row.messages) if message["role"] == "assistant"]
    messages: list[dict[str, Any]] = [dict(message) for message in row.messages[: answers[-1] + 1]]
    if SYSTEM_FOLDED in notes:
        system, first, *others = messages
        messages = [{**first, "content": system["content"] + "\n\n" + first["content"]}, *others]
    if CALLS_AS_TEXT in notes:
        for message in messages:
            calls = [call["function"] for call in message.pop("tool_calls", ())]
            lines = [json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in calls]
            message["content"] = "\n".join(filter(None, [message["content"], *lines]))
    if blocks:
        for message in messages:
            message["content"] = [{"type": "text", "text": message["content"]}]
    return messages


def wants_blocks(tokenizer: Any, training: str) -> bool:
    """A vision model's template, for which TRL makes each content a list."""
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Probe"}], chat_template=training, tokenize=False
        )
    except jinja2.TemplateError:
        return True
    return "Probe" not in text


def _holds_all(tokenizer: Any, training: str, row: Conversation, blocks: bool) -> bool:
    try:
        text = tokenizer.apply_chat_template(
            trl_messages(row, set(), blocks),
            tools=list(row.tools) or None, chat_template=training, tokenize=False,
        )  # fmt: skip
    except (jinja2.TemplateError, TypeError, ValueError):
        return False
    return all(message["content"].strip() in text for message in row.messages)


def _differs(tokenizer: Any, ours: Any, ids: list[int], trained: list[bool]) -> str:
    if len(ours) != 1:
        return f"{len(ours)} examples"
    if ours[0][0] != ids:
        pairs = enumerate(zip(ours[0][0], ids, strict=False))
        at = next((place for place, (a, b) in pairs if a != b), min(len(ids), len(ours[0][0])))
        texts = [tokenizer.decode(one[max(at - 10, 0) : at + 10]) for one in (ours[0][0], ids)]
        return f"ids differ at {at}: ours {texts[0]!r}, TRL's {texts[1]!r}"
    at = next(place for place, (a, b) in enumerate(zip(ours[0][1], trained, strict=True)) if a != b)
    return f"token {at}, {tokenizer.decode([ids[at]])!r}: trained {ours[0][1][at]}, TRL's {trained[at]}"


def read(path: str, rows: int) -> list[Conversation]:
    """The first rows of a file that hold something to learn."""
    found = list(read_rows(DatasetConfig(path=path)))
    format = detect(found).format
    made = (normalise(row, format) for row in found)
    return [row for row in made if isinstance(row, Conversation)][:rows]


def main() -> int:
    parser = argparse.ArgumentParser()
    for kind in ("alpaca", "sharegpt", "messages"):
        parser.add_argument(f"--{kind}", required=True, metavar="FILE")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--tokenizer", metavar="FOLDER")
    given = parser.parse_args()
    sets = {kind: read(getattr(given, kind), given.rows) for kind in ("alpaca", "sharegpt", "messages")}
    print("| template | data | rows | changed | refused | tokens | trained | cut | open | equal | unasked |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    wrong: list[str] = []
    for name, (template, training) in trl_templates().items():
        if training is None:
            continue
        tokenizer = byte_tokenizer(template)
        if given.tokenizer:
            special = list(tokenizer.added_tokens_encoder)[2:]
            tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
            tokenizer.add_special_tokens({"additional_special_tokens": special})
            tokenizer.chat_template = template
        for kind, rows in sets.items():
            c = compare(tokenizer, training, rows)
            print(
                f"| {name} | {kind} | {c.rows} | {c.changed} | {c.refused} | {c.tokens:,} | "
                f"{c.trained:,} | {c.cut} | {c.open_ended} | {c.equal} | {c.unasked} |",
                flush=True,
            )
            wrong += [f"{name}, {kind}: {c.wrong}"] if c.wrong else []
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
