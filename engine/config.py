"""RunConfig: everything that decides a run, as one tree.

The same object is a YAML file, a form on screen and `section.key=value` overrides on the command
line, so there is one place where a key is named, described, bounded and checked. Names are those of
the ecosystem: PEFT's for the adapter, TRL's and transformers' for data and training. Reading is
strict: an unknown key is an error that proposes the nearest known one, because a misspelt key that
is ignored costs somebody a night of GPU time.

This module is light (no torch): the screens import it before their first paint.
"""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names every key at fault and the fix."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True
    )


class ModelConfig(_Section):
    """Which base model, and how its weights are held."""

    name_or_path: str = Field(
        default="demo",
        min_length=1,
        description="hub id, local directory, or `demo` (the embedded model)",
    )
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    quantization: Literal["nf4", "none"] = Field(
        default="nf4",
        description="nf4: 4-bit NormalFloat, double-quantised (QLoRA); none: 16-bit LoRA",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="compute dtype; auto: bfloat16 on a GPU that has it, float32 on a CPU",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="run Python code that comes with the model: only if you trust its author",
    )


class AdapterConfig(_Section):
    """LoRA (Hu et al. 2021), in PEFT's names. Adapter weights are kept in float32."""

    r: int = Field(default=16, ge=1, le=1024, description="rank")
    lora_alpha: float = Field(
        default=32, gt=0, description="the update is scaled by lora_alpha / r"
    )
    lora_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="dropout on the adapter's input"
    )
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        default="all-linear", description="`all-linear`, or names such as [q_proj, v_proj]"
    )
    use_rslora: bool = Field(
        default=False, description="scale by lora_alpha / sqrt(r) (rank-stabilised)"
    )


DataFormat = Literal["auto", "alpaca", "messages", "sharegpt", "prompt_completion", "text"]


class DataConfig(_Section):
    """What is learnt from, and how a row becomes tokens."""

    path: str = Field(
        default="demo",
        min_length=1,
        description="json, jsonl, csv, parquet or txt file, hub id, or `demo`",
    )
    name: str | None = Field(default=None, description="configuration of a hub data set")
    split: str = Field(default="train", min_length=1, description="split of a hub data set")
    format: DataFormat = Field(
        default="auto", description="row format; auto detects it and says which"
    )
    max_rows: int | None = Field(default=None, ge=1, description="take only the first rows")
    max_length: int = Field(default=2048, ge=8, description="tokens in a bin; no row may be longer")
    over_long: Literal["cut", "drop"] = Field(
        default="cut",
        description="a row longer than max_length: cut its end, or drop it (both counted)",
    )
    assistant_only_loss: bool = Field(
        default=True, description="learn the answers only; false learns prompts too"
    )
    eval_path: str | None = Field(
        default=None, description="held-out file; default: taken from `path`"
    )
    eval_fraction: float = Field(
        default=0.0, ge=0, le=0.5, description="share of the rows held out for evaluation"
    )
    shuffle: bool = Field(default=True, description="new order of bins each epoch, from train.seed")


Optim = Literal["adamw_torch", "adamw_8bit"]


class TrainConfig(_Section):
    """The loop: length, batch, optimiser, cadence, and what happens when memory runs out."""

    num_train_epochs: float = Field(default=1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(
        default=None, ge=1, description="optimiser steps; overrides epochs"
    )
    per_device_train_batch_size: int = Field(
        default=1, ge=1, description="packed bins in a micro-batch"
    )
    gradient_accumulation_steps: int = Field(
        default=8, ge=1, description="micro-batches in one update"
    )
    optim: Optim = Field(
        default="adamw_torch",
        description="adamw_torch: AdamW; adamw_8bit: its moments in 8 bits, a quarter of their "
        "memory, about the same result",
    )
    learning_rate: float = Field(default=2e-4, ge=0, le=10, description="peak learning rate")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the rate falls after the warm-up"
    )
    warmup_steps: int = Field(default=5, ge=0, description="optimiser steps of linear warm-up")
    weight_decay: float = Field(
        default=0.0, ge=0, le=1, description="AdamW's decay of the adapter's weights"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="clip the gradient's norm to this")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean gradient")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of its square's mean")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="keeps AdamW's division finite")
    gradient_checkpointing: bool = Field(
        default=False,
        description="recompute every layer in the backward: least memory, about 30 % slower; false: "
        "only as many as the GPU's memory forces",
    )
    eval_steps: int | None = Field(default=None, ge=1, description="evaluate every so many steps")
    save_steps: int = Field(default=100, ge=1, description="checkpoint every so many steps")
    save_total_limit: int = Field(default=2, ge=1, description="checkpoints to keep")
    seed: int = Field(
        default=42,
        ge=0,
        lt=2**31,
        description="of the adapter, dropout, row order and held-out rows",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto", description="what trains; auto: the GPU where there is one"
    )
    kernels: Literal["auto", "off"] = Field(
        default="auto",
        description="auto: Triton kernels for every part that proves itself on this GPU",
    )
    on_oom: Literal["ask", "recover", "fail"] = Field(
        default="ask",
        description="out of memory: wait for a key, take the first rung that keeps the result, or "
        "end (a run without a terminal treats ask as fail, saving first)",
    )


class ExportConfig(_Section):
    """What `evenfall export` writes when it is given no form."""

    forms: list[Literal["adapter", "merged"]] = Field(
        default=["adapter"], min_length=1, description="what is written, such as [adapter, merged]"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="dtype of merged weights"
    )
    max_shard_size_gb: float = Field(
        default=5.0, gt=0, description="GB per merged safetensors file"
    )


class RunConfig(_Section):
    """One run. `RunConfig()` is the demo's model and data with a usable recipe."""

    name: str | None = Field(
        default=None,
        pattern=r"^[\w][\w.\-]{0,63}$",
        description="run name; default: model, data, time",
    )
    output_dir: str = Field(
        default="runs", min_length=1, description="folder that holds run directories"
    )
    model: ModelConfig = ModelConfig()
    adapter: AdapterConfig = AdapterConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> "RunConfig":
        if self.train.eval_steps and not (self.data.eval_path or self.data.eval_fraction):
            raise ValueError(
                "train.eval_steps is set, but there is nothing to evaluate on: "
                "set data.eval_fraction (such as 0.05) or data.eval_path"
            )
        return self

    def to_yaml(self) -> str:
        """The whole tree, defaults included, so that a later default cannot change this run."""
        return yaml.dump(
            self.model_dump(mode="json"), Dumper=_QuotingDumper, sort_keys=False,
            allow_unicode=True, width=100,
        )  # fmt: skip

    def with_overrides(self, overrides: Sequence[str]) -> "RunConfig":
        """A copy with `section.key=value` strings applied; values are read as YAML.

        Raises:
            ConfigError: an override without `=`, an unknown key, or a value that does not fit.
        """
        tree = self.model_dump(mode="json")
        for override in overrides:
            path, equals, text = override.partition("=")
            if not equals:
                raise ConfigError(f"{override!r}: an override is written section.key=value")
            *sections, key = path.strip().split(".")
            node = tree
            for section in sections:
                inner = node.get(section)
                if not isinstance(inner, dict):
                    raise ConfigError(_unknown_key(path.strip().split(".")))
                node = inner
            try:
                node[key] = yaml.load(text, _Yaml12Loader)
            except (yaml.YAMLError, ValueError) as error:
                raise ConfigError(
                    f"{path}: cannot read {_shown(text)} as a value: {error}"
                ) from error
        return parse_config(tree)


def parse_config(tree: Any, source: str = "") -> RunConfig:
    """Check a tree of plain values (as YAML gives it) and return the RunConfig.

    Raises:
        ConfigError: one line for each key at fault: what it got, what it takes, the nearest key.
    """
    where = f"{source}: " if source else ""
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{where}expected sections such as `model:` and `data:`, got {_shown(tree)}"
        )
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        seen: dict[str, None] = {}
        for detail in error.errors(include_url=False, include_context=True):
            seen[where + _explain(detail)] = None
        raise ConfigError("\n".join(seen)) from None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a `run.yaml` and apply overrides.

    Raises:
        ConfigError: the file is missing, is no YAML, or has keys or values at fault.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        tree = yaml.load(text, _Yaml12Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    return parse_config(tree, str(path)).with_overrides(overrides)


class _Yaml12Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as a number, `no` and `on` as words, and refuses a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: a key must be a word")
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: {key!r} is set twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Yaml12Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag == "tag:yaml.org,2002:null"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    (
        "float",
        r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan)$",
        "-+.0123456789",
    ),
):
    _Yaml12Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first)
    )


def _construct_int(loader: _Yaml12Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))  # PyYAML's own would read 010 as the octal 8


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class _QuotingDumper(yaml.SafeDumper):
    """SafeDumper that quotes every text which YAML 1.1 or the loader above would read as another."""


_QuotingDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])
    + _Yaml12Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Yaml12Loader.yaml_implicit_resolvers}
}


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes have escapes; in the other styles U+0085 would come back as a blank.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_QuotingDumper.add_representer(str, _represent_text)


@dataclass(frozen=True)
class ConfigField:
    """One key of the tree, for forms, help and error messages."""

    key: str
    """Dotted path, such as `train.learning_rate`."""
    takes: str
    """What it takes, in words: `number from 0 to 10`, `nf4 | none`."""
    default: Any
    description: str
    choices: tuple[str, ...]
    """The words it takes, where it takes no others."""


def config_fields() -> Iterator[ConfigField]:
    """Every key that can be set, in the order of the file."""
    yield from _walk(RunConfig, "")


def _walk(section: type[BaseModel], prefix: str) -> Iterator[ConfigField]:
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _walk(annotation, f"{prefix}{name}.")
            continue
        yield ConfigField(
            f"{prefix}{name}",
            _takes(annotation, field.metadata),
            field.default,
            field.description or "",
            _choices(annotation),
        )


def _choices(annotation: Any) -> tuple[str, ...]:
    if typing.get_origin(annotation) is Literal:
        return tuple(str(word) for word in typing.get_args(annotation))
    return ()


def _takes(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _takes(typing.get_args(annotation)[0])
    if origin is Literal:
        return " | ".join(str(word) for word in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_takes(part, metadata) for part in typing.get_args(annotation))
    if origin is list:
        return f"list of {_takes(typing.get_args(annotation)[0])}"
    words = {bool: "true | false", int: "whole number", float: "number", str: "text"}
    if annotation is type(None):
        return "null"
    text = words.get(annotation, str(annotation))
    bounds = []
    for rule in metadata:
        for attribute, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
            if (bound := getattr(rule, attribute, None)) is not None:
                bounds.append(f"{word} {bound}")
    return " ".join([text, *bounds])


def _explain(detail: ErrorDetails) -> str:
    # Locations inside a union or a list end with pydantic's own labels; the key is what precedes.
    known = {field.key: field for field in config_fields()}
    location = [str(part) for part in detail["loc"]]
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return _unknown_key(location)
    for end in range(len(location), 0, -1):
        field = known.get(".".join(location[:end]))
        if field:
            return f"{field.key}: got {_shown(detail['input'])}, takes {field.takes}" + (
                f" ({field.description})" if field.description else ""
            )
    message = detail["msg"].removeprefix("Value error, ")
    if location:
        return f"{'.'.join(location)}: got {_shown(detail['input'])}, takes a section of keys"
    return message


def _unknown_key(location: Sequence[str]) -> str:
    key = ".".join(location)
    known = [field.key for field in config_fields()]
    sections = sorted({name.split(".")[0] for name in known})
    leaf = location[-1]
    named = difflib.get_close_matches(location[0], sections, 1, 0.6)
    inside = [name for name in known if named and name.startswith(f"{named[0]}.")]
    if len(location) == 1 and inside:
        return f"{key}: no such section; did you mean {named[0]}?"
    near = _near(leaf, inside, 0.6)
    if not any(name.endswith(f".{leaf}") for name in near):
        near += [name for name in known if name.rpartition(".")[2] == leaf]  # in another section
    near = near or _near(leaf, known, 0.72)
    if near:
        return f"{key}: no such key; did you mean {' or '.join(near)}?"
    return f"{key}: no such key; there are: {', '.join(inside or sections)}"


def _near(leaf: str, keys: Sequence[str], likeness: float) -> list[str]:
    """Keys whose last part is `leaf`; else those that it shortens; else the one most like it."""
    ends: dict[str, str] = {}
    for key in keys:
        ends.setdefault(key.rpartition(".")[2], key)
    if leaf in ends:
        return [ends[leaf]]
    found = [
        end
        for end in ends
        if end.startswith(f"{leaf}_")
        or end.endswith(f"_{leaf}")
        or leaf == "".join(word[0] for word in end.split("_"))
    ]
    return [ends[end] for end in found or difflib.get_close_matches(leaf, ends, 1, likeness)]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
