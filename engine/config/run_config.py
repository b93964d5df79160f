"""RunConfig: everything that decides a run, as one tree.

The same object is a YAML file, a form on screen and `section.key=value` overrides on the command
line, so there is one place where a key is named, described, bounded and checked. Names are those of
the ecosystem: PEFT's for the adapter, TRL's and transformers' for data and training. Reading is
strict: an unknown key is an error that proposes the nearest known one, because a misspelt key that
is ignored costs somebody a night of GPU time.

This module is light (no torch): the screens import it before their first paint.
"""

import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ...presets.load import chat_template_names
from ..errors import UserError
from .codes import DropCode, KeepCode
from .fields import ConfigField, explain, shown, unknown_key, walk
from .yaml12 import dump_yaml, load_yaml


class ConfigError(UserError):
    """A configuration that cannot be used; the message names every key at fault and the fix."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True)


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
    use_double_quant: bool = Field(
        default=True,
        description="nf4: quantise the scales too, 0.4 bits less a weight (bitsandbytes' name)",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="run Python code that comes with the model: only if you trust its author",
    )


class AdapterConfig(_Section):
    """LoRA (Hu et al. 2021), in PEFT's names. Adapter weights are kept in float32."""

    r: int = Field(default=16, ge=1, le=1024, description="rank")
    lora_alpha: float = Field(default=32, gt=0, description="the update is scaled by lora_alpha / r")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = Field(
        default="all-linear", description="`all-linear`, or names such as [q_proj, v_proj]"
    )
    use_rslora: bool = Field(default=False, description="scale by lora_alpha / sqrt(r) (rank-stabilised)")


DataFormat = Literal[
    "auto", "alpaca", "messages", "sharegpt", "prompt_completion", "text", "preference", "kto",
    "tokens", "segments",
]  # fmt: skip


Role = Literal["user", "assistant", "system", "tool"]


class DatasetConfig(_Section):
    """One data set of a mix."""

    path: str = Field(min_length=1, description="file, folder, hub id, or `demo`")
    name: str | None = Field(default=None, description="configuration of a hub data set")
    split: str = Field(default="train", min_length=1, description="split of a hub data set, a folder or an object")
    format: DataFormat = Field(default="auto", description="row format; auto detects it and says which")
    columns: dict[str, str] = Field(default={}, description="the format's key -> the column that holds it")
    ignore: list[str] = Field(default=[], description="columns that are known and not meant to be read")
    roles: dict[str, Role] = Field(default={}, description="a name that turns have for a role -> the role it is")
    header: bool | None = Field(
        default=None,
        description="whether a table's first line names its columns; null: it does, unless it looks like data",
    )
    max_rows: int | None = Field(default=None, ge=1, description="take only the first rows")
    weight: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="passes over it in an epoch: 0.5 takes half of its rows, 2 each row twice",
    )


class DataConfig(_Section):
    """What is learnt from, and how a row becomes tokens."""

    path: str | None = Field(
        default="demo",
        min_length=1,
        description="file (json, jsonl, csv, parquet, txt, ...), folder, hub id, or `demo`; null: see datasets",
    )
    name: str | None = Field(default=None, description="configuration of a hub data set")
    split: str = Field(default="train", min_length=1, description="split of a hub data set, a folder or an object")
    format: DataFormat = Field(default="auto", description="row format; auto detects it and says which")
    columns: dict[str, str] = Field(default={}, description="the format's key -> the column that holds it")
    ignore: list[str] = Field(default=[], description="columns that are known and not meant to be read")
    roles: dict[str, Role] = Field(default={}, description="a name that turns have for a role -> the role it is")
    header: bool | None = Field(
        default=None,
        description="whether a table's first line names its columns; null: it does, unless it looks like data",
    )
    max_rows: int | None = Field(default=None, ge=1, description="take only the first rows")
    datasets: list[DatasetConfig] = Field(default=[], description="several data sets, mixed, instead of path")
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="a template's name (chatml, llama-3, ...), a jinja file, or jinja text; null: the tokenizer's own",
    )
    date: datetime.date | None = Field(
        default=None,
        description="the day that a chat template which writes one is given; null: the day on which the run begins, "
        "which is kept with it",
    )
    drop_system: bool = Field(default=False, description="leave out system messages")
    assistant_turns: Literal["all", "last"] = Field(
        default="all", description="which answers of a conversation are learnt"
    )
    max_length: int = Field(default=2048, ge=8, description="tokens in a bin; no row may be longer")
    over_long: Literal["cut", "drop"] = Field(
        default="cut",
        description="a row longer than max_length: cut its end, or drop it (both counted)",
    )
    assistant_only_loss: bool = Field(default=True, description="learn the answers only; false learns prompts too")
    drop: list[DropCode] = Field(
        default=[], description="rows to leave out: `evenfall data check` names their problems"
    )
    keep: list[KeepCode] = Field(default=[], description="problems that are known and meant: they hold no run up")
    eval_path: str | None = Field(default=None, min_length=1, description="held-out file; default: taken from `path`")
    eval_fraction: float = Field(default=0.0, ge=0, le=0.5, description="share of the rows held out for evaluation")
    shuffle: bool = Field(default=True, description="new order of bins each epoch, from train.seed")

    @model_validator(mode="before")
    @classmethod
    def _datasets_alone(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("datasets") and "path" not in given:
            return {**given, "path": None}
        return given

    @model_validator(mode="after")
    def _one_source(self) -> "DataConfig":
        if (self.path is None) != bool(self.datasets):
            if self.path is None:
                raise ValueError(
                    "data.path is empty, and data.datasets too: name a file, a folder, a hub id or "
                    "`demo` in data.path, or several data sets in data.datasets"
                )
            raise ValueError(
                "data.path names one data set and data.datasets several: give one of the two, and "
                "null for data.path where there are several"
            )
        return self

    def read_alike(self, path: str) -> DatasetConfig:
        """Another file, read as these rows are: the one that is evaluated on."""
        return DatasetConfig(
            path=path, name=self.name if path == self.path else None, format=self.format, columns=self.columns,
            ignore=self.ignore, roles=self.roles, header=self.header,
        )  # fmt: skip

    @property
    def sources(self) -> list[DatasetConfig]:
        """The data sets, however they were named."""
        if self.path is None:
            return self.datasets
        return [
            DatasetConfig(
                path=self.path, name=self.name, split=self.split, format=self.format,
                columns=self.columns, ignore=self.ignore, roles=self.roles,
                header=self.header, max_rows=self.max_rows,
            )
        ]  # fmt: skip


Optim = Literal["adamw_torch", "adamw_8bit"]


class TrainConfig(_Section):
    """The loop: length, batch, optimiser, cadence, and what happens when memory runs out."""

    num_train_epochs: float = Field(default=1.0, gt=0, description="passes over the data")
    max_steps: int | None = Field(default=None, ge=1, description="optimiser steps; overrides epochs")
    per_device_train_batch_size: int = Field(default=1, ge=1, description="packed bins in a micro-batch")
    gradient_accumulation_steps: int = Field(default=8, ge=1, description="micro-batches in one update")
    optim: Optim = Field(
        default="adamw_torch",
        description="adamw_torch: AdamW; adamw_8bit: its moments in 8 bits, a quarter of their "
        "memory, about the same result",
    )
    learning_rate: float = Field(default=2e-4, ge=0, le=10, description="peak learning rate")
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the rate falls after the warm-up"
    )
    warmup_steps: int | float = Field(
        default=5,
        ge=0,
        description="optimiser steps of linear warm-up; below 1: share of all steps",
    )
    weight_decay: float = Field(default=0.0, ge=0, le=1, description="AdamW's decay of the adapter's weights")
    max_grad_norm: float = Field(default=1.0, gt=0, description="clip the gradient's norm to this")
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean gradient")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of its square's mean")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="keeps AdamW's division finite")
    gradient_checkpointing: bool = Field(
        default=False,
        description="recompute every layer in the backward: least memory, about 30 % slower; false: "
        "only as many as the GPU's memory forces",
    )
    eval_steps: int | float | None = Field(
        default=None, gt=0, description="evaluate every so many steps; below 1: share of all steps"
    )
    save_steps: int | float = Field(
        default=100, gt=0, description="checkpoint every so many steps; below 1: share of all steps"
    )
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

    @field_validator("warmup_steps", "eval_steps", "save_steps")
    @classmethod
    def _whole_or_share(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("steps are whole")
        return value if value is None or value < 1 else int(value)


class ExportConfig(_Section):
    """What `evenfall export` writes when it is given no form."""

    forms: list[Literal["adapter", "merged"]] = Field(
        default=["adapter"], min_length=1, description="what is written, such as [adapter, merged]"
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(default="bfloat16", description="dtype of merged weights")
    max_shard_size_gb: float = Field(default=5.0, gt=0, description="GB per merged safetensors file")


class RunConfig(_Section):
    """One run. `RunConfig()` is the demo's model and data with a usable recipe."""

    name: str | None = Field(
        default=None,
        pattern=r"^[\w][\w.\-]{0,63}$",
        description="run name: up to 64 letters, digits, `.`, `_` and `-`; default: model, data, time",
    )
    output_dir: str = Field(default="runs", min_length=1, description="folder that holds run directories")
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
        return dump_yaml(self.model_dump(mode="json"))

    def with_whole_paths(self) -> "RunConfig":
        """A copy in which files and folders that are there are named from the root: it means the same from any
        folder. Hub ids and names stay."""
        model = self.model.model_copy(update={"name_or_path": _whole_path(self.model.name_or_path)})
        sets = [one.model_copy(update={"path": _whole_path(one.path)}) for one in self.data.datasets]
        paths = {key: _whole_path(getattr(self.data, key)) for key in ("path", "eval_path")}
        if self.data.chat_template not in chat_template_names():  # a name comes before a file that is called so
            paths["chat_template"] = _whole_path(self.data.chat_template)
        data = self.data.model_copy(update={"datasets": sets, **paths})
        return self.model_copy(update={"model": model, "data": data})

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
                    raise ConfigError(unknown_key(path.strip().split("."), RunConfig))
                node = inner
            try:
                node[key] = load_yaml(text)
            except (yaml.YAMLError, ValueError) as error:
                raise ConfigError(f"{path}: cannot read {shown(text)} as a value: {error}") from error
            if path.strip() == "data.path" and node[key] is not None:
                node["datasets"] = []  # what is given last stands: one data set, or several
            elif path.strip() == "data.datasets" and node[key]:
                node["path"] = None
        return parse_config(tree)


def _whole_path(named: str | None) -> str | None:
    """A path from the root; the name itself where nothing is there."""
    if named is None or named == "demo" or "\n" in named:
        return named
    path = Path(named).expanduser()
    try:
        return str(Path.cwd() / path) if path.exists() else named
    except OSError:  # a template's text is too long for a name
        return named


def parse_config(tree: Any, source: str = "") -> RunConfig:
    """Check a tree of plain values (as YAML gives it) and return the RunConfig.

    Raises:
        ConfigError: one line for each key at fault: what it got, what it takes, the nearest key.
    """
    where = f"{source}: " if source else ""
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}expected sections such as `model:` and `data:`, got {shown(tree)}")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        seen: dict[str, None] = {}
        for detail in error.errors(include_url=False, include_context=True):
            seen[where + explain(detail, RunConfig)] = None
        raise ConfigError("\n".join(seen)) from None


_AT_LEAST = """\
write at least which model and which data, such as
  model:
    name_or_path: Qwen/Qwen2.5-0.5B-Instruct
  data:
    path: rows.jsonl
(`demo` in both places is the demo)"""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a `run.yaml` and apply overrides.

    Raises:
        ConfigError: the file is missing, is no YAML, says nothing, or has keys or values at fault.
    """
    if path == "":
        raise ConfigError("the path of the run.yaml is empty", "name the file, such as run.yaml")
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    try:
        tree = load_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if tree is None or tree == {}:  # a file that was cut off or forgotten is no wish for the demo
        raise ConfigError(f"{path}: is empty: it sets no key", _AT_LEAST)
    return parse_config(tree, str(path)).with_overrides(overrides)


def config_fields() -> Iterator[ConfigField]:
    """Every key that can be set, in the order of the file."""
    yield from walk(RunConfig)
