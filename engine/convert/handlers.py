"""What several tools' keys have in common: handlers, and the makers of handlers.

Most tools pass their keys on to the same libraries, so a key means the same under another name. A
tool's module is then a table of its names.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .draft import Draft

Handler = Callable[[Draft, str, Any], None]
Table = Mapping[str, Handler]

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation"), "tool"),
    "function_call": "call",
}
"""Role names in data that are read without being told."""

SMALLER_BATCH = (
    "rows share bins of data.max_length tokens here and never see each other: the same losses, but "
    "an update holds more rows than without packing, and an epoch has fewer steps"
)
ONE_GPU = "training is on one GPU"
NO_ADAPTER = "trains every weight; only LoRA and QLoRA are there"
PREFERENCE = "preference training is not there yet"
EVERY_STEP = "every step is logged"
NO_UPLOADS = "nothing is sent anywhere; a run's events are kept in its folder"
LOSSLESS = "chosen here by what proves itself on the GPU: the same result"

_OPTIMIZERS = {
    **dict.fromkeys(
        ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), "adamw_8bit"
    ),
    **dict.fromkeys(
        (
            "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused",
            "paged_adamw_32bit", "paged_adamw", "adamw_torch_xla", "adamw_torch_npu_fused", "adamw",
        ),
        "adamw_torch",
    ),
}  # fmt: skip
_SCHEDULES = {
    "cosine": "cosine", "linear": "linear", "constant": "constant",
    "constant_with_warmup": "constant",
}  # fmt: skip


def run_table(draft: Draft, table: Table, prefixes: Sequence[tuple[str, Handler]] = ()) -> None:
    """Give each key of the file to its handler; a key that has none is asked about."""
    for key, value in draft.given.items():
        handler = table.get(key) or next((handler for prefix, handler in prefixes if key.startswith(prefix)), None)
        if handler:
            handler(draft, key, value)
        else:
            draft.unknown(key, value)


def word(value: Any) -> str:
    """A plain value as a lower-case word; empty for lists and mappings."""
    return "" if isinstance(value, list | dict) else str(value).strip().lower()


def is_off(value: Any) -> bool:
    """Whether a value switches a feature off: false, 0, none."""
    return word(value) in ("false", "0", "0.0", "none", "no", "off", "null")


def is_on(value: Any) -> bool:
    """Whether a value switches a feature on, and says no more than that."""
    return word(value) in ("true", "1", "yes", "on")


def number(value: Any) -> float | None:
    """A finite number, or a text that is one; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return None
    return amount if math.isfinite(amount) else None


def numeric(value: Any) -> Any:
    """A number, whole where it is, from a number or its text; anything else as it is."""
    amount = number(value)
    if amount is None:
        return value
    return int(amount) if amount.is_integer() else amount


def to(target: str, said: str = "") -> Handler:
    """The value as it is."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        draft.mapped(key, value, target, value, said)

    return handle


def flag(target: str, said: str = "", *, negated: bool = False) -> Handler:
    """True or false."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        if not (is_on(value) or is_off(value)):
            draft.refused(key, value, "expected true or false")
            return
        draft.mapped(key, value, target, is_on(value) != negated, said)

    return handle


def drop(why: str) -> Handler:
    """It changes nothing here."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        draft.ignored(key, value, why)

    return handle


def feature(why: str) -> Handler:
    """Something that is not there: refused where it is used."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.ignored(key, value, "is off")
        else:
            draft.refused(key, value, why)

    return handle


def question(why: str) -> Handler:
    """Something that can be left out, but only by whoever wrote the file."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.ignored(key, value, "is off")
        else:
            draft.asked(key, value, why)

    return handle


def on_only(why: str, when_off: str) -> Handler:
    """True is how it is here; false is a question."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        if is_on(value):
            draft.ignored(key, value, why)
        else:
            draft.asked(key, value, when_off)

    return handle


def optimizer(draft: Draft, key: str, value: Any) -> None:
    """AdamW in 32 or 8 bits, whatever its implementation."""
    ours = _OPTIMIZERS.get(word(value))
    if ours is None:
        why = "there is AdamW only, in 32 bits or in 8"
        draft.asked(key, value, why, "train.optim=adamw_torch", "train.optim=adamw_8bit")
        return
    paged = "paged" in word(value)
    said = "not paged: the memory plan decides before the first step" if paged else ""
    draft.mapped(key, value, "train.optim", ours, said)


def schedule(draft: Draft, key: str, value: Any) -> None:
    """How the rate falls. A schedule named `constant` has no warm-up in transformers."""
    ours = _SCHEDULES.get(word(value))
    if ours is None:
        draft.asked(key, value, "there are cosine, linear and constant", "train.lr_scheduler_type=cosine",
                    "train.lr_scheduler_type=linear", "train.lr_scheduler_type=constant")  # fmt: skip
        return
    said = ""
    if word(value) == "constant":
        draft.tree["train.warmup_steps"] = 0
        said = "without a warm-up, as transformers reads it"
    draft.mapped(key, value, "train.lr_scheduler_type", ours, said)


def warmup(draft: Draft, key: str, value: Any) -> None:
    """`warmup_steps` or `warmup_ratio`; steps win."""
    scheduler = draft.given.get("lr_scheduler", draft.given.get("lr_scheduler_type"))
    steps = number(draft.given.get("warmup_steps"))
    amount = number(value)
    if word(scheduler) == "constant":
        draft.ignored(key, value, "the schedule `constant` has no warm-up")
    elif key.endswith("ratio") and steps:
        draft.ignored(key, value, "warmup_steps is set, and wins")
    elif key.endswith("steps") and amount == 0 and number(draft.given.get("warmup_ratio")):
        draft.ignored(key, value, "0: warmup_ratio counts")
    elif key.endswith("ratio") and (amount is None or not 0 <= amount < 1):
        draft.refused(key, value, "expected a share from 0 to below 1")
    else:
        draft.mapped(key, value, "train.warmup_steps", numeric(value))


def compute_type(name: str) -> Handler:
    """`bf16: true` and its like; `auto` leaves it to the GPU."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.ignored(key, value, "is off")
        elif word(value) == "auto":
            draft.mapped(key, value, "model.dtype", "auto")
        elif draft.tree.get("model.dtype", name) not in (name, "auto"):
            draft.asked(key, value, "two compute types are set", "model.dtype=bfloat16")
        else:
            draft.mapped(key, value, "model.dtype", name)

    return handle


def modules(draft: Draft, key: str, value: Any) -> None:
    """Names of layers: a list, names with commas between, or all linear ones."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    names = value
    if isinstance(value, str):
        if word(value) in ("all", "all-linear"):
            draft.mapped(key, value, "adapter.target_modules", "all-linear")
            return
        names = [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(names, list) and names and all(_is_module(name) for name in names):
        draft.mapped(key, value, "adapter.target_modules", names)
    else:
        draft.asked(
            key, value, "names of layers are taken, no patterns",
            "adapter.target_modules=[q_proj, v_proj]",
        )  # fmt: skip


def _is_module(name: Any) -> bool:
    return isinstance(name, str) and name.replace(".", "_").isidentifier()


def checkpointing(draft: Draft, key: str, value: Any) -> None:
    """Recomputing gives the same numbers, so how much of it is ours to decide."""
    draft.mapped(
        key, value, "train.gradient_checkpointing", False,
        "recomputes only what memory forces: the same numbers",
    )  # fmt: skip


def validation(draft: Draft, key: str, value: Any) -> None:
    """A share of the rows that is held out; a count of rows needs to become one."""
    amount = number(value)
    if amount is not None and amount >= 1:
        draft.asked(key, value, "a number of rows; here a share is held out", "data.eval_fraction=0.05")
    else:
        draft.mapped(key, value, "data.eval_fraction", numeric(value))


def cadence(target: str, evaluates: Callable[[Draft], bool] | None = None) -> Handler:
    """Every so many steps; `evaluates` tells whether there are rows to evaluate on."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        if evaluates and not evaluates(draft):
            draft.ignored(key, value, "no rows are held out")
        elif is_off(value):
            draft.ignored(key, value, "is off")
        else:
            draft.mapped(key, value, target, numeric(value))

    return handle


def share_of_run(times_an_epoch: float, epochs: float) -> tuple[float, str]:
    """So many times an epoch as a share of all steps, and what is to be said of it.

    Once in a run is no share below 1: it becomes twice, half-way and at the end.
    """
    times = times_an_epoch * epochs
    if times <= 1:
        return 0.5, "once in the run: half-way as well, and at the end"
    return round(1 / times, 6), f"{times:g} times in the run, as a share of all steps"


def per_epoch(
    target: str, epochs: Callable[[Draft], float], evaluates: Callable[[Draft], bool] | None = None
) -> Handler:
    """So many times an epoch."""

    def handle(draft: Draft, key: str, value: Any) -> None:
        times = number(value)
        if evaluates and not evaluates(draft):
            draft.ignored(key, value, "no rows are held out")
        elif is_off(value):
            draft.ignored(key, value, "is off")
        elif times is None or not 0 < times < 1e6:
            draft.refused(key, value, "expected a number of times an epoch")
        else:
            share, said = share_of_run(times, epochs(draft))
            draft.mapped(key, value, target, share, said)

    return handle


def epochs_of(key: str, default: float) -> Callable[[Draft], float]:
    """How to tell a file's number of epochs."""

    def epochs(draft: Draft) -> float:
        given = number(draft.given.get(key))
        return given if given and 0 < given < 1e6 else default

    return epochs
