"""What was left in a text by whoever made it: placeholders, markup of another template, text decoded wrongly.

Looked for in what is learnt, answers and documents: a question may be about any of them. Code in fences is left out,
since `{{ name }}` is right there. One row is no alarm; a share of them is (`check.py`).
"""

import re
from collections.abc import Iterator

from ..formats.normal import Conversation, Document, Learnable

_FENCED = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_SIGNS = ("{", "[", "<", "&", "Ã", "â€", "Â", "orem ipsum", "OREM IPSUM", " an AI ", " an ai ")
"""One of these stands in every text with a leftover: to look for them takes less than the expressions do."""
_KINDS: tuple[tuple[tuple[str, ...], re.Pattern[str]], ...] = tuple(
    (signs, re.compile(pattern, re.IGNORECASE))
    for signs, pattern in (
        (("{{",), r"\{\{\s*[A-Za-z_][\w .-]{0,30}\s*\}\}"),  # {{name}}
        # {author}, but no f-string and no set of letters
        (("{",), r"\{(?<![\w$#%\\{}\]'\"(=]\{)[a-z][a-z_]{2,24}\}(?![\w})'\"])"),
        (("[",), r"\[(?:your|company|recipient|sender|customer|client)\b[^\]\n]{0,40}\](?!\()"),  # [Your Name]
        (("&",), r"&(?:amp|quot|lt|gt|nbsp|apos|#0?39|#x27);"),
        # UTF-8 read as Latin-1
        (("Ã", "ã"), r"Ã[\x80-\xbf\u0178\u0192]"),
        (("â€", "Â€"), r"â€[\u0153\u2122\u02dc\x9d\x94]"),
        (("Â", "â"), r"Â[\xa0\xb0\xa3\xbb\xab]"),
    )
)
"""What stands in every text that an expression finds something in, and the expression."""
_PHRASES = {
    "lorem ipsum": re.compile(r"\blorem ipsum\b", re.IGNORECASE),
    "as an ai ": re.compile(r"\bAs an AI (?:language )?model\b", re.IGNORECASE),
    "insert": re.compile(r"[<\[]\s*INSERT\b[^>\]\n]{0,60}[>\]]", re.IGNORECASE),
}
"""What stands in the small letters of such a text, and the expression."""
_OTHER_CASES = ("\u0130", "\u0131", "\u017f")
"""What is i or s to an expression that ignores case, and not to `lower`."""
_MARKUP = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|im_(?:start|end)\|>|<\|(?:start_header_id|eot_id|begin_of_text)\|>"
    r"|</?start_of_turn>|<end_of_turn>|<\|(?:user|assistant|system|end|endoftext)\|>"
)
_PROMPTS = re.compile(r"^### (?:Instruction|Response|Human|Assistant):", re.MULTILINE)


def has_placeholders(row: Learnable) -> bool:
    """Whether what is learnt holds a placeholder, a phrase of another model, or text that was decoded wrongly."""
    return any(_has_placeholder(text) for text in _learnt(row))


def _has_placeholder(text: str) -> bool:
    for sign in _SIGNS:
        if sign in text:
            break
    else:
        return False
    if "```" in text:
        text = _FENCED.sub("", text)
    for signs, pattern in _KINDS:
        if any(sign in text for sign in signs) and pattern.search(text):
            return True
    small = text.lower()
    other = any(letter in text for letter in _OTHER_CASES)
    return any((other or phrase in small) and pattern.search(text) for phrase, pattern in _PHRASES.items())


def has_markup(row: Learnable) -> bool:
    """Whether a text looks as if it had been rendered by a chat template already."""
    document = isinstance(row, Document)
    return any(
        (("<" in text or "[" in text) and _MARKUP.search(text))
        or (document and "### " in text and _PROMPTS.search(text))
        for text in _learnt(row)
    )


def _learnt(row: Learnable) -> Iterator[str]:
    if isinstance(row, Document):
        yield row.text
    elif isinstance(row, Conversation):
        for place, message in enumerate(row.messages):
            if message["role"] == "assistant" and place not in row.masked:
                yield message["content"]
