"""Values as they are shown: numbers short, what a field holds as it would be typed."""

import json
from collections.abc import Sequence
from typing import Any

from ..engine.data.problems.codes import Level
from ..engine.data.report.findings import Place
from ..engine.data.report.report import DataReport, SourceReport

LEVELS: dict[Level, tuple[str, str]] = {
    "red": ("✗", "RED"),
    "amber": ("!", "AMBER"),
    "green": ("✓", "GREEN"),
}
"""Level -> its glyph and its word."""


def field_text(value: Any) -> str:
    """A value as it is shown in a field: null as empty, a list without its brackets, pairs as JSON (which is YAML)."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        alone = not any("," in str(one) for one in value)
        return ", ".join(map(str, value)) if alone else json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False) if value else ""
    if isinstance(value, float):
        return short_number(value)
    return str(value)


def short_number(value: float) -> str:
    """0.0002 -> `2e-4`, 32.0 -> `32`."""
    if value and abs(value) < 1e-2:
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.10g}"


def share_text(share: float) -> str:
    """0.00312 -> `0.31 %`, 0.413 -> `41 %`; what is nearly all is not called all: 0.9996 -> `99.9 %`."""
    percent = 100 * share
    if percent < 10:
        return f"{percent:.2g} %"
    return f"{percent:.0f} %" if not 99 < percent < 100 else f"{int(10 * percent) / 10:.1f} %"


def short_count(number: float) -> str:
    """2623744 -> `2.6 M`."""
    for unit, factor in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number:.0f}"


def counted(count: int, noun: str) -> str:
    """`1 row`, `2,500 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def how_read(source: SourceReport) -> str:
    """How a data set was read, as far as its format does not say it: columns of other names, roles, doubt, what is
    not read."""
    renamed = {key: column for key, column in source.columns.items() if key != column}
    parts = [f"{key} from {column}" for key, column in renamed.items()]
    parts += [f"{count:,} {role}" for role, count in source.roles.items()]
    if source.confidence != "certain":
        parts.insert(0, f"{source.confidence}, not certain: look at a row")
    if source.unread:
        parts.append(f"not read: {', '.join(source.unread)}")
    return ", ".join(parts)


def places_text(places: Sequence[Place], count: int, path: str = "", most: int = 8) -> str:
    """`rows 3, 9 and 12 more`, and of which file.

    Args:
        path: of the one file that there is, which needs no naming; empty: there may be others.
    """
    files = {place.file for place in places}
    several = len(files) > 1
    shown = [f"{place.file}:{place.number}" if several else f"{place.number:,}" for place in places[:most]]
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    of = f" of {files.pop()}" if len(files) == 1 and path not in files else ""
    return f"{'row' if count == 1 else 'rows'} {', '.join(shown)}{more}{of}"


def only_path(report: DataReport) -> str:
    """The path of the data where there is one alone; a folder's is none of its files'."""
    return report.sources[0].path if len(report.sources) == 1 and not report.evaluation else ""
