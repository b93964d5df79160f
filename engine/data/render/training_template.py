"""Which template training rows are rendered with: the tokenizer's own, or TRL's training version of it.

A `{% generation %}` marker in a template says exactly what is learnt. Few models ship with markers, so TRL
keeps, for templates that it knows character for character (`qwen3.jinja`), a version made for training beside
each (`qwen3_training.jinja`): marked, and mended where the original would lose part of an answer. With those
our rows are, token for token, what TRL trains on. It serves to render training rows and nothing else: it is
never set on the tokenizer, so chat and export keep the model's own.

TRL itself is not imported (seconds, and torch): its files are found by their names. In another version of it,
or another layout, what is there counts; what is not there is derived by rendering (see `template.py`).
"""

import functools
import importlib.util
import re
from pathlib import Path

_HAS_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for them
_SUFFIX = "_training"


@functools.lru_cache(maxsize=64)
def template_for_training(template: str) -> tuple[str, bool]:
    """The template to render training rows with, and whether it marks the answers."""
    if not _HAS_MARKERS.search(template):
        template = _trl_templates().get(template, template)
    return template, bool(_HAS_MARKERS.search(template))


@functools.lru_cache(maxsize=1)
def _trl_templates() -> dict[str, str]:
    """Template -> its training version, of the installed TRL."""
    spec = importlib.util.find_spec("trl")
    folders = [Path(place) / "chat_templates" for place in (spec and spec.submodule_search_locations) or ()]
    known: dict[str, str] = {}
    for folder in folders:
        for training in sorted(folder.glob(f"*{_SUFFIX}.jinja")):
            original = training.with_stem(training.stem.removesuffix(_SUFFIX))
            if original.is_file():
                known[original.read_text(encoding="utf-8")] = training.read_text(encoding="utf-8")
    return known
