"""Chat: talk with a run's model, with its adapter, without it, or with both at once.

The model is loaded once, in a job, and the adapter is switched on and off. A run that trains in this app
comes first: the chat refuses to load while it goes, and gives its memory back when one starts. What
the model writes is as untrusted as any file and reaches the screen as plain text only.
"""

import threading
from typing import TYPE_CHECKING, Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Static

from ...engine.machine.jobs import Cancelled, Job
from ...engine.run.directory import RunDirectory, RunError
from ...engine.run.facts import saved_key
from ..safe_text import safe_str, safe_text
from ..state.chat_talk import Side, Talk, answer
from ..value_text import field_text
from ..widgets.conversation import Conversation
from ..widgets.field import TextField
from ..widgets.job_line import JobLine
from ..words import chat, data, export
from .base import EvenfallScreen
from .dialogs.pick_run import pick_run

if TYPE_CHECKING:
    from ...engine.inference.chat import Chat

TRAINING = "the run uses this machine: stop or finish it first (3, then x)"
MODES: dict[str, tuple[Side, ...]] = {
    "tuned": ("tuned",),
    "base": ("base",),
    "both": ("base", "tuned"),
}


def open_chat(run: RunDirectory, job: Job[Any]) -> "Chat":
    """Runs in a job: loads the model."""
    from ...engine.inference.chat import Chat

    return Chat.open(run, job.report)


class ChatScreen(EvenfallScreen):
    NAME = "chat"
    CSS_PATH = "../styles/chat.tcss"

    def __init__(self) -> None:
        super().__init__()
        self._chat: Chat | None = None
        self._key: tuple[object, ...] | None = None
        """What is loaded, is being loaded, or failed to load."""
        self._loading: Job[Chat] | None = None
        self._closing_job: Job[None] | None = None
        self._answering: Job[None] | None = None
        self._stop = threading.Event()
        self._talk = Talk()
        self._mode = "tuned"
        self._enters = True
        """The prompt is to have the focus as soon as one can be sent: who comes here comes to write."""
        self._error = ""
        self._refused: dict[str, str] = {}
        """Id of an option's field -> why what it holds was refused."""
        self._prompts: list[str] = []
        self._recalled = 0
        self._temperature, self._max_tokens = 0.0, 256
        self._system = ""
        self._own_system = False
        """Whether somebody wrote it here."""

    def compose_body(self) -> ComposeResult:
        yield Static("", id="chat-run", markup=False)
        with Horizontal(id="chat-options"):
            yield Static("", id="chat-mode", markup=False)
            yield Static("temperature", classes="chat-label", markup=False)
            yield TextField("0", id="chat-temperature")
            yield Static("max tokens", classes="chat-label", markup=False)
            yield TextField("256", id="chat-tokens")
        with Horizontal(id="chat-system-line"):
            yield Static("system", classes="chat-label", markup=False)
            yield TextField(placeholder="none", id="chat-system")
        yield Static("", id="chat-empty", markup=False)
        yield Conversation(id="chat-talk")
        yield JobLine("esc stops", id="chat-job")
        yield Static("", id="chat-error", markup=False)
        with Horizontal(id="chat-prompt-line"):
            yield Static("›", id="chat-mark", markup=False)
            yield TextField(placeholder="write here, enter sends", id="chat-prompt", draft=True)

    def on_mount(self) -> None:
        super().on_mount()
        self.poll_every(0.25, self._poll)
        # This one goes on while the screen is hidden: a run that starts needs the memory now.
        self.set_interval(1.0, self._make_way)

    def on_screen_resume(self) -> None:
        self._enters = self._enters or not self.shown  # and not from under a dialog

    def on_unmount(self) -> None:
        self._stop.set()

    # Loading

    def source_changed(self) -> None:
        run = self.desk.chosen_run
        if run is not None and not self.desk.busy and self._answering is None:
            saved = saved_key(run)
            if saved is not None and (run.path, saved) != self._key:
                self._load(run, (run.path, saved))
        elif run is None and self._key is not None:  # it was deleted
            self._unload()
            self._key = None
        self._show()

    def _load(self, run: RunDirectory, key: tuple[object, ...]) -> None:
        same_run = self._key is not None and self._key[0] == key[0]
        self._unload()
        if not same_run:
            self._talk = Talk()
            self._own_system = False
            self.run_worker(self.query_one(Conversation).clear())
        self._key, self._error = key, ""
        closing = self._closing_job

        def load(job: "Job[Chat]") -> "Chat":
            if closing is not None:  # two models at once may not fit
                closing.wait()
            if run.is_live():
                raise RunError(
                    "another process trains this run, and a chat would take its memory: i tries again once it has ended"
                )
            chat = open_chat(run, job)
            try:
                job.report("loaded")
            except Cancelled:
                chat.close()
                raise
            return chat

        self._loading = self.desk.start_job(load, "open-chat")
        self._poll()

    def _unload(self) -> None:
        """Let go of the model, or of loading it; an answer under way ends first."""
        self._stop.set()
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        chat, answering, self._chat = self._chat, self._answering, None
        if chat is not None:

            def close(job: Job[None]) -> None:
                if answering is not None:
                    answering.wait()
                chat.close()

            self._closing_job = Job(close, "close-chat")

    def _make_way(self) -> None:
        if self.desk.busy and (self._chat is not None or self._loading is not None):
            self._unload()
            self._key = None
            self._show()

    # Polling

    def _poll(self) -> None:
        if self._loading is not None:
            self._poll_loading(self._loading)
        elif self._answering is not None:
            self._poll_answer(self._answering)

    def _poll_loading(self, job: "Job[Chat]") -> None:
        if not job.done:
            self.query_one(JobLine).set_data(job.message or "loading the model", job.fraction)
            return
        self._loading = None
        self.query_one(JobLine).set_data("")
        if job.cancelled:
            self._error = "Loading was stopped: i loads again."
        elif job.error is not None:
            self._error = job.error
        else:
            self._chat = job.result
            if job.result and not self._own_system:
                self._put_system(job.result.system)
            field = self.query_one("#chat-system", TextField)
            field.disabled = bool(job.result and not job.result.takes_system)
            field.placeholder = "none: this model has no chat template" if field.disabled else "none"
        self._show()

    def _poll_answer(self, job: Job[None]) -> None:
        talk = self.query_one(Conversation)
        for found in self._talk.turns[-1].answers:
            waiting = "answering…" if found.begun else "waits"
            talk.set_answer(found.side, found.text, found.note or waiting)
        if not job.done:
            self.query_one(JobLine).set_data(job.message or "answering")
            return
        self._answering = None
        self.query_one(JobLine).set_data("")
        if job.error is not None:
            self._give_back(job.error)
        elif not any(found.text for found in self._talk.turns[-1].answers):
            for found in self._talk.turns[-1].answers:
                talk.set_answer(found.side, "(an empty answer)", found.note)
        self._show()

    def _give_back(self, error: str) -> None:
        """The prompt failed: it returns to its field, to be mended or sent again."""
        turn = self._talk.turns.pop()
        self._error = error
        self.run_worker(self.query_one(Conversation).drop_last())
        prompt = self.query_one("#chat-prompt", TextField)
        if not prompt.value:
            prompt.put(turn.prompt)
            prompt.action_end()

    # What is shown

    def _show(self) -> None:
        run, talking = self.desk.chosen_run, bool(self._talk.turns)
        reason = self._why_silent()
        loading = self._loading is not None
        self.query_one("#chat-run", Static).update(
            chat.chat_line(run, self._chat, loading=loading, loadable=reason is None)
        )
        self.query_one("#chat-mode", Static).update(chat.chat_mode(self._mode))
        empty = self.query_one("#chat-empty", Static)
        empty.display = not talking
        self.query_one(Conversation).display = talking
        for line in ("#chat-options", "#chat-system-line", "#chat-prompt-line"):
            self.query_one(line).display = reason is None
        if run is None:
            empty.update(export.no_run("to chat with"))
        elif reason:
            empty.update(safe_text(reason[0].upper() + reason[1:] + ".", 300, style="$warning"))
        else:
            empty.update(chat.chat_hint())
        error = self.query_one("#chat-error", Static)
        error.display = bool(self._error)
        error.update(data.failure(self._error) if self._error else "")
        self.refresh_keys()
        if reason:
            self._enters = True
        elif self._enters and self.shown and self.app.screen is self:
            self._enters = False
            if self.focused is None:
                self.query_one("#chat-prompt", TextField).focus()

    def _why_silent(self) -> str | None:
        """Why no prompt can be sent now."""
        run = self.desk.chosen_run
        if run is None:
            return "there is no run yet: 3 starts one"
        if self.desk.busy:
            return TRAINING
        if saved_key(run) is None:
            return "this run has saved nothing yet"
        return None

    # Sending

    @on(TextField.Committed, "#chat-prompt")
    async def _send(self, event: TextField.Committed) -> None:
        text = event.text.strip()
        if not event.entered or not text:
            return
        reason = self._why_silent()
        if self._answering is not None:
            reason = "an answer is on its way: esc stops it"
        elif reason is None and self._chat is None:
            reason = "the model is still being loaded" if self._loading else "the model is not loaded"
        reason = reason or next(iter(self._refused.values()), None)
        chat = self._chat
        if reason or chat is None:
            self.tell(f"Not sent: {reason}", "warning")
            return
        event.field.put("")
        self._error = ""
        self._prompts.append(text)
        self._recalled = len(self._prompts)
        self._stop = threading.Event()
        talk, stop = self._talk, self._stop
        turn = talk.begin(text, MODES[self._mode])
        system, temperature, tokens = self._system, self._temperature, self._max_tokens
        sides = [(found.side, found.side == "tuned") for found in turn.answers]
        self._show()
        await self.query_one(Conversation).add_turn(text, sides)
        self._answering = Job(lambda job: answer(chat, talk, stop, system, temperature, tokens, job), "chat-answer")
        self._poll()

    def _put_system(self, text: str) -> None:
        """The system text that the model was trained with is asked, until another is written."""
        self._system = text
        self.query_one("#chat-system", TextField).put(safe_str(text, 4096))

    @on(TextField.Committed, "#chat-system")
    def _set_system(self, event: TextField.Committed) -> None:
        if event.text != safe_str(self._system, 4096):  # what is shown has no lines, what is asked does
            self._system, self._own_system = event.text.strip(), True

    @on(TextField.Committed, "#chat-temperature")
    def _set_temperature(self, event: TextField.Committed) -> None:
        value = _number(event.text, 0.0, 2.0)
        if value is None:
            why = "temperature: takes a number from 0 to 2"
            self._refuse(event.field, why, field_text(self._temperature))
        else:
            self._temperature = value
            self._accept(event.field)

    @on(TextField.Committed, "#chat-tokens")
    def _set_tokens(self, event: TextField.Committed) -> None:
        value = _number(event.text, 1, 32_768)
        if value is None or value != int(value):
            why = "max tokens: takes a whole number from 1 to 32768"
            self._refuse(event.field, why, field_text(self._max_tokens))
        else:
            self._max_tokens = int(value)
            self._accept(event.field)

    def _refuse(self, field: TextField, why: str, stands: str) -> None:
        """Nothing is sent while an option's field shows another value than would be used."""
        field.refuse(stands)
        self._refused[field.id or ""] = self._error = why
        self._show()

    def _accept(self, field: TextField) -> None:
        field.mark_bad(False)
        self._refused.pop(field.id or "", None)
        self._error = next(iter(self._refused.values()), "")
        self._show()

    @on(TextField.GivenUp)
    def _given_up(self, event: TextField.GivenUp) -> None:
        self._accept(event.field)

    # Verbs

    def why_not(self, verb: str) -> str | None:
        if verb == "write":
            return self._why_silent()
        if verb == "unload" and self._chat is None:
            return "no model is loaded"
        if verb in ("new_chat", "unload", "chat_pick") and self._answering is not None:
            return "an answer is on its way: esc stops it"
        if verb == "new_chat" and not self._talk.turns:
            return "there is no conversation yet"
        if verb == "chat_pick" and self.desk.chosen_run is None:
            return "there is no run yet: 3 starts one"
        if verb == "recall" and not self._prompts:
            return "there is no prompt yet"
        return None

    def verb_title(self, verb: str) -> str | None:
        if verb == "adapter":
            return "Base" if self._mode == "tuned" else "Tuned"
        return "One answer" if verb == "compare" and self._mode == "both" else None

    def action_write(self) -> None:
        run = self.desk.chosen_run
        if run is not None and self._chat is None and self._loading is None:
            self._load(run, (run.path, saved_key(run)))
            self._show()
        self.query_one("#chat-prompt", TextField).focus()

    def action_adapter(self) -> None:
        self._mode = "base" if self._mode == "tuned" else "tuned"
        self._show()

    def action_compare(self) -> None:
        self._mode = "tuned" if self._mode == "both" else "both"
        self._show()

    async def action_new_chat(self) -> None:
        self._talk = Talk()
        await self.query_one(Conversation).clear()
        self._show()

    def action_unload(self) -> None:
        self._unload()
        self._show()

    def action_chat_pick(self) -> None:
        pick_run(self)

    def action_recall(self) -> None:
        prompt = self.query_one("#chat-prompt", TextField)
        self._recalled = max(0, self._recalled - 1)
        with prompt.prevent(Input.Changed):
            prompt.put(self._prompts[self._recalled])
        prompt.focus()
        prompt.action_end()

    def action_stop_answer(self) -> None:
        if self._answering is not None:
            self._stop.set()
        elif self._loading is not None:
            self._loading.cancel()
        else:
            self.set_focus(None)


def _number(text: str, low: float, high: float) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if low <= value <= high else None
