"""What `data.drop` and `data.keep` take: the codes of problems, as configuration. What each means is in
`data/problems/codes.py`.
"""

from typing import Literal

DropCode = Literal[
    "bad", "turn_order", "empty_prompt", "control_characters", "special_tokens", "tool_calls",
    "end_untrained", "prompt_differs", "pictures", "markup", "placeholders", "duplicate", "leak", "near_duplicate",
    "near_leak",
]  # fmt: skip
"""What `data.drop` takes. A row that has several of them is counted under the first."""


KeepCode = Literal[
    "turn_order", "empty_prompt", "control_characters", "special_tokens", "tool_calls", "end_untrained",
    "prompt_differs", "pictures", "markup", "placeholders", "duplicate", "leak", "near_duplicate", "near_leak", "cut",
    "cut_away", "nothing_to_learn", "pad_is_eos", "eos_differs", "special_split", "template_replaced", "beyond_context",
]  # fmt: skip
"""What `data.keep` takes: known, and as it should be."""
