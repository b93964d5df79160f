"""Which row formats another tool's file can say; the rest is refused, since a file that reads rows wrongly is worse than none."""

from ..config import DataFormat, RunConfig
from .report import ConvertError

_WRITABLE: tuple[DataFormat, ...] = (
    "auto", "alpaca", "messages", "sharegpt", "prompt_completion", "text",
)  # fmt: skip


def check_formats(config: RunConfig, tool: str) -> None:
    """Raises:
    ConvertError: a data set has a format that is not written for other tools.
    """
    for place, source in enumerate(config.data.sources):
        if source.format not in _WRITABLE:
            key = f"data.datasets[{place}].format" if config.data.datasets else "data.format"
            raise ConvertError(
                f"{key}: {source.format} cannot be written for {tool}; convert the rows of {source.path} "
                f"to one of {', '.join(_WRITABLE[1:])} first"
            )
