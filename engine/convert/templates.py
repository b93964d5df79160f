"""Which chat template stands for another tool's, and in what the text differs.

A preset template writes turns and nothing else, as most of theirs do; some write more: a system
prompt of their own, tools, empty thoughts. Such a template is that of a family's instruct models,
so where the model's name says that it is one of them, the tokenizer brings it, whole, and is
preferred: the training stays as it was written. For any other model the preset is taken, and what
it lacks is said.
"""

import re
from dataclasses import dataclass
from typing import Any

from .draft import Draft
from .handlers import word

_TARGET = "data.chat_template"
_OWN = "the tokenizer's own, which in such a model is this template, tools and all"
_NO_TOOLS = "has no place for tools: their definitions are left out"
_BUT_TOOLS = f"the same text, except that it {_NO_TOOLS}"
_NO_SYSTEM_PROMPT = "writes no system prompt where a row has none"


@dataclass(frozen=True)
class _Template:
    preset: str
    lacks: str = ""
    """What is different with the preset."""
    own: str = ""
    """A pattern of model names; these models' own template is this one."""


def _same(preset: str, *names: str) -> dict[str, _Template]:
    return dict.fromkeys(names, _Template(preset))


_QWEN2 = _Template("qwen", f"{_NO_SYSTEM_PROMPT} (`You are Qwen, ...`), and {_NO_TOOLS}", r"qwen-?2\.5.*instruct")
_QWEN3 = _Template(
    "qwen",
    f"writes no empty thoughts (<think>) before answers, and {_NO_TOOLS}",
    r"qwen3(?!.*(base|instruct))",
)
_MISTRAL = _Template(
    "mistral", f"writes a space before [/INST], and {_NO_TOOLS}", r"mi[sx]tral.*instruct"
)  # fmt: skip
_AXOLOTL = {
    **_same("llama-3", "llama3"),
    **_same("gemma", "gemma"),
    **_same("chatml", "chatml"),
    **_same("mistral", "mistral", "mistral_v1"),
    "mistral_v2v3": _MISTRAL,
    **_same("phi", "phi_3", "phi_35"),
    "qwen_25": _QWEN2,
    "qwen3": _QWEN3,
    **_same("zephyr", "zephyr"),
    **_same("vicuna", "vicuna"),
    **_same("alpaca", "alpaca"),
}
_LLAMAFACTORY = {
    "llama3": _Template("llama-3", _BUT_TOOLS),
    **_same("gemma", "gemma", "gemma2"),
    **_same("chatml", "chatml"),
    "mistral": _MISTRAL,
    **_same("phi", "phi"),
    "qwen": _QWEN2,
    "qwen3": _QWEN3,
    "qwen3_nothink": _Template("qwen", _BUT_TOOLS, r"qwen3.*instruct"),
    "zephyr": _Template("zephyr", f"{_NO_SYSTEM_PROMPT} (`You are Zephyr, ...`)"),
    **_same("vicuna", "vicuna"),
    "alpaca": _Template("alpaca", "an input stands under a heading of its own, `### Input:`"),
}  # fmt: skip
_FAMILIES = {"llama3": "llama-3", "gemma": "gemma", "mistral": "mistral", "qwen": "qwen"}
_PLAIN = ("default", "empty", "fewshot")


def of_axolotl(draft: Draft, key: str, value: Any) -> None:
    """A template that axolotl has under a name; `tokenizer_default` is the model's own."""
    name = word(value)
    if name in ("tokenizer_default", "jinja"):
        said = "chat_template_jinja holds it" if name == "jinja" else "the tokenizer's own template"
        draft.belongs(key, value, _TARGET, said)
    elif name.startswith("tokenizer_default_fallback_"):
        said = "the tokenizer's own template; a model needs to have one"
        draft.belongs(key, value, _TARGET, said)
    elif found := _AXOLOTL.get(name):
        _take(draft, key, value, found, draft.given.get("base_model"))
    else:
        _ask(draft, key, value, "no template of that name")


def of_llamafactory(draft: Draft, key: str, value: Any) -> None:
    """A template that LLaMA-Factory has under a name; it has more of them than are known here, most
    for models whose tokenizers bring the same one."""
    name, model = word(value), draft.given.get("model_name_or_path")
    family = next((one for one in _FAMILIES if name.startswith(one)), None)
    if found := _LLAMAFACTORY.get(name):
        _take(draft, key, value, found, model)
    elif name in _PLAIN:
        _ask(draft, key, value, "writes turns plainly, which no template here does")
    elif family:
        instruct = rf"{family.removesuffix('3')}.*(instruct|chat|-it\b)"
        nearest = _Template(_FAMILIES[family], "the nearest of its family: look at a row", instruct)
        _take(draft, key, value, nearest, model)
    else:
        said = "no template of that name is here: the tokenizer's own chat template is taken instead"
        draft.mapped(key, value, _TARGET, None, said)


def _take(draft: Draft, key: str, value: Any, found: _Template, model: Any) -> None:
    if found.own and re.search(found.own, str(model).lower()):
        draft.mapped(key, value, _TARGET, None, _OWN)
    else:
        draft.mapped(key, value, _TARGET, found.preset, found.lacks)


def _ask(draft: Draft, key: str, value: Any, why: str) -> None:
    draft.asked(
        key,
        value,
        f"{why}; `null` is the tokenizer's own",
        f"{_TARGET}=null",
        f"{_TARGET}=FILE.jinja",
    )
