"""The Chat screen: one loaded model that answers tuned, base or both, and yields to a run."""

import threading
from types import SimpleNamespace

import pytest
from waiting import until

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run.directory import RunDirectory
from evenfall.engine.run.find import create_run
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import chat as chat_screen
from evenfall.tui.widgets.field import TextField

SIZES = [(120, 36), (80, 24)]


class FakeChat:
    """Answers with what it was asked; `hold` keeps it from ending."""

    device = "NVIDIA H200"
    system = ""
    takes_system = True

    def __init__(self) -> None:
        self.asked: list[tuple[list[dict[str, str]], dict]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.fail = ""
        self.closed = False
        self.text = "{side} answer number {n}: two and three are primes, and that is all there is to it."

    def reply(self, messages, *, adapter, on_text, stop, **options):
        self.asked.append((messages, {"adapter": adapter, **options}))
        if self.fail:
            raise RuntimeError(self.fail)
        text = self.text.format(side="Tuned" if adapter else "Base", n=len(self.asked))
        on_text(text[:20])
        while not (self.hold.wait(0.01) or stop.is_set()):
            pass
        if stop.is_set():
            return SimpleNamespace(text=text[:20], tokens=5, seconds=0.5, ended="stopped")
        return SimpleNamespace(text=text, tokens=40, seconds=1.0, ended="eos")

    def close(self) -> None:
        self.closed = True


def saved_run(name: str = "0412-llama8b") -> RunDirectory:
    run = create_run(parse_config({"name": name, "output_dir": "runs"}))
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"x")
    return run


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return EvenfallApp()


@pytest.fixture
def chat(app, monkeypatch):
    saved_run()
    fake = FakeChat()
    monkeypatch.setattr(chat_screen, "open_chat", lambda run, job: fake)
    return fake


async def show_chat(pilot) -> None:
    await pilot.press("f6")
    await until(pilot, lambda: getattr(pilot.app.screen, "NAME", "") == "chat")
    await until(pilot, lambda: pilot.app.screen._loading is None)


async def send(pilot, text: str) -> None:
    await pilot.press(*["space" if c == " " else c for c in text], "enter")


def answered(pilot):
    return lambda: pilot.app.screen._answering is None


@pytest.mark.parametrize("size", SIZES)
def test_without_a_run_the_keys_still_lead_on(app, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_chat(pilot)
        same_as_snapshot(app, "chat-no-run")
        await pilot.press("1")  # not typed into a prompt that can send nothing
        await until(pilot, lambda: app.screen.NAME == "model")

    drive(app, scenario, size)


def test_who_comes_back_to_a_chat_writes_at_once(app, drive, chat):
    async def scenario(pilot):
        await show_chat(pilot)
        await pilot.press(*"hi", "escape", "3")
        await until(pilot, lambda: app.screen.NAME == "train")
        await pilot.press("5")
        await until(pilot, lambda: app.screen.NAME == "chat")
        await pilot.press("space", "3", "c")
        assert app.screen.query_one("#chat-prompt", TextField).value == "hi 3c" and app.screen.NAME == "chat"

    drive(app, scenario)


def test_the_prompt_waits_for_who_waited_for_the_run_to_end(app, drive, chat, monkeypatch):
    busy = True
    monkeypatch.setattr(type(app.desk), "busy", property(lambda desk: busy))

    async def scenario(pilot):
        nonlocal busy
        await show_chat(pilot)
        assert app.focused is None
        busy = False
        app.run_changed()
        await pilot.press(*"hi")
        assert app.screen.query_one("#chat-prompt", TextField).value == "hi"

    drive(app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_loading_shows_how_far_it_is(app, drive, see, same_as_snapshot, monkeypatch, size):
    saved_run()
    go_on = threading.Event()

    def slow(run, job):
        job.report("loading base weights", 0.5)
        go_on.wait(60)
        return FakeChat()

    monkeypatch.setattr(chat_screen, "open_chat", slow)

    async def scenario(pilot):
        await pilot.press("f6")
        await until(pilot, lambda: "loading base weights" in see(app))
        same_as_snapshot(app, "chat-loading")
        await send(pilot, "hello")
        assert "still being" in see(app) and "hello" in see(app)  # not sent, and not lost
        go_on.set()
        await until(pilot, lambda: "on NVIDIA H200" in see(app))

    drive(app, scenario, size)


def test_a_system_text_of_several_lines_is_asked_as_it_is_and_one_written_while_loading_stays(
    app, drive, see, monkeypatch
):
    fake, go_on = FakeChat(), threading.Event()
    fake.system = "Be brief.\n\tBe kind.\n"
    saved_run()
    monkeypatch.setattr(chat_screen, "open_chat", lambda run, job: (go_on.wait(60), fake)[1])

    async def scenario(pilot):
        go_on.set()
        await show_chat(pilot)
        field = app.screen.query_one("#chat-system", TextField)
        field.focus()
        await pilot.press("enter")
        app.screen.query_one("#chat-prompt", TextField).focus()
        await send(pilot, "one")
        await until(pilot, answered(pilot))
        go_on.clear()
        app.screen.action_unload()
        app.screen.action_write()
        field.focus()
        field.value = "Be long."
        await pilot.press("enter")
        go_on.set()
        await until(pilot, lambda: app.screen._loading is None)
        app.screen.query_one("#chat-prompt", TextField).focus()
        await send(pilot, "two")
        await until(pilot, answered(pilot))

    drive(app, scenario, (120, 36))
    assert [messages[0]["content"] for messages, _ in fake.asked] == [fake.system, "Be long."]


def test_the_system_text_of_the_rows_is_asked_until_another_is_written(app, chat, drive, see):
    chat.system = "Be brief."

    async def scenario(pilot):
        await show_chat(pilot)
        assert "Be brief." in see(app)
        await send(pilot, "one")
        await until(pilot, answered(pilot))
        field = app.screen.query_one("#chat-system", TextField)
        field.focus()
        field.value = "Be long."
        await pilot.press("enter")
        app.screen.query_one("#chat-prompt", TextField).focus()
        await send(pilot, "two")
        await until(pilot, answered(pilot))
        field.focus()
        field.value = ""
        await pilot.press("enter")
        app.screen.query_one("#chat-prompt", TextField).focus()
        await send(pilot, "three")
        await until(pilot, answered(pilot))

    drive(app, scenario, (120, 36))
    firsts = [messages[0] for messages, _ in chat.asked]
    assert firsts == [
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be long."},
        {"role": "user", "content": "one"},
    ]


@pytest.mark.parametrize("size", SIZES)
def test_a_prompt_is_answered_with_the_adapter_and_its_speed(app, chat, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_chat(pilot)
        same_as_snapshot(app, "chat-ready")
        await send(pilot, "two primes?")
        await until(pilot, answered(pilot))
        assert "› two primes?" in see(app) and "Tuned answer number 1" in see(app)
        assert "40 tokens/s · 40 tokens" in see(app)
        same_as_snapshot(app, "chat-answered")

    drive(app, scenario, size)
    assert chat.asked == [
        (
            [{"role": "user", "content": "two primes?"}],
            {"adapter": True, "max_new_tokens": 256, "temperature": 0.0, "seed": 1},
        )
    ]


@pytest.mark.parametrize("size", SIZES)
def test_streaming_shows_the_text_so_far_and_esc_keeps_it(app, chat, drive, see, same_as_snapshot, size):
    chat.hold.clear()

    async def scenario(pilot):
        await show_chat(pilot)
        await send(pilot, "hello")
        await until(pilot, lambda: "Tuned answer number" in see(app))
        assert "answering…" in see(app)
        same_as_snapshot(app, "chat-streaming")
        await send(pilot, "and?")
        assert "esc stops it" in " ".join(see(app).split())
        await pilot.press("ctrl+u", "escape")
        await until(pilot, answered(pilot))
        answer = app.screen._talk.turns[-1].answers[0]
        assert "stopped" in answer.note and answer.text.strip() in see(app)

    drive(app, scenario, size)
    assert len(chat.asked) == 1


@pytest.mark.parametrize("size", SIZES)
def test_compare_asks_both_with_the_same_seed(app, chat, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await show_chat(pilot)
        await pilot.press("ctrl+o")
        await send(pilot, "hello")
        await until(pilot, answered(pilot))
        lines = see(app).splitlines()
        beside = any("Base answer" in line and "Tuned answer" in line for line in lines)
        assert beside == (size[0] >= 100)  # beside each other where wide, stacked where narrow
        same_as_snapshot(app, "chat-compared")

    drive(app, scenario, size)
    (_, base), (_, tuned) = chat.asked
    assert (base["adapter"], tuned["adapter"]) == (False, True)
    assert base["seed"] == tuned["seed"]


def test_each_side_hears_its_own_history(app, chat, drive):
    async def scenario(pilot):
        await show_chat(pilot)
        await pilot.press("ctrl+o")
        await send(pilot, "first")
        await until(pilot, answered(pilot))
        await pilot.press("ctrl+o", "ctrl+t")  # both -> tuned -> base
        await send(pilot, "second")
        await until(pilot, answered(pilot))
        await pilot.press("ctrl+t")
        await send(pilot, "third")
        await until(pilot, answered(pilot))

    drive(app, scenario)
    roles = [message["content"][:6] for message in chat.asked[2][0]]
    assert roles == ["first", "Base a", "second"] and not chat.asked[2][1]["adapter"]
    said = [message["content"][:6] for message in chat.asked[3][0]]
    assert said == ["first", "Tuned ", "second", "Base a", "third"]  # it saw the base answer then


def test_the_adapter_key_works_outside_the_prompt_too(app, chat, drive, see):
    async def scenario(pilot):
        await show_chat(pilot)
        assert "● tuned" in see(app)
        await pilot.press("escape", "b")
        assert "● base" in see(app)
        await pilot.press("c")
        assert "● both" in see(app)
        await pilot.press("enter", "b")  # back in the prompt: a letter is a letter
        assert "● both" in see(app)
        assert app.screen.query_one("#chat-prompt", TextField).value == "b"

    drive(app, scenario)


@pytest.mark.parametrize("size", SIZES)
def test_a_failed_prompt_returns_to_its_field(app, chat, drive, see, same_as_snapshot, size):
    chat.fail = "CUDA out of memory: 3.4 GB were asked for"

    async def scenario(pilot):
        await show_chat(pilot)
        await send(pilot, "a long prompt")
        await until(pilot, answered(pilot))
        assert "3.4 GB were asked for" in see(app)
        assert app.screen.query_one("#chat-prompt", TextField).value == "a long prompt"
        same_as_snapshot(app, "chat-failed")
        chat.fail = ""
        await pilot.press("enter")
        await until(pilot, answered(pilot))
        assert "3.4 GB" not in see(app) and "Tuned answer number 2" in see(app)

    drive(app, scenario, size)
    assert len(chat.asked[1][0]) == 1  # the failed turn left no history


def test_up_recalls_earlier_prompts(app, chat, drive):
    async def scenario(pilot):
        await show_chat(pilot)
        for text in ("one", "two"):
            await send(pilot, text)
            await until(pilot, answered(pilot))
        prompt = app.screen.query_one("#chat-prompt", TextField)
        await pilot.press("up")
        assert prompt.value == "two"
        await pilot.press("up", "up")
        assert prompt.value == "one"

    drive(app, scenario)


def test_options_reach_the_model_and_bad_ones_do_not(app, chat, drive, see):
    async def scenario(pilot):
        await show_chat(pilot)
        for name, text in (("#chat-temperature", "0.7"), ("#chat-tokens", "64")):
            field = app.screen.query_one(name, TextField)
            field.focus()
            field.value = text
            await pilot.press("enter")
        field = app.screen.query_one("#chat-temperature", TextField)
        field.focus()
        field.value = "hot"
        await pilot.press("enter")
        assert "takes a number from 0 to 2" in see(app)
        app.screen.query_one("#chat-prompt", TextField).focus()
        await send(pilot, "hello")
        assert "Not sent: temperature: takes" in see(app) and not chat.asked
        field.focus()
        await pilot.press("escape")
        assert field.value == "0.7"
        await pilot.press("i")
        prompt = app.screen.query_one("#chat-prompt", TextField)
        prompt.put("")
        await send(pilot, "hello")
        await until(pilot, answered(pilot))

    drive(app, scenario)
    assert chat.asked[0][1]["temperature"] == 0.7
    assert chat.asked[0][1]["max_new_tokens"] == 64


@pytest.mark.parametrize("size", SIZES)
def test_it_does_not_load_while_a_run_trains(app, chat, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        app.desk.session = SimpleNamespace(done=False, run=app.desk.chosen_run, set_attended=lambda on: None)
        await show_chat(pilot)
        assert "stop or finish it first" in " ".join(see(app).split())
        same_as_snapshot(app, "chat-training")
        app.desk.session = None
        app.screen.source_changed()  # what the app calls when the run has ended
        await until(pilot, lambda: "on NVIDIA H200" in see(app))

    drive(app, scenario, size)


def test_it_does_not_load_what_another_process_trains(app, chat, drive, see):
    async def scenario(pilot):
        with app.desk.chosen_run.lock():
            await show_chat(pilot)
            assert "another process trains this run" in see(app)
        await pilot.press("escape", "i")
        await until(pilot, lambda: "on NVIDIA H200" in see(app))
        assert "another process" not in see(app)

    drive(app, scenario)


def test_it_gives_the_memory_back_when_a_run_starts(app, chat, drive, see):
    chat.hold.clear()

    async def scenario(pilot):
        await show_chat(pilot)
        await send(pilot, "hello")
        await until(pilot, lambda: "Tuned answer number" in see(app))
        await pilot.press("f2")
        app.desk.session = SimpleNamespace(done=False, run=app.desk.chosen_run, set_attended=lambda on: None)
        await until(pilot, lambda: chat.closed)  # though the screen is hidden and an answer runs
        app.desk.session = None
        assert app.screen.NAME == "model"

    drive(app, scenario)


def test_another_runs_chat_begins_anew(app, chat, drive, see, monkeypatch):
    async def scenario(pilot):
        await show_chat(pilot)
        await send(pilot, "hello")
        await until(pilot, answered(pilot))
        app.desk.chosen_run = saved_run("0413-other")
        app.screen.source_changed()
        await until(pilot, lambda: chat.closed and app.screen._loading is None)
        assert "0413-other" in see(app) and "› hello" not in see(app)

    drive(app, scenario)


def test_unload_and_load_again(app, chat, drive, see):
    async def scenario(pilot):
        await show_chat(pilot)
        await pilot.press("escape", "u")
        await until(pilot, lambda: chat.closed)
        assert "not loaded (i loads it)" in see(app)
        await pilot.press("i")
        await until(pilot, lambda: "on NVIDIA H200" in see(app))

    drive(app, scenario)


def test_new_forgets_the_conversation(app, chat, drive, see):
    async def scenario(pilot):
        await show_chat(pilot)
        await send(pilot, "hello")
        await until(pilot, answered(pilot))
        await pilot.press("escape", "n", "enter")
        assert "› hello" not in see(app)
        await send(pilot, "again")
        await until(pilot, answered(pilot))

    drive(app, scenario)
    assert [message["content"] for message in chat.asked[1][0]] == ["again"]


def test_a_model_that_cannot_be_loaded_says_why(app, chat, drive, see, monkeypatch):
    def fails(run, job):
        raise RuntimeError("org/gated: needs a login: hf auth login")

    monkeypatch.setattr(chat_screen, "open_chat", fails)

    async def scenario(pilot):
        await show_chat(pilot)
        assert "needs a login" in see(app)

    drive(app, scenario)
