"""The Model screen: what a newcomer sees first, and what choosing and typing does to the next run."""

import json
from pathlib import Path

import pytest
from textual.widgets import Input, Static
from waiting import until

from evenfall.engine.config.run_config import RunConfig
from evenfall.engine.model.folder import LoadError
from evenfall.engine.run import find
from evenfall.presets.load import model_presets
from evenfall.tui.app import EvenfallApp
from evenfall.tui.screens import model as model_screen
from evenfall.tui.state import settings
from evenfall.tui.state.machine import Gpu, Machine
from evenfall.tui.state.model_catalog import catalogue, look_up
from evenfall.tui.widgets.field import TextField
from evenfall.tui.widgets.form import Form

SIZES = [(120, 36), (80, 24)]
CPU = Machine(gpus=(), cpus=2, memory_gb=25.0, disk_free_gb=81.0, multiplexer=True)
H200 = Machine(
    gpus=(Gpu("NVIDIA H200", 149.2, 150.8),),
    cpus=16,
    memory_gb=137.0,
    disk_free_gb=412.0,
    multiplexer=False,
)


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(model_screen, "read_machine", lambda folder: CPU)
    return EvenfallApp()


def machine_known(pilot):
    return lambda: pilot.app.screen._machine is None


def cached(root: Path, hub_id: str, config: dict) -> None:
    folder = root / "hf" / "hub" / f"models--{hub_id.replace('/', '--')}" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))


def model_in(folder: Path) -> None:
    """What passes for a model as far as the screen looks."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize("size", SIZES)
def test_first_screen_shows_the_demo_and_the_way_on(app, drive, see, same_as_snapshot, size):
    async def scenario(pilot):
        await until(pilot, machine_known(pilot))
        assert "no GPU" in see(app)
        assert "2 look at the data" in see(app)
        assert "● demo" in see(app) and "● Quick test" in see(app)
        same_as_snapshot(app, "model-first")

    drive(app, scenario, size)
    assert app.desk.draft.model.name_or_path == "demo"
    assert app.desk.draft.data.max_length == 256  # the demo's own, over the recipe's 1,024


@pytest.mark.parametrize("size", SIZES)
def test_settings_form_looks(app, drive, same_as_snapshot, size):
    async def scenario(pilot):
        await until(pilot, machine_known(pilot))
        await pilot.press("a", "tab")
        same_as_snapshot(app, "model-settings")

    drive(app, scenario, size)


def test_recipe_under_the_cursor_gives_its_reasons(app, drive, see, same_as_snapshot):
    async def scenario(pilot):
        await until(pilot, machine_known(pilot))
        await pilot.press("tab", "down", "down", "down")
        assert "data.eval_fraction 0 → 0.1" in see(app)
        same_as_snapshot(app, "model-recipe")

    drive(app, scenario)


def test_gpu_is_named_with_its_memory(app, drive, see, monkeypatch):
    monkeypatch.setattr(model_screen, "read_machine", lambda folder: H200)
    monkeypatch.setattr(model_screen, "why_gpu_is_unused", lambda: "")

    async def scenario(pilot):
        await until(pilot, machine_known(pilot))
        assert "NVIDIA H200, 149 of 151 GB free" in see(app)
        assert "no GPU" not in see(app)
        assert "evenfall opens it again" in see(app)  # not in tmux: say what happens to the run

    drive(app, scenario)


def test_gpu_that_torch_cannot_use_is_said_so(app, drive, see, monkeypatch):
    monkeypatch.setattr(model_screen, "read_machine", lambda folder: H200)
    why = "there is a GPU, but runs would take the CPU: torch is a build without CUDA"
    monkeypatch.setattr(model_screen, "why_gpu_is_unused", lambda: why)

    async def scenario(pilot):
        await until(pilot, lambda: app.screen._gpu is None and app.screen._machine is None)
        assert why in see(app)

    drive(app, scenario)


def test_escape_empties_the_search_and_goes_back_to_the_list(app, drive, see):
    async def scenario(pilot):
        await pilot.press("slash", *"coder", "escape")
        assert "smollm2-135m" in see(app)
        await pilot.press("home", "down", "enter")

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path.endswith("SmolLM2-135M-Instruct")


def test_machine_that_cannot_be_read_is_no_crash(app, drive, see, monkeypatch):
    def broken(folder):
        raise OSError("the driver does not answer")

    monkeypatch.setattr(model_screen, "read_machine", broken)

    async def scenario(pilot):
        await until(pilot, machine_known(pilot))
        assert "the driver does not answer" in see(app)

    drive(app, scenario)


def test_choosing_a_model_takes_its_recipe_and_leaves_nothing_of_the_demo(app, drive, see):
    async def scenario(pilot):
        await pilot.press("down", "down", "enter")
        assert "● llama-3.2-1b" in see(app)
        assert "● Instruction tuning" in see(app)
        assert "1 Model ✓" in see(app)

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path == "meta-llama/Llama-3.2-1B-Instruct"
    assert app.desk.draft.train.max_steps is None and app.desk.draft.data.max_rows is None
    assert app.desk.draft.data.max_length == 2048


def test_own_recipe_stays_when_the_model_changes(app, drive):
    async def scenario(pilot):
        await pilot.press("tab", "end", "up", "enter")  # small data
        await pilot.press("shift+tab", "down", "enter")

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path.endswith("SmolLM2-135M-Instruct")
    assert app.desk.draft.train.num_train_epochs == 3


def test_a_value_of_ones_own_survives_a_recipe_that_does_not_set_it(app, drive):
    async def scenario(pilot):
        app.desk.update_draft(["data.max_rows=5000", "train.seed=7"])
        await pilot.press("tab", "end", "up", "enter")

    drive(app, scenario)
    assert app.desk.draft.data.max_rows == 5000 and app.desk.draft.train.seed == 7
    assert app.desk.draft.train.max_steps == 120  # the demo's own, whatever the recipe


def test_search_narrows_the_list_and_enter_goes_to_it(app, drive, see):
    async def scenario(pilot):
        await pilot.press("slash", *"coder")
        assert "qwen2.5-coder-7b" in see(app)
        assert "smollm2" not in see(app)
        assert f"6 of {len(model_presets())} models" in see(app)
        await pilot.press("enter", "enter")

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path == "Qwen/Qwen2.5-Coder-0.5B-Instruct"


def test_hub_id_is_taken_as_typed(app, drive, see):
    async def scenario(pilot):
        await pilot.press("slash", *"allenai/OLMo-2")
        assert "enter takes allenai/OLMo-2 from the hub" in see(app)
        await pilot.press("enter")
        assert "● allenai/OLMo-2" in see(app)

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path == "allenai/OLMo-2"


def test_local_folder_shows_its_config(app, drive, see, tmp_path):
    folder = tmp_path / "mine"
    model_in(folder)
    config = {"model_type": "llama", "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))

    async def scenario(pilot):
        await pilot.press("slash", *"./mine")
        assert "mine: llama, 4,096 tokens, local" in see(app)
        await pilot.press("enter")
        assert "● mine" in see(app)

    drive(app, scenario)
    assert Path(app.desk.draft.model.name_or_path).resolve() == folder


def test_the_cursor_goes_to_the_model_that_was_typed(app, drive, see, tmp_path):
    """So that enter, pressed once more, takes the same one, also where the list has it already."""
    model_in(tmp_path / "mine")
    model_in(tmp_path / "other" / "mine")

    async def scenario(pilot):
        for text in ("./mine", "Foo/Bar-7B", "./other/mine", "./mine"):
            await pilot.press("slash", *text, "enter")
            await pilot.pause()
            taken = app.desk.draft.model.name_or_path
            assert taken.removeprefix("./") == text.removeprefix("./")
            assert app.screen.query_one("#models").highlighted == taken
            await pilot.press("enter")
            assert app.desk.draft.model.name_or_path == taken

    drive(app, scenario)


def test_a_model_that_was_typed_is_taken_when_its_field_is_left(app, drive, see, tmp_path):
    model_in(tmp_path / "mine")

    async def scenario(pilot):
        await pilot.press("slash", *"./mine", "f4")
        await pilot.pause()
        assert app.desk.draft.model.name_or_path == "mine"
        await pilot.press("1", "slash", *"./nowhere", "f4")
        await pilot.pause()
        assert "./nowhere: no such folder" in see(app) and app.screen.why_not("run_draft")
        await pilot.press("1", "slash")  # to the field, and no letter of it
        assert app.screen.query_one("#model-find", TextField).value == "./nowhere"
        await pilot.press("escape", "slash", *"smol", "f4")  # a search is no model
        await pilot.pause()
        assert app.screen.why_not("run_draft") is None

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path == "mine"


def test_a_folder_that_is_typed_after_a_preset_was_taken_is_what_trains(app, drive, see, tmp_path):
    model_in(tmp_path / "mine")

    async def scenario(pilot):
        await pilot.press("down", "down", "enter")
        app.notices.clear()
        await pilot.press("slash", *"./mine", "enter")
        await pilot.pause()
        assert see(app).count("model.name_or_path") == 1  # in the notice of what was set
        assert "● mine" in see(app) and "mine in 4-bit" in see(app)
        await pilot.press("tab", "home", "enter")  # a recipe: the folder stays
        assert "mine in 4-bit" in see(app)

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path == "mine"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("./nowhere", "no such folder"),
        ("./empty", "no config.json"),
        ("./weightless", "holds no *.safetensors"),
        ("./torn", "lacks model-2-of-2.safetensors"),
        ("./adapter", "is an adapter"),
        ("./mute", "holds no tokenizer"),
        ("./file", "./file: is a file: give the folder"),
        ("a model with blanks", "no hub id"),
    ],
)
def test_what_is_no_model_is_refused_beside_the_field(app, drive, see, tmp_path, text, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    model_in(tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    for name in ("weightless", "torn"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    index = tmp_path / "torn" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "torn" / shards["a"]).write_bytes(b"")

    async def scenario(pilot):
        await pilot.press("slash")
        app.screen.focused.value = text
        await pilot.press("enter")
        assert why in see(app)
        assert app.screen.query_one("#model-find", TextField).has_class("-bad")

    drive(app, scenario)
    assert app.desk.draft.model.name_or_path == "demo"


def test_models_in_the_hub_cache_are_listed(app, drive, see, tmp_path):
    cached(tmp_path, "Qwen/Qwen2.5-0.5B-Instruct", {"architectures": ["Qwen2ForCausalLM"]})
    cached(tmp_path, "some/other-lm", {"architectures": ["LlamaForCausalLM"]})
    cached(tmp_path, "some/bert", {"architectures": ["BertModel"]})
    entries = {entry.name_or_path: entry for entry in catalogue("demo")}
    assert entries["Qwen/Qwen2.5-0.5B-Instruct"].where == "cached"
    assert entries["Qwen/Qwen2.5-1.5B-Instruct"].where == "hub"
    assert entries["some/other-lm"].where == "cached"
    assert "some/bert" not in entries
    assert look_up("some/other-lm", list(entries.values())).where == "cached"
    with pytest.raises(LoadError):
        look_up("/nowhere", list(entries.values()))

    async def scenario(pilot):
        await pilot.press("slash", *"other")
        assert "some/other-lm" in see(app)

    drive(app, scenario)


def test_settings_refuse_beside_the_field_and_keep_the_draft(app, drive, see):
    async def scenario(pilot):
        await pilot.press("a", "tab")  # rank
        app.screen.focused.value = "many"
        await pilot.press("enter")
        assert "adapter.r: got 'many', takes whole number from 1 to 1024" in see(app)
        assert app.desk.draft.adapter.r == 16
        await pilot.press("shift+tab")
        app.screen.focused.value = "64"
        await pilot.press("enter")
        assert "LoRA r 64" in see(app) and "got 'many'" not in see(app)
        await pilot.press("a")
        assert "● Quick test" not in see(app)  # the draft is no longer that recipe

    drive(app, scenario, (80, 24))
    assert app.desk.draft.adapter.r == 64


def refused_rate(app):
    """The learning rate's field of the settings form."""
    rows = app.screen.query_one(Form)._rows
    return rows["train.learning_rate"].query_one(TextField)


def test_no_run_starts_while_a_field_holds_what_was_refused(app, drive, see, monkeypatch):
    started = []
    monkeypatch.setattr(find, "create_run", started.append)

    async def scenario(pilot):
        await pilot.press("a")
        refused_rate(app).focus()
        refused_rate(app).value = "20"
        await pilot.press("enter", "f4")
        await pilot.pause()
        assert "learning_rate holds a value that does not fit" in see(app)
        assert "train.learning_rate: got 20, takes number from 0 to 10" in see(app)
        assert app.screen.why_not("run_draft")
        app.notices.clear()
        await pilot.press("r")
        assert see(app).count("train.learning_rate: got 20") == 2  # and in the notice
        assert not app.desk.start_run()
        await pilot.press("1")
        assert refused_rate(app).value == "20"  # it stays for correction
        refused_rate(app).focus()
        await pilot.press("escape", "f4")
        await pilot.pause()
        assert app.screen.why_not("run_draft") is None
        assert "20, takes" not in str(app.screen.query_one("#no-run", Static).content)

    drive(app, scenario)
    assert started == []
    assert app.desk.draft.train.learning_rate < 1


def test_what_was_refused_stays_in_its_field_when_another_one_is_set(app, drive, see):
    async def scenario(pilot):
        await pilot.press("a")
        refused_rate(app).focus()
        refused_rate(app).value = "fast"
        await pilot.press("enter")
        app.desk.update_draft(["train.seed=5"])
        await pilot.pause()
        assert refused_rate(app).value == "fast" and "got 'fast'" in see(app)
        app.desk.update_draft(["train.learning_rate=3e-4"])  # set elsewhere: that is what stands
        await pilot.pause()
        assert refused_rate(app).value == "3e-4" and "got 'fast'" not in see(app)
        assert app.desk.refused.why_no_start() is None

    drive(app, scenario)


def test_what_is_typed_when_another_screen_is_called_is_committed(app, drive, see):
    async def scenario(pilot):
        await pilot.press("a")
        for text, fits in (("20", False), ("1e-3", True)):
            refused_rate(app).focus()
            refused_rate(app).value = text
            await pilot.press("f4")
            await pilot.pause()
            assert (app.screen.why_not("run_draft") is None) == fits
            await pilot.press("1")
            await pilot.pause()

    drive(app, scenario)
    assert app.desk.draft.train.learning_rate == 1e-3


def test_a_model_that_was_refused_lets_no_other_one_train(app, drive, see):
    async def scenario(pilot):
        await pilot.press("slash", *"./nowhere", "enter", "f4")
        await pilot.pause()
        assert "./nowhere: no such folder" in (app.screen.why_not("run_draft") or "")
        await pilot.press("1", "escape", "f4")
        await pilot.pause()
        assert app.screen.why_not("run_draft") is None

    drive(app, scenario)


def test_a_refusal_is_told_where_a_run_is_started_from(app, drive, see):
    """Also where that screen was looked at before."""

    async def scenario(pilot):
        await pilot.press("f4", "1", "a")
        refused_rate(app).focus()
        refused_rate(app).value = "fast"
        await pilot.press("f4")
        await pilot.pause()
        assert "learning_rate holds a value that does not fit" in see(app)

    drive(app, scenario)


def test_settings_take_lists_words_and_switches(app, drive):
    async def scenario(pilot):
        await pilot.press("a")
        form = app.screen.query_one(Form)
        for key, text in (
            ("adapter.target_modules", "q_proj, v_proj"),
            ("train.max_steps", ""),
            ("train.learning_rate", "1e-5"),
        ):
            form.post_message(Form.Changed(key, text))
        form._rows["model.quantization"].control.focus()
        await pilot.press("right")  # nf4 -> none
        await pilot.pause()

    drive(app, scenario)
    assert app.desk.draft.adapter.target_modules == ["q_proj", "v_proj"]
    assert app.desk.draft.train.max_steps is None
    assert app.desk.draft.train.learning_rate == 1e-5
    assert app.desk.draft.model.quantization == "none"


def test_settings_follow_the_draft(app, drive):
    async def scenario(pilot):
        await pilot.press("a")
        app.desk.update_draft(["train.seed=123"])
        await pilot.pause()
        assert "123" in [field.value for field in app.screen.query(Form).first().query(Input)]

    drive(app, scenario)


def test_a_given_configuration_is_not_overwritten_by_the_demo(tmp_path, monkeypatch, drive):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_screen, "read_machine", lambda folder: CPU)
    config = RunConfig().with_overrides(["train.seed=9", "data.max_length=512"])
    app = EvenfallApp(config)

    async def scenario(pilot):
        await pilot.pause()

    drive(app, scenario)
    assert app.desk.draft == config


@pytest.mark.parametrize("path", ["null", "a: b.jsonl", "x # y", "yes", "1e-4", "[a]", '"', "日本.txt"])
def test_a_typed_path_is_taken_literally(path):
    override = settings.override_of("data.path", path)
    assert RunConfig().with_overrides([override]).data.path == path


@pytest.mark.parametrize(("value", "shown"), [(2e-4, "2e-4"), (1e-8, "1e-8"), (0.05, "0.05"), (32.0, "32"), (0.0, "0")])
def test_numbers_are_short(value, shown):
    assert settings.field_text(value) == shown
    assert float(shown) == value
