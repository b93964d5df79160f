"""The preflight: what is wrong with data that were prepared, how grave it is, and what settles it.

Most of it was told while the rows were tokenised (`row_problems.py`) and is only summed up here. What lies between rows
(duplicates, near-duplicates, rows that are evaluated on too) and in the tokenizer is looked for now, in the
very examples that will be trained on. Of a stream that is its first window. Rows of a
file of their own that are evaluated on are looked at like those that are trained on.

A finding that is rare is amber even where its kind is grave: one row of a thousand ends no run. So are copies of rows
that were held out at random (data.eval_fraction): nobody said that they are other rows, as data.eval_path does.
"""

import itertools
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..config.run_config import RunConfig
from ..model.source import context_length, embedded_tokens, ends_of_generation, learnt_positions
from .errors import DataError, shown
from .formats.normal import LABELLED_BAD
from .pack.examples import Examples
from .prepare.block import CUT_AWAY, TOO_LONG, note_rows
from .prepare.dropping import NEAR
from .prepare.prepare import PreparedData, is_streamed
from .problems import codes
from .problems.codes import BAD, DROP_CODES, KEEP_CODES, PROBLEMS, Level, in_words
from .problems.duplicates import Seen, row_hashes
from .problems.near_duplicates import near_copies, near_duplicates
from .problems.tokenizer import check_tokenizer
from .report.findings import DataCheck, Finding, Fix, Place, Statistics
from .report.places import Places
from .report.report import DataReport
from .statistics import round_up, statistics_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GRAVE_SHARE = 0.1
"""Of the rows, or of those that are evaluated on: from here on what is called red is."""
_LEFTOVER_SHARE = 0.02
"""Of the rows: from here on placeholders are an alarm."""
_MOST = 0.5
"""Of the rows: where more are left out than learnt, it was hardly meant."""
_LEVELS: tuple[Level, ...] = ("red", "amber", "green")
_OF_REASON = {
    **{in_words(code): code for code in DROP_CODES},
    CUT_AWAY: codes.CUT_AWAY,
    TOO_LONG: codes.TOO_LONG,
    LABELLED_BAD: None,  # as they should be
}
"""Why a row was dropped -> the code of that; all other reasons come down to nothing to learn."""
_TOKENIZER = (codes.PAD_IS_EOS, codes.EOS_DIFFERS, codes.SPECIAL_SPLIT, codes.TEMPLATE_REPLACED)
"""What is told of the tokenizer; with the model's context, what is told of no row."""


def check_data(
    config: RunConfig,
    prepared: PreparedData,
    tokenizer: "PreTrainedTokenizerBase",
    near: bool = True,
    pace: float | None = None,
) -> DataCheck:
    """Look at data before they are trained on.

    Args:
        prepared: with `data.drop` of `config`, and `bad` besides where rows that cannot be read are to be a
            finding, not an error.
        near: look for near-duplicates, some ten seconds for ten million tokens.
        pace: tokens/s, to tell how long the run takes; None where it is not known.
    """
    window = prepared.train.window(0, 0)
    assert window is not None
    examples = window.examples
    found = Places()
    bad = ""
    accounts = list(prepared.accounts)
    if prepared.tested is not None and prepared.tested.account is not None:
        accounts.append(prepared.tested.account)
    for account in accounts:
        found.add(account.found)
        for reason in account.dropped.counts:
            code = _OF_REASON.get(reason, codes.NOTHING_TO_LEARN)
            if code is not None:
                found.add_kind(code, account.dropped, reason)
        bad = bad or "".join(account.errors[0] if account.errors else ())
    evaluation = prepared.tested.examples if prepared.tested else None
    for part in (examples, *([evaluation] if evaluation is not None else [])):
        _require_embedded(part, embedded_tokens(config.model), tokenizer)
    _compare(found, _each_once(examples), evaluation, near)
    context = context_length(config.model)
    statistics = statistics_of(config, prepared, window, pace, context)
    held_whole = not is_streamed(config.data, sum(source.size for source in prepared.sources))
    droppable = {code for code in DROP_CODES if held_whole or code not in NEAR}
    length = _longer(config.data.max_length, statistics)
    findings = [
        _finding(config, code, found, prepared.report, bad, length, droppable)
        for code in PROBLEMS
        if code not in (*_TOKENIZER, codes.BEYOND_CONTEXT)
        and (near or code not in NEAR)
        and (prepared.tested or code not in (codes.LEAK, codes.NEAR_LEAK))
    ]
    own = config.data.chat_template is None
    about = check_tokenizer(tokenizer, examples, own, ends_of_generation(config.model))
    findings += [_of_model(config, code, about.get(code)) for code in _TOKENIZER]
    if context is not None:
        beyond = learnt_positions(config.model) and int(examples.lengths.max(initial=0)) > context
        findings.append(_of_context(config, context, "red" if beyond else "amber"))
    findings.sort(key=lambda one: (_LEVELS.index(one.level), not one.count))
    open_ = [one.code for one in findings if one.level != "green" and one.code in droppable and one.code not in NEAR]
    drop_all = _drop(config, open_) if len(open_) > 1 else ""
    notes = tuple(_notes(prepared, near))
    return DataCheck(
        report=prepared.report,
        findings=tuple(findings),
        statistics=statistics,
        drop_all=drop_all,
        notes=notes,
    )


def require_no_red(check: DataCheck) -> None:
    """Raises:
    DataError: something red was found; the message has the settings that go on.
    """
    red = check.of_level("red")
    if red:
        each = [
            f"{one.text} ({one.meaning}). To go on, set "
            + ", or ".join(f"{fix.override} ({fix.meaning})" for fix in one.fixes)
            for one in red
        ]
        raise DataError(f"the check of the data ends the run: {'; '.join(each)}")


def _compare(found: Places, examples: Examples, evaluation: Examples | None, near: bool) -> None:
    hashes = row_hashes(examples)
    again = ~Seen().add(hashes)
    note_rows(found, codes.DUPLICATE, examples, again)
    leaks = np.zeros(len(again), bool)
    if evaluation is not None:
        leaks = Seen(row_hashes(evaluation)).has(hashes)
        note_rows(found, codes.LEAK, examples, leaks)
    if near:
        alike = np.zeros(len(again), bool)
        alike[~again] = near_duplicates(examples.of_these_rows(np.flatnonzero(~again)))
        note_rows(found, codes.NEAR_DUPLICATE, examples, alike)
        if evaluation is not None:
            near_leaks = near_copies(examples, evaluation) & ~leaks
            note_rows(found, codes.NEAR_LEAK, examples, near_leaks)


def _each_once(examples: Examples) -> Examples:
    """Without the repeats of rows that a weight makes."""
    firsts = np.searchsorted(examples.rows, np.arange(examples.row_count))
    kept = np.sort(np.unique(examples.places[firsts], return_index=True)[1])
    return examples if len(kept) == examples.row_count else examples.of_these_rows(kept)


def _finding(
    config: RunConfig,
    code: str,
    found: Places,
    report: DataReport,
    bad: str,
    length: Fix | None,
    droppable: Collection[str],
) -> Finding:
    problem, count = PROBLEMS[code], found.counts[code]
    if not count:
        return Finding(code=code, level="green", count=0, text=problem.none)
    level = problem.level
    if (code == codes.END_UNTRAINED and count < _GRAVE_SHARE * report.rows) or (
        code == codes.LEAK and (config.data.eval_path is None or count < _GRAVE_SHARE * report.eval_rows)
    ):
        level = "amber"
    if code == codes.PLACEHOLDERS and count < _LEFTOVER_SHARE * report.rows:
        level = "green"  # a few among thousands may well be meant
    if code in (codes.CUT_AWAY, codes.NOTHING_TO_LEARN) and count > _MOST * report.rows:
        level = "red"
    text = f"rows that {problem.title}: {count:,}"
    if code == BAD:
        text += f"; the first: {bad}"
    places = tuple(itertools.starmap(Place, found.first[code]))
    if (settled := _settled(config, code)) is not None:
        return Finding(
            code=code,
            level="green",
            count=count,
            text=text,
            meaning=settled[0],
            places=places,
            fixes=settled[1:],
        )
    fixes = tuple(_fixes(config, code, length, code in droppable))
    return Finding(
        code=code,
        level=level,
        count=count,
        text=text,
        meaning=problem.meaning,
        places=places,
        fixes=fixes,
    )


def _require_embedded(examples: Examples, embedded: int | None, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises:
    DataError: a token is beyond the model's embeddings; on a GPU that is a device assert in the middle of a step.
    """
    if embedded is None or not len(examples.ids) or int(examples.ids.max()) < embedded:
        return
    at = int(np.argmax(examples.ids >= embedded))
    one = int(np.searchsorted(np.cumsum(examples.lengths), at, side="right"))
    token = int(examples.ids[at])
    raise DataError(
        f"{examples.files[examples.file[one]]}: row {examples.numbers[one]}: holds the token "
        f"{shown(tokenizer.convert_ids_to_tokens(token))}, number {token:,}, and the model has embeddings for "
        f"{embedded:,} tokens: this tokenizer has more than the model",
        "take the model with the tokenizer that it came with, or leave out the rows that hold the token",
    )


def _of_context(config: RunConfig, context: int, level: Level) -> Finding:
    now = config.data.max_length
    if now <= context:
        return _of_model(config, codes.BEYOND_CONTEXT, None)
    shorter = Fix("length", f"data.max_length={context}", "bins as long as the context")
    about = f"{now:,} tokens, it has {context:,}"
    if level == "red":
        problem = PROBLEMS[codes.BEYOND_CONTEXT]
        return Finding(
            code=codes.BEYOND_CONTEXT,
            level="red",
            count=1,
            text=f"{problem.title}: {about}",
            meaning="this model has no positions beyond it: training ends with an error at the first such row",
            fixes=(shorter,),
        )
    return _of_model(config, codes.BEYOND_CONTEXT, about, shorter)


def _of_model(config: RunConfig, code: str, about: str | None, *fixes: Fix) -> Finding:
    problem = PROBLEMS[code]
    if about is None:
        return Finding(code=code, level="green", count=0, text=problem.none)
    text = f"{problem.title}: {about}"
    if (settled := _settled(config, code)) is not None:
        return Finding(
            code=code,
            level="green",
            count=1,
            text=text,
            meaning=settled[0],
            places=(),
            fixes=settled[1:],
        )
    if problem.level != "green":
        fixes = (*fixes, _keep(config, code))
    return Finding(
        code=code,
        level=problem.level,
        count=1,
        text=text,
        meaning=problem.meaning,
        places=(),
        fixes=fixes,
    )


def _settled(config: RunConfig, code: str) -> tuple[str, Fix] | None:
    """What the configuration says of a problem, and what takes that back; None: nothing."""
    drop, keep = list(config.data.drop), list(config.data.keep)
    if code in drop:
        back = _setting("drop", [one for one in drop if one != code])
        return "settled: data.drop leaves them out", Fix("drop", back, "take these rows in again")
    if code in keep:
        back = _setting("keep", [one for one in keep if one != code])
        return "settled: data.keep names it", Fix("keep", back, "hold it for a problem again")
    return None


def _fixes(config: RunConfig, code: str, length: Fix | None, can_be_dropped: bool) -> Iterator[Fix]:
    if can_be_dropped:
        yield Fix("drop", _drop(config, [code]), "leave these rows out")
    elif code == codes.CUT:
        yield Fix("drop", "data.over_long=drop", "leave out rows that are too long")
    elif code == codes.TOO_LONG:
        yield Fix("cut", "data.over_long=cut", "keep them, their ends cut")
    if length is not None and code in (codes.CUT, codes.CUT_AWAY, codes.TOO_LONG):
        yield length
    if code in KEEP_CODES:
        yield _keep(config, code)


def _longer(now: int, statistics: Statistics) -> Fix | None:
    """To the length that holds 95 of 100 rows, or all where it is that already; never beyond the model's context."""
    length = statistics.recommended_length
    rest = f"rows still longer: {statistics.over_recommended:,}"
    if length <= now:
        length, rest = round_up(statistics.percentiles["longest"]), "rows still longer: 0"
    if statistics.context is not None and length > statistics.context:
        length, rest = statistics.context, "the model has no more context"
    if length <= now:
        return None
    meaning = f"longer bins ({length / now:.2g} x the activations); {rest}"
    return Fix("length", f"data.max_length={length}", meaning)


def _drop(config: RunConfig, more: list[str]) -> str:
    return _setting("drop", [*config.data.drop, *more])


def _setting(key: str, codes: list[str]) -> str:
    return f"data.{key}=[{','.join(dict.fromkeys(codes))}]"


def _keep(config: RunConfig, code: str) -> Fix:
    return Fix("keep", _setting("keep", [*config.data.keep, code]), "it is meant: say no more of it")


def _notes(prepared: PreparedData, near: bool) -> Iterator[str]:
    for source in prepared.report.sources:
        if source.only_first:
            yield f"only the first {source.rows:,} rows of {source.path} are taken (data.max_rows)"
    if prepared.report.share < 1:
        share = f"{100 * prepared.report.share:.2g} %"
        yield f"the data are streamed: the first window was looked at, about {share} of the rows"
    if not near:
        yield "near-duplicates were not looked for"
    if prepared.evaluation is None:
        yield "nothing is held out (data.eval_fraction, data.eval_path): leaks were not looked for"
