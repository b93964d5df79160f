"""What the Data screen shows: the account of the data, and an inspector of its rows.

Nothing here is made for display: `prepare` runs as it does before training, and the inspector looks into the bins that
come of it. So a wrong mask is seen before GPU time is spent on it.

Light: what needs torch or transformers is imported inside `build_preview`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..config import RunConfig
from ..jobs import Job
from .findings import DataCheck
from .report import DataReport

if TYPE_CHECKING:
    from .inspect import Inspector


@dataclass(frozen=True)
class DataPreview:
    report: DataReport
    inspector: "Inspector"
    check: DataCheck | None = None
    """None: the data were not checked."""


def build_preview(config: RunConfig, job: Job[Any]) -> DataPreview:
    """Prepare the data with the model's tokenizer (no weights).

    Raises:
        DataError: as `prepare`.
        LoadError: the model has no tokenizer.
    """
    job.report("loading the tokenizer")
    from ..tokenizer import load_tokenizer
    from .inspect import Inspector
    from .prepare import prepare

    tokenizer = load_tokenizer(config)
    prepared = prepare(config, tokenizer, job.report)
    first = prepared.train.window(0, 0)
    prepared.train.close()
    assert first is not None
    return DataPreview(prepared.report, Inspector(config, tokenizer, prepared.sources, first))
