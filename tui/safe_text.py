"""safe_text: the one gate for text that this program did not write itself.

Rows of a data set, a model's output, file names, error messages and hub ids can hold markup and
terminal control sequences; Textual escapes neither the ESC of an OSC 52 (which writes the user's
clipboard) nor a lone `[/INST]` (which crashes its markup parser). Everything untrusted passes through
here and reaches widgets as `Content`, which is never parsed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from textual.content import Content

_VISIBLE = {code: 0x2400 + code for code in range(0x20)}
_VISIBLE |= {0x7F: 0x2421, **dict.fromkeys(range(128, 160), 65533)}
_BIDI = dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
_ONE_LINE = _VISIBLE | _BIDI | {0x2028: 0x240A, 0x2029: 0x240A, 0x09: 0x20}
_MANY_LINES = {**_ONE_LINE, 0x0A: 0x0A}


def safe_str(text: object, limit: int = 4096, *, lines: bool = False) -> str:
    """Untrusted text with controls made visible, bidi marks replaced, and its end cut at `limit`.

    With `lines`, newlines stay newlines; else they show as ␊ so that the text stays on one line.
    """
    plain = str(text)
    cut = len(plain) > limit
    plain = plain[:limit].encode("utf-8", "replace").decode()  # lone surrogates break terminals
    if lines:
        plain = plain.replace("\r\n", "\n").expandtabs(4)
    plain = plain.translate(_MANY_LINES if lines else _ONE_LINE)
    return plain + "…" if cut else plain


def safe_text(text: object, limit: int = 4096, *, lines: bool = False, style: str = "") -> "Content":
    """`safe_str` as Content, for widgets."""
    from textual.content import Content  # a tenth of a second that a run without screens saves

    return Content.styled(safe_str(text, limit, lines=lines), style)
