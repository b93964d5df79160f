"""What was left in a text by whoever made it: placeholders, markup of another template, text decoded wrongly.

Looked for in what is learnt, answers and documents: a question may be about any of them. Code in fences is left out,
since `{{ name }}` is right there. One row is no alarm; a share of them is (`check.py`).
"""

import re
from collections.abc import Iterator

from ..formats.normal import Conversation, Document, Learnable

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_PLACEHOLDER = re.compile(
    r"\{\{\s*[A-Za-z_][\w .-]{0,30}\s*\}\}"  # {{name}}
    r"|(?<![\w$#%\\{}\]'\"(=])\{[a-z][a-z_]{2,24}\}(?![\w})'\"])"  # {author}, but no f-string and no set of letters
    r"|[<\[]\s*INSERT\b[^>\]\n]{0,60}[>\]]"
    r"|\blorem ipsum\b"
    r"|\bAs an AI (?:language )?model\b"
    r"|(?:Ã[\x80-\xbf\u0178\u0192]|â€[\u0153\u2122\u02dc\x9d\x94]|Â[\xa0\xb0\xa3\xbb\xab])"  # UTF-8 read as Latin-1
    r"|&(?:amp|quot|lt|gt|nbsp|apos|#0?39|#x27);",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|im_(?:start|end)\|>|<\|(?:start_header_id|eot_id|begin_of_text)\|>"
    r"|</?start_of_turn>|<end_of_turn>|<\|(?:user|assistant|system|end|endoftext)\|>"
)
_PROMPTS = re.compile(r"^### (?:Instruction|Response|Human|Assistant):", re.MULTILINE)


_SIGNS = ("{", "[", "<", "&", "Ã", "â€", "Â", "orem ipsum", "OREM IPSUM", " an AI ", " an ai ")
"""One of these stands in every text with a leftover: to look for them takes less than the expressions do."""


def has_placeholders(row: Learnable) -> bool:
    """Whether what is learnt holds a placeholder, a phrase of another model, or text that was decoded wrongly."""
    return any(
        _PLACEHOLDER.search(_FENCED.sub("", text) if "```" in text else text)
        for text in _learnt(row)
        if any(sign in text for sign in _SIGNS)
    )


def has_markup(row: Learnable) -> bool:
    """Whether a text looks as if it had been rendered by a chat template already."""
    document = isinstance(row, Document)
    return any(
        (("<" in text or "[" in text) and _MARKUP.search(text)) or (document and _PROMPTS.search(text))
        for text in _learnt(row)
    )


def _learnt(row: Learnable) -> Iterator[str]:
    if isinstance(row, Document):
        yield row.text
    elif isinstance(row, Conversation):
        for place, message in enumerate(row.messages):
            if message["role"] == "assistant" and place not in row.masked:
                yield message["content"]
