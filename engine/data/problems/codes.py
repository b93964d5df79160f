"""What can be wrong with rows: the code of each problem, how grave it is, and what it is in words.

A problem of the first list is found in a row by itself (`row_problems.py`), one of the second between rows
(`duplicates.py`, `check.py`), one of the third in the tokenizer and its template (`tokenizer_check.py`). Codes that a
`data.drop` may name leave their rows out; that is configuration, so a run records it.

Light: the configuration and the screens import it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from ...config.codes import DropCode, KeepCode

Level = Literal["green", "amber", "red"]


BAD = "bad"
TURN_ORDER = "turn_order"
EMPTY_PROMPT = "empty_prompt"
CONTROL_CHARACTERS = "control_characters"
SPECIAL_TOKENS = "special_tokens"
TOOL_CALLS = "tool_calls"
END_UNTRAINED = "end_untrained"
PROMPT_DIFFERS = "prompt_differs"
PICTURES = "pictures"
MARKUP = "markup"
PLACEHOLDERS = "placeholders"
CUT = "cut"
"""Longer than data.max_length: its end, and the end of its last answer, is not learnt."""
DUPLICATE = "duplicate"
LEAK = "leak"
NEAR_DUPLICATE = "near_duplicate"
NEAR_LEAK = "near_leak"
NOTHING_TO_LEARN = "nothing_to_learn"
CUT_AWAY = "cut_away"
TOO_LONG = "too_long"
PAD_IS_EOS = "pad_is_eos"
EOS_DIFFERS = "eos_differs"
SPECIAL_SPLIT = "special_split"
TEMPLATE_REPLACED = "template_replaced"
BEYOND_CONTEXT = "beyond_context"

ROW_PROBLEMS = (
    TURN_ORDER, CONTROL_CHARACTERS, SPECIAL_TOKENS, TOOL_CALLS, END_UNTRAINED, CUT, EMPTY_PROMPT,
    PICTURES, MARKUP, PLACEHOLDERS, PROMPT_DIFFERS,
)  # fmt: skip
"""What is told from a row by itself; its place here is its bit in `Block.problems`, which has sixteen."""
DROP_CODES: tuple[str, ...] = get_args(DropCode)
KEEP_CODES: tuple[str, ...] = get_args(KeepCode)


@dataclass(frozen=True, kw_only=True)
class Problem:
    level: Level
    """Where there are such rows, or it is so."""
    title: str
    """What is wrong, in a few words: a number of rows can stand before it."""
    none: str
    """What is said where there is none."""
    meaning: str
    """What comes of it, in a sentence."""


PROBLEMS: dict[str, Problem] = {
    BAD: Problem(
        level="red",
        title="cannot be read or rendered",
        none="all rows can be read and rendered",
        meaning="training ends with an error at the first of them",
    ),
    NOTHING_TO_LEARN: Problem(
        level="amber",
        title="have nothing to learn",
        none="every row has something to learn",
        meaning="they are left out",
    ),
    CUT_AWAY: Problem(
        level="amber",
        title="lose their whole answer at data.max_length",
        none="no answer is lost at data.max_length",
        meaning="they are left out: the prompt alone fills the bin",
    ),
    TOO_LONG: Problem(
        level="green",
        title="are longer than data.max_length and left out",
        none="no row is left out for its length",
        meaning="data.over_long=drop leaves them out",
    ),
    CUT: Problem(
        level="amber",
        title="are cut at data.max_length",
        none="no answer is cut at data.max_length",
        meaning="the end of the answer, and to stop after it, is not learnt from them",
    ),
    END_UNTRAINED: Problem(
        level="red",
        title="do not learn to end the answer",
        none="every answer learns its end of turn",
        meaning="a model that learns no end of turn goes on for ever",
    ),
    PROMPT_DIFFERS: Problem(
        level="amber",
        title="are not learnt behind the prompt that asks for them",
        none="every answer is learnt behind the prompt that asks for it",
        meaning="the chat template's generation prompt goes on otherwise than the answer does in it, so chat asks for "
        "something else than was learnt",
    ),
    PICTURES: Problem(
        level="red",
        title="go with pictures, sound or film",
        none="no row goes with pictures, sound or film",
        meaning="only text is learnt: the model would learn to answer about what it was not shown",
    ),
    MARKUP: Problem(
        level="amber",
        title="look rendered for a chat template already",
        none="no text holds the markup of a chat template",
        meaning="[INST], <|im_start|> and the like would be learnt as text: give the turns themselves, or a tokenizer "
        "that has these tokens",
    ),
    PLACEHOLDERS: Problem(
        level="amber",
        title="hold placeholders or other leftovers",
        none="no placeholders ({{name}}), phrases of another model or text decoded wrongly",
        meaning="{{name}}, <INSERT ...>, lorem ipsum, 'As an AI language model', HTML entities and the like are learnt "
        "as they stand",
    ),
    TURN_ORDER: Problem(
        level="amber",
        title="have turns out of order",
        none="turns alternate, the user's first",
        meaning="the assistant speaks first, one role speaks twice in a row, system text comes late, or a tool's "
        "result has no call, or a call no result",
    ),
    EMPTY_PROMPT: Problem(
        level="amber",
        title="have an empty user turn",
        none="no user turn is empty",
        meaning="what is learnt answers nothing",
    ),
    TOOL_CALLS: Problem(
        level="amber",
        title="call tools wrongly",
        none="tool calls fit the tools",
        meaning="the call names none of the row's tools, leaves out an argument that is required, or has one that "
        "the tool does not take",
    ),
    CONTROL_CHARACTERS: Problem(
        level="amber",
        title="hold control characters",
        none="no control characters",
        meaning="escape sequences, bidirectional overrides or U+FFFD (text decoded wrongly) would be learnt",
    ),
    SPECIAL_TOKENS: Problem(
        level="amber",
        title="spell out special tokens",
        none="no text spells out special tokens",
        meaning="they become the control tokens themselves, so a row can end its turn early",
    ),
    DUPLICATE: Problem(
        level="amber",
        title="repeat an earlier row",
        none="no duplicates",
        meaning="what is there twice is learnt twice",
    ),
    NEAR_DUPLICATE: Problem(
        level="amber",
        title="nearly repeat an earlier row",
        none="no near-duplicates",
        meaning="nearly all that sets them apart from the other rows is in one of these too",
    ),
    LEAK: Problem(
        level="red",
        title="are in the evaluation set too",
        none="no row is in the evaluation set too",
        meaning="the evaluation loss of what was trained on says nothing",
    ),
    NEAR_LEAK: Problem(
        level="amber",
        title="nearly repeat a row of the evaluation set",
        none="no row nearly repeats one that is evaluated on",
        meaning="the evaluation loss is lower than that of rows that are really new",
    ),
    PAD_IS_EOS: Problem(
        level="green",
        title="the token that pads is also the one that ends",
        none="no token both pads and ends",
        meaning="nothing is padded here, but trainers that mask padding would not learn to end",
    ),
    EOS_DIFFERS: Problem(
        level="green",
        title="answers end with a token that is not the tokenizer's eos",
        none="answers end with a token that ends generation",
        meaning="chat stops there, and exports name it as an end; a server that takes the base's own files must be "
        "told",
    ),
    SPECIAL_SPLIT: Problem(
        level="amber",
        title="markers of the chat template are not tokens of this tokenizer",
        none="the chat template's markers are tokens",
        meaning="they are spelled out in several ordinary tokens: this template belongs to another model",
    ),
    TEMPLATE_REPLACED: Problem(
        level="amber",
        title="data.chat_template takes the place of the model's own, which writes turns otherwise",
        none="the chat template is the model's own, or writes what that writes",
        meaning="an instruct model has learnt its own form, and has to learn this one first: leave data.chat_template "
        "out unless it is a base model",
    ),
    BEYOND_CONTEXT: Problem(
        level="amber",
        title="bins are longer than the model's context",
        none="bins are no longer than the model's context",
        meaning="the model has never seen positions beyond it, and what it says there is of little use",
    ),
}


def in_words(code: str) -> str:
    """A problem of rows as a name: of those that were dropped for it in an account, of a row that has it."""
    return _NAMES[code]


_NAMES = {
    BAD: "unreadable",
    TURN_ORDER: "turns out of order",
    EMPTY_PROMPT: "empty user turn",
    CONTROL_CHARACTERS: "control characters",
    SPECIAL_TOKENS: "special tokens spelled out",
    TOOL_CALLS: "wrong tool call",
    END_UNTRAINED: "end of turn not learnt",
    PROMPT_DIFFERS: "not behind its prompt",
    PICTURES: "pictures, sound or film",
    MARKUP: "rendered already",
    PLACEHOLDERS: "placeholders",
    DUPLICATE: "duplicate",
    LEAK: "in the evaluation set",
    NEAR_DUPLICATE: "near-duplicate",
    NEAR_LEAK: "nearly in the evaluation set",
    CUT: "cut at data.max_length",
}
