"""What another tool's file can say of rows. Formats that it cannot are refused, since a file that reads rows wrongly is
worse than none; rows that it does not drop are noted."""

from collections.abc import Mapping

from ..config.codes import DropCode
from ..config.run_config import DataConfig, DataFormat
from .report import ConvertError

WRITABLE: tuple[DataFormat, ...] = (
    "auto", "alpaca", "messages", "sharegpt", "prompt_completion", "text",
)  # fmt: skip


def check_formats(data: DataConfig, tool: str) -> None:
    """Raises:
    ConvertError: a data set has a format that is not written for other tools.
    """
    for place, source in enumerate(data.sources):
        if source.format not in WRITABLE:
            key = f"data.datasets[{place}].format" if data.datasets else "data.format"
            raise ConvertError(refusal(key, source.format, tool, source.path))


def refusal(key: str, what: str, tool: str, path: str) -> str:
    """Why rows are not written for a tool, and what helps."""
    return (
        f"{key}: {what} cannot be written for {tool}; convert the rows of {path} to one of "
        f"{', '.join(WRITABLE[1:])} first"
    )


def drop_notes(data: DataConfig, tool: str, otherwise: Mapping[DropCode, str]) -> list[str]:
    """What a tool does with the rows that `data.drop` names: keeps them, where `otherwise` has no more of a code."""
    own = [f"data.drop={[code]}: {otherwise[code]}" for code in data.drop if code in otherwise]
    kept = [code for code in data.drop if code not in otherwise]
    return [*own, *([f"data.drop={kept}: {tool} keeps such rows"] if kept else [])]
