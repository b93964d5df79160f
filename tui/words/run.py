"""What the Train screen says of a run: words, figures and plots made from its progress.

Nothing here touches a widget. Names and messages are untrusted and pass through `safe_text`.
"""

import math
from dataclasses import dataclass

from textual.content import Content

from ...engine.config.run_config import RunConfig
from ...engine.run.progress import RunProgress
from ...engine.run.summary import RESUMABLE, total_steps_of
from ..safe_text import safe_str, safe_text
from ..state.sources import RunSource
from ..state.story import COMMANDS, count_text, loss_text, rate_text, seconds_text
from .run_figures import STATES, evaluation_words, loss_words, steps_text, time_figure

WINDOWS: tuple[int | None, ...] = (None, 500, 60)
"""Steps that the plots show; None is the whole run."""


ALERT_EVENTS = 30
"""An alert stays beside the state until so many events have come after it."""


def state_of(source: RunSource) -> str:
    """A key of STATES: the run's ShownState, or `reading`."""
    return "reading" if source.loading else source.progress.shown_state(live=not source.done)


def badge(state: str) -> Content:
    glyph, word, style = STATES[state]
    return Content.styled(f"{glyph} {word.upper()}", f"bold ${style}")


def short_name(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]


def recipe_line(config: RunConfig | None, progress: RunProgress) -> Content:
    """`llama-3.1-8b · alpaca 12.4k rows · r16 α32 · nf4 · 1×8 bins of 2048`."""
    if config is None:
        return Content("")
    train, data = config.train, config.data
    rows = f" {count_text(progress.data.kept)} rows" if progress.data else ""
    parts = [
        safe_str(short_name(config.model.name_or_path), 32),
        safe_str("+".join(short_name(each.path) for each in data.sources), 24) + rows,
        f"r{config.adapter.r} α{config.adapter.lora_alpha:g}",
        config.model.quantization if config.model.quantization != "none" else "16-bit",
        f"{train.per_device_train_batch_size}×{train.gradient_accumulation_steps}×{data.max_length} tok",
    ]
    return Content.styled(" · ".join(parts), "$text-muted")


def status_right(source: RunSource) -> Content:
    """Commands that wait for their answer, that none can be given, or what was warned of lately."""
    if source.pending:
        names = ", ".join(COMMANDS.get(name, name) for name in source.pending)
        return Content.styled(f"○ {names} …", "$accent")
    if reason := source.read_only:
        return Content.styled(safe_str(reason.splitlines()[0].split(": ")[0], 70), "$warning")
    alert = source.progress.alerts[-1:]
    if alert and source.progress.last_event - alert[0].n < ALERT_EVENTS:
        return Content.styled(f"! {safe_str(alert[0].message, 60)}", f"bold ${alert[0].level}")
    return Content("")


@dataclass(frozen=True)
class BarView:
    """The progress line: text before the bar, how full it is, and texts after it; the last of them
    are the first to go where there is no room."""

    before: str
    fraction: float | None
    after: tuple[str, ...]


def bar_view(source: RunSource, config: RunConfig | None) -> BarView:
    progress = source.progress
    state = state_of(source)
    if state in ("loading", "ready") and not progress.steps:
        stage = progress.stage
        words = safe_str(stage.stage, 40) if stage else "starting"
        detail = safe_str(stage.detail, 40) if stage and stage.detail else ""
        return BarView(words, stage.fraction if stage else None, (detail,) if detail else ())
    total, step = total_steps_of(progress, config), progress.step
    fraction = step / total if total else None
    before = f"step {steps_text(step, total)}"
    after = [f"{100 * fraction:.0f} %" if fraction is not None else ""]
    left = progress.seconds_left
    if left is not None and state == "training":
        after.append(f"ETA {seconds_text(left)}")
    if progress.steps:
        last = progress.steps[-1]
        epochs = config.train.num_train_epochs if config and not config.train.max_steps else None
        after.append(f"epoch {last.epoch:.2f}" + (f"/{epochs:g}" if epochs else ""))
        after.append(f"{last.seconds:.2f} s/it" if last.seconds < 10 else f"{last.seconds:.0f} s/it")
    return BarView(before, fraction, tuple(text for text in after if text))


Fact = tuple[str, Content]


def facts(source: RunSource, config: RunConfig | None) -> list[Fact]:
    """The live settings: name and value, a handful of rows."""
    progress = source.progress
    rows: list[Fact] = []
    if progress.steps:
        last = progress.steps[-1]
        rows.append(("trained", Content(time_figure(progress.trained_seconds))))
        kind = f" {config.train.lr_scheduler_type}" if config else ""
        held = progress.rate_changes[-1:] and progress.rate_changes[-1].mode == "hold"
        kind = " held" if held else kind
        rows.append(("learning rate", Content(rate_text(last.learning_rate) + kind)))
        clip = f"  clip {config.train.max_grad_norm:g}" if config else ""
        rows.append(("grad norm", Content(f"{last.grad_norm:.3g}{clip}")))
    if config:
        rows += [("evaluate", _evaluate(config, progress)), ("save", _save(config, progress))]
    if progress.parts:
        rows.append(("kernels", parts_summary(progress)))
    if progress.data:
        share = progress.data.trained_tokens / max(1, progress.data.tokens)
        text = f"{count_text(progress.data.tokens)}, {100 * share:.0f} % learnt"
        rows.append(("tokens", Content(text)))
    if progress.model:
        model = progress.model
        text = f"{count_text(model.trainable)} of {count_text(model.parameters)}"
        rows.append(("parameters", Content(text)))
    if progress.started:
        rows.append(("device", safe_text(progress.started.device, 60)))
    return rows


def _evaluate(config: RunConfig, progress: RunProgress) -> Content:
    if progress.data and not progress.data.eval_rows:
        return Content.styled("no rows held out", "$text-muted")
    every = config.train.eval_steps
    text = _every(every) if every else "on e"
    best = min(
        (done for done in progress.evaluations if math.isfinite(done.loss)),
        key=lambda done: done.loss,
        default=None,
    )
    return Content(text + (f", best {loss_text(best.loss)}" if best else ""))


def _every(steps: float) -> str:
    return f"every {steps}" if steps >= 1 else f"every {100 * steps:g} %"


def _save(config: RunConfig, progress: RunProgress) -> Content:
    saved = progress.checkpoints
    last = f", last {saved[-1].step}" if saved else ""
    return Content(f"{_every(config.train.save_steps)}{last}")


def parts_summary(progress: RunProgress) -> Content:
    """How many modules run on our kernels and how many are stock."""
    parts = progress.parts.parts if progress.parts else []
    fast = sum(part.count for part in parts if part.fast)
    stock = sum(part.count for part in parts if not part.fast)
    return Content(f"{fast} fast, {stock} stock")


def resumable(source: RunSource) -> bool:
    """Whether the run can be taken up from a checkpoint now."""
    return source.done and _can_go_on(source)


def _can_go_on(source: RunSource) -> bool:
    return state_of(source) in RESUMABLE and _resume_step(source.progress) is not None


def _resume_step(progress: RunProgress) -> int | None:
    """Step of the newest checkpoint, as far as the run has told."""
    if progress.failed and progress.failed.resume_step is not None:
        return progress.failed.resume_step
    return progress.checkpoints[-1].step if progress.checkpoints else None


def card(source: RunSource) -> Content | None:
    """What has become of a run that does not go on by itself: lines, or None while it does."""
    state = state_of(source)
    if state in ("finished", "stopped"):
        return _end_card(source, state)
    if state in ("failed", "out-of-memory"):
        return _failure_card(source)
    if state == "interrupted":
        text = "✗ The process that trained this run ended before the run did."
        text += "" if _can_go_on(source) else "\n  It had saved nothing to go on from."
        hint = _resume_hint(source, ("6", "other runs"))
        return Content.styled(text, "$error") + Content("\n") + hint
    if state == "waiting":
        text = Content.styled("▲ The run waits: memory ran out, nothing is lost.", "$error")
        if source.read_only:
            return text
        return text + Content("\n") + key_hint(("o", "see what helps"), ("x", "save and stop"))
    return None


def _failure_card(source: RunSource) -> Content:
    failed = source.progress.failed
    message, hint = (failed.message, failed.hint) if failed else ("the run failed", "")
    lines = [Content.styled("✗ ", "bold $error") + safe_text(message, 400, lines=True)]
    if hint:
        lines.append(Content.styled("  " + safe_str(hint, 300), "$text-muted"))
    again = (("1", "look at the settings"), ("2", "at the data"), ("r", "start again"))
    lines.append(_resume_hint(source, *again))
    return Content("\n").join(lines)


def _resume_hint(source: RunSource, *instead: tuple[str, str]) -> Content:
    """The key that takes the run up again, or others where it has no checkpoint."""
    if not _can_go_on(source):
        return key_hint(*instead)
    step = _resume_step(source.progress)
    return key_hint(("r", f"resume from step {step}"), ("6", "other runs"))


def key_hint(*pairs: tuple[str, str]) -> Content:
    """`  4 export   5 chat`, with the keys lit."""
    shown = [Content.styled(key, "bold $accent") + Content(f" {text}") for key, text in pairs]
    return Content("  ") + Content("   ").join(shown)


def _end_card(source: RunSource, state: str) -> Content:
    progress, finished = source.progress, source.progress.finished
    glyph, word, style = STATES[state]
    total = total_steps_of(progress, source.config)
    head = [f" at step {steps_text(progress.step, total)}"]
    seconds = progress.trained_seconds
    head.append("nothing trained" if seconds is None else f"trained {seconds_text(seconds)}")
    if finished and finished.tokens:
        head.append(f"{count_text(finished.tokens)} tokens")
        if seconds:
            head.append(f"{count_text(finished.tokens / seconds)} tok/s")
    title = Content.styled(f"{glyph} {word.capitalize()}", f"bold ${style}")
    lines = [title + Content(", ".join(head))]
    figures = [text for text in (loss_words(progress), evaluation_words(progress)) if text]
    if figures:
        lines.append(Content("  " + " · ".join(figures)))
    again = "go on with it" if _can_go_on(source) else "start the next run"
    if finished and finished.adapter:
        lines.append(key_hint(("4", "export"), ("5", "chat with it"), ("r", again)))
    else:
        lines.append(key_hint(("r", again)))
    return Content("\n").join(lines)
