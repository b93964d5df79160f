"""What the Data screen and `evenfall data check` show: the account of the data, what is wrong with them, and an
inspector of their rows.

Nothing here is made for display: `prepare` runs as it does before training, and the inspector looks into the bins that
come of it. So a wrong mask is seen before GPU time is spent on it.

Light: what needs torch or transformers is imported inside `build_preview`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...config.run_config import RunConfig
from ..formats.detect import ways_to_read
from ..formats.ways import UndecidedFormat
from ..problems.codes import BAD
from ..report.findings import DataCheck
from ..report.report import DataReport

if TYPE_CHECKING:
    from .first_row import FirstRow
    from .inspect import Inspector


@dataclass(frozen=True, kw_only=True)
class DataPreview:
    report: DataReport
    inspector: "Inspector"
    check: DataCheck
    question: UndecidedFormat | None = None
    """How else the rows may be read, for who takes it otherwise; None of several data sets, or of running text."""


def build_preview(
    config: RunConfig,
    report: Callable[[str, float | None], None],
    pace: float | None = None,
    first_told: "Callable[[FirstRow], None] | None" = None,
) -> DataPreview:
    """Prepare the data with the model's tokenizer (no weights), and check them. Rows that cannot be read or rendered,
    which end a run, are a finding here, so that all of them can be looked at.

    Args:
        report: is told the stage and how far it is; what it raises ends the work.
        pace: tokens/s of training, where it is known.
        first_told: is told the first row that something is learnt of, before the rest is read.

    Raises:
        DataError: as `prepare`.
        LoadError: the model has no tokenizer.
    """
    report("loading the tokenizer", None)
    from ...model.tokenizer import load_tokenizer
    from ..check import check_data
    from ..prepare.prepare import prepare
    from ..prepare.source import Source
    from .first_row import first_row
    from .inspect import Inspector

    tokenizer = load_tokenizer(config)
    data = config.data.model_copy(update={"drop": [*config.data.drop, BAD]})

    def begun(source: Source) -> None:
        first = first_row(source, data, tokenizer) if first_told is not None else None
        if first_told is not None and first is not None:
            first_told(first)

    prepared = prepare(config.model_copy(update={"data": data}), tokenizer, report, first_begun=begun)
    try:
        report("looking for duplicates", None)
        check = check_data(config, prepared, tokenizer, pace=pace)
        first = prepared.train.window(0, 0)
    finally:
        prepared.train.close()
    assert first is not None
    tested = prepared.tested and prepared.tested.source
    inspector = Inspector(config, tokenizer, prepared.sources, first, tested)
    question = None
    if len(prepared.sources) == 1:
        good = next((row for row in prepared.sources[0].first.rows if not row.broken), None)
        question = ways_to_read(good) if good is not None else None
    return DataPreview(report=check.report, inspector=inspector, check=check, question=question)
