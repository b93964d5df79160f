"""The import while it is under way: what the file gives, what has been taken over, what was said.

A handler looks at one key and says exactly one thing about it. Values are checked against our own
configuration as they are taken over, so that one which does not fit is refused under the key of the
file and not under ours.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.fields import unknown_key
from ..config.run_config import ConfigError, RunConfig, config_fields, parse_config
from .files_here import missing_files
from .report import ConvertError, ImportReport, Line, setting

_FIELDS = {field.key: field for field in config_fields()}


class Draft:
    """One import.

    Attributes:
        given: the file's keys that have a value. file: the file. tree: our keys, dotted, so far.
    """

    def __init__(
        self,
        tool: str,
        file: Path,
        given: Mapping[str, Any],
        overrides: Sequence[str] = (),
        ignore: Collection[str] = (),
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.tool = tool
        self.file = file
        self.given = {key: value for key, value in given.items() if not is_empty(value)}
        self.tree: dict[str, Any] = {}
        self._lines: list[Line] = []
        self._overrides = list(overrides)
        self._answered = {_target_of(text) for text in overrides}
        self._ignore = set(ignore)
        self._names = names or {}
        self._waiting: set[str] = set()
        self._set_by: dict[str, str] = {}

    def mapped(self, key: str, value: Any, target: str, result: Any, said: str = "") -> None:
        """Take `result` over into `target`; refuse the key where it does not fit there, and ask
        where another key has said otherwise."""
        problem = _problem(target, result)
        if problem:
            self.refused(key, value, f"does not fit here: {problem}")
            return
        other = self._set_by.setdefault(target, key)
        if other != key and self.tree.get(target) != result:
            why = f"contradicts {self._name(other)}"
            self.asked(key, value, why, setting(target, self.tree[target]), setting(target, result))
            return
        self.tree[target] = result
        self._say(key, value, "mapped", setting(target, result), said)

    def belongs(self, key: str, value: Any, target: str, said: str) -> None:
        """The key was taken over together with another, into `target`."""
        self._say(key, value, "mapped", target, said)

    def ignored(self, key: str, value: Any, why: str) -> None:
        """The key changes nothing here."""
        self._say(key, value, "ignored", None, why)

    def refused(self, key: str, value: Any, why: str) -> None:
        """The key cannot be trained as it is written."""
        self._say(key, value, "refused", None, why)

    def asked(self, key: str, value: Any, why: str, *answers: str) -> None:
        """Ask; `answers` are settings of ours that answer it, `section.key=value`. Without any,
        the only answer is to leave the key out."""
        targets = [answer.partition("=")[0] for answer in answers]
        if given := [target for target in targets if target in self._answered]:
            self._say(key, value, "mapped", given[0], "answered on the command line")
        elif not answers and self._name(key) in self._ignore:
            self.ignored(key, value, "left out, as --ignore says")
        else:
            self._waiting.update(targets)
            how = " or ".join(answers) or f"--ignore {self._name(key)}"
            self._say(key, value, "asked", targets[0] if targets else None, f"{why}; add {how}")

    def unknown(self, key: str, value: Any) -> None:
        """A key that no table knows: it may change the training."""
        self.asked(key, value, "not known, so it may change the training; to leave it out")

    def default(self, key: str, target: str, value: Any, said: str) -> None:
        """The tool's default for a key that the file does not set, where it is not ours."""
        settled = target in self.tree or target in self._waiting or target in self._answered
        if key in self.given or settled or value == _FIELDS[target].default:
            return
        self.tree[target] = value
        self._say(key, None, "defaulted", setting(target, value), said)

    def answered(self, target: str) -> bool:
        """Whether the command line sets this key of ours."""
        return target in self._answered

    def report(self) -> ImportReport:
        """The report, with the configuration where nothing stands in its way.

        Raises:
            ConvertError: an override does not fit, or --ignore names a key that is not there.
        """
        if strange := sorted(self._ignore - {line.key for line in self._lines}):
            raise ConvertError(f"--ignore {strange[0]}: {self.file} sets no such key")
        config = None
        if not any(line.verdict in ("asked", "refused") for line in self._lines):
            config = self._config()
        missing = missing_files(config, self.file) if config else []
        return ImportReport(tool=self.tool, file=str(self.file), lines=(*self._lines, *missing), config=config)

    def _config(self) -> RunConfig:
        try:
            return parse_config(nested(self.tree)).with_overrides(self._overrides)
        except ConfigError as error:
            raise ConvertError(f"{self.file}: with what it was given: {error}") from error

    def _name(self, key: str) -> str:
        return self._names.get(key, key)

    def _say(self, key: str, value: Any, verdict: Any, target: str | None, said: str) -> None:
        self._lines.append(Line(key=self._name(key), value=value, verdict=verdict, target=target, said=said))


def is_empty(value: Any) -> bool:
    """Whether a key is there without a value, as tools' example files have many."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, leaf = key.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[leaf] = value
    return tree


def _target_of(override: str) -> str:
    target, equals, _ = override.partition("=")
    target = target.strip()
    if not equals:
        raise ConvertError(f"{override!r}: an answer is written section.key=value")
    if target not in _FIELDS:
        raise ConvertError(unknown_key(target.split("."), RunConfig))
    return target


def _problem(target: str, value: Any) -> str:
    """What is wrong with a value for a key of ours; empty where it fits."""
    field = _FIELDS[target]
    if isinstance(value, bool) and "true" not in field.takes:
        return f"{target} takes {field.takes}"
    tree = nested({target: value})
    if target == "train.eval_steps":
        tree["data"] = {"eval_fraction": 0.1}  # a cadence alone has nothing to evaluate on
    try:
        parse_config(tree)
    except ConfigError as error:
        return str(error)
    return ""
