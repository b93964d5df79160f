"""The check of an exported tokenizer: opened again, it must give the ids that the run was trained with."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from .form import ExportError

_TEXTS = (
    "", " ", "  ", "\n", "\n\n", "\t", " \n ", "a", " a", "a ", "  two  spaces  ", "Hello, world!", "hello world",
    "The quick brown fox jumps over the lazy dog.", "don't, won't, I'll, we've", "UPPER lower MiXeD", "snake_case_name",
    "1234567890", "3.14159", "1,000,000", "2024-02-29T23:59:59Z", "x=1;y = 2 ;z  =3", "a\nb\r\nc", "tab\tbetween",
    "    def f(x):\n        return x ** 2\n", "for (int i = 0; i < n; ++i) { a[i] += 1; }", '{"key": [1, 2, null]}',
    "<p class='x'>text &amp; more</p>", "https://example.org/a/b?c=d&e=f#g", "me@example.org", "C:\\dir\\file.txt",
    "$E = mc^2$ and \\frac{1}{2}", "**bold** _italic_ `code`", "- one\n- two\n  - three", "# Title\n\nText.",
    "na\u00efve caf\u00e9 \u00fcber stra\u00dfe", "e\u0301 is not \u00e9", "\u00a0non\u00a0breaking\u00a0",
    "\u200bzero\u200bwidth\u200b", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u4f60\u597d\uff0c\u4e16\u754c", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "\uc548\ub155\ud558\uc138\uc694",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001f600 \U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea",
    "\u2581underline\u2581mark", "\u2026 \u2014 \u201cquoted\u201d \u2018so\u2019", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!???...", "Supercalifragilisticexpialidocious antidisestablishmentarianism",
)  # fmt: skip
"""What tokenizers differ in: spaces at both ends, line breaks, digits, code, scripts, what no token holds."""


def compare_token_ids(tokenizer: Any, folder: Path, *, trust_remote_code: bool) -> str:
    """Ids of texts and of rendered chats: the run's tokenizer against the one that was written.

    Args:
        tokenizer: of the base, with the chat template that the run uses.

    Raises:
        ExportError: they differ, or what was written cannot be opened.
    """
    try:
        written = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ExportError(f"the tokenizer that was written cannot be opened: {error}: nothing was kept") from error
    texts, chats = list(texts_of(tokenizer)), list(chats_of(tokenizer))
    for text in texts:
        if tokenizer(text)["input_ids"] != written(text)["input_ids"]:
            raise ExportError(f"the tokenizer that was written gives other ids for {text!r}: nothing was kept")
    for messages, prompt, text in chats:
        try:
            got = written.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except Exception as error:
            raise ExportError(
                f"the chat template that was written refuses a chat: {error}: nothing was kept"
            ) from error
        if got != text or tokenizer(text)["input_ids"] != written(got)["input_ids"]:
            raise ExportError("the chat template that was written renders chats otherwise: nothing was kept")
    return f"token ids of {len(texts)} texts and {len(chats)} chats equal the base's"


def texts_of(tokenizer: Any) -> Iterator[str]:
    """The texts, and each special token between words."""
    yield from _TEXTS
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    yield from (f"before {token} after" for token in special[:16])


def chats_of(tokenizer: Any) -> Iterator[tuple[list[dict[str, str]], bool, str]]:
    """Conversations that the template takes, whether an answer is asked for, and the text that they are rendered as."""
    if not tokenizer.chat_template:
        return
    for turns in (1, 2, 3, 4, 5):
        for system in (False, True):
            messages = [{"role": "system", "content": "Be brief."}] * system
            for turn in range(turns):
                said = _TEXTS[(7 * turns + 3 * turn + system) % len(_TEXTS)]
                messages.append({"role": ("user", "assistant")[turn % 2], "content": said or "So?"})
            prompt = turns % 2 == 1
            with contextlib.suppress(Exception):  # of templates that take no system text, say
                text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                yield messages, prompt, text
