"""Chat templates of several habits, and what a Renderer makes of a row with them, for tests."""

import numpy as np

from evenfall.engine.data.formats.detect import detect
from evenfall.engine.data.formats.normal import Conversation, Document
from evenfall.engine.data.formats.normalise import normalise
from evenfall.engine.data.render.template import Renderer
from evenfall.engine.data.row import SourceRow

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

BARE = (
    "{% for m in messages %}{{ m.role }}:\n{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)

# As Qwen3's: only the last answer keeps its reasoning.
REWRITES = CHATML.replace("{{ m.content }}", "{{ m.content if loop.last else m.content.split('</think>')[-1] }}")

U1, A1 = {"role": "user", "content": "Hi é"}, {"role": "assistant", "content": " 🎈 Yes"}
U2, A2 = {"role": "user", "content": "So?"}, {"role": "assistant", "content": "No.\n"}
"""A leading space, a character of four tokens and trailing white space."""


def row(value):
    source = SourceRow(file="f.json", number=7, value=value)
    normal = normalise(source, detect([source]).format)
    assert isinstance(normal, Conversation | Document)
    return normal


def encode(tokenizer, value, assistant_only=True):
    """[(all text, learnt text)] of each example, and the renderer."""
    renderer = Renderer(tokenizer, assistant_only)
    encoded = renderer.encode(renderer.render(row(value)))
    texts = []
    for one in encoded:
        assert one.ids.dtype == np.int32 and one.trained.dtype == bool
        assert len(one.ids) == len(one.trained)
        assert not one.trained[0]
        texts.append((tokenizer.decode(one.ids), tokenizer.decode(one.ids[one.trained])))
    return texts, renderer
