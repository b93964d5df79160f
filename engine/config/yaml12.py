"""YAML as people mean it: `1e-4` is a number, `no` and `on` are words, a key stands once.

PyYAML reads YAML 1.1, where `no` is false, `1e-4` a text and `010` the number 8, and the last of two equal keys
wins without a word. Reading here follows YAML 1.2's rules for plain values; writing quotes every text that either
version would read as something else.
"""

import re
from typing import Any

import yaml


def load_yaml(text: str) -> Any:
    """Plain values, lists and mappings.

    Raises:
        yaml.YAMLError, ValueError: it is no YAML, or sets a key twice.
    """
    return yaml.load(text, _Yaml12Loader)


def dump_yaml(tree: Any) -> str:
    """Block style, keys in their order."""
    return yaml.dump(tree, Dumper=_QuotingDumper, sort_keys=False, allow_unicode=True, width=100)


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
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _construct_int(loader: _Yaml12Loader, node: Any) -> int:
    return int(loader.construct_scalar(node))  # PyYAML's own would read 010 as the octal 8


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


class _QuotingDumper(yaml.SafeDumper):
    """SafeDumper that quotes every text which YAML 1.1 or the loader above would read as another."""


_QuotingDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Yaml12Loader.yaml_implicit_resolvers.get(first, [])
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Yaml12Loader.yaml_implicit_resolvers}
}


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes have escapes; in the other styles U+0085 would come back as a blank.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_QuotingDumper.add_representer(str, _represent_text)
