"""Rows that are trained on as they stand, without a template: text, segments of it, token ids."""

from typing import Any

import numpy as np

from ..errors import shown
from ..row import SourceRow
from .cells import text_of
from .fields import Fields
from .normal import EMPTY_TEXT, NO_TOKENS, Document, Dropped, Normal, Segments, Tokens

_NOT_LEARNT = -100


def read_text(row: Fields) -> Normal:
    return document(row.source, row.name("text"), row.get("text"))


def document(row: SourceRow, key: str, value: Any) -> Normal:
    text = text_of(row, key, value)
    return Document(row, text) if text.strip() else Dropped(row, EMPTY_TEXT)


def read_segments(row: Fields) -> Normal:
    segments, name = row.get("segments"), row.name("segments")
    if not isinstance(segments, list):
        raise row.source.error(f"`{name}`: expected a list of {{text, label}}, got {shown(segments)}")
    parts, spans, end = [], [], 0
    for place, segment in enumerate(segments):
        at = f"{name}[{place}]"
        if not isinstance(segment, dict):
            raise row.source.error(f"`{at}`: expected {{text, label}}, got {shown(segment)}")
        label = segment.get("label")
        if not isinstance(label, bool):
            raise row.source.error(f"`{at}.label`: expected true or false, got {shown(label)}")
        text = text_of(row.source, f"{at}.text", segment.get("text"))
        if label and text:
            spans.append((end, end + len(text)))
        parts.append(text)
        end += len(text)
    return Segments(row.source, "".join(parts), tuple(spans)) if end else Dropped(row.source, EMPTY_TEXT)


def read_tokens(row: Fields) -> Normal:
    ids = _whole_numbers(row, "input_ids")
    trained = np.ones(len(ids), bool)
    if "labels" in row:
        labels = _whole_numbers(row, "labels", len(ids))
        for place, (label, one) in enumerate(zip(labels, ids, strict=True)):
            if label not in (_NOT_LEARNT, one):
                raise row.source.error(
                    f"`{row.name('labels')}[{place}]`: expected {_NOT_LEARNT} (not learnt) or the "
                    f"token itself ({one}), got {label}; labels are not shifted"
                )
            trained[place] = label != _NOT_LEARNT
    if "attention_mask" in row:
        seen = _whole_numbers(row, "attention_mask", len(ids))
        ids, trained = _unpadded(row, ids, trained, seen)
    return (
        Tokens(source=row.source, ids=tuple(ids), trained=trained, key=row.name("input_ids"))
        if ids
        else Dropped(row.source, NO_TOKENS)
    )


def _whole_numbers(row: Fields, key: str, length: int | None = None) -> list[int]:
    numbers, name = row.get(key), row.name(key)
    if not isinstance(numbers, list):
        raise row.source.error(f"`{name}`: expected a list of whole numbers, got {shown(numbers)}")
    for place, one in enumerate(numbers):
        if type(one) is not int and not (key == "attention_mask" and isinstance(one, bool)):
            raise row.source.error(f"`{name}[{place}]`: expected a whole number, got {shown(one)}")
    if length is not None and len(numbers) != length:
        raise row.source.error(
            f"`{name}`: expected {length} numbers, one for each of `{row.name('input_ids')}`, got {len(numbers)}"
        )
    return numbers


def _unpadded(row: Fields, ids: list[int], trained: np.ndarray, seen: list[int]) -> tuple[list[int], np.ndarray]:
    """Without the padding at either end, which `attention_mask` marks with 0."""
    name = row.name("attention_mask")
    for place, one in enumerate(seen):
        if one not in (0, 1):
            raise row.source.error(f"`{name}[{place}]`: expected 0 or 1, got {one}")
    start = seen.index(1) if 1 in seen else len(seen)
    end = len(seen) - seen[::-1].index(1) if 1 in seen else start
    if 0 in seen[start:end]:
        raise row.source.error(
            f"`{name}[{start + seen[start:end].index(0)}]`: masks a token between others; only "
            "padding at the beginning and the end can be left out"
        )
    if "labels" in row and (trained[:start].any() or trained[end:].any()):
        raise row.source.error(f"`{row.name('labels')}`: learns tokens that `{name}` marks as padding")
    return ids[start:end], trained[start:end]
