"""The screens come up without the heavy libraries: those are imported behind the first paint."""

import subprocess
import sys
from pathlib import Path

from evenfall.engine.config.run_config import parse_config
from evenfall.engine.run.find import create_run

HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "bitsandbytes", "plotext", "numpy")


def test_importing_the_screens_loads_no_heavy_library():
    code = f"""
import sys
import evenfall.tui.app
for name in ("model", "data", "train", "export", "chat", "runs"):
    __import__(f"evenfall.tui.screens.{{name}}")
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_first_screen_is_painted_without_them_too():
    code = f"""
import asyncio, sys
from evenfall.tui.app import EvenfallApp

async def main():
    app = EvenfallApp()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        print([name for name in {HEAVY!r} if name in sys.modules])

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_is_imported_only_after_the_first_paint():
    code = """
import asyncio, sys
from evenfall.tui.app import EvenfallApp

go_on = EvenfallApp._after_first_paint

def painted(app):
    lists = [widget.row_count for widget in app.screen.query("PickList")]
    print([name for name in ("pydantic", "orjson", "evenfall.engine.run.events") if name in sys.modules])
    print(min(lists) > 0)
    go_on(app)

EvenfallApp._after_first_paint = painted

async def main():
    app = EvenfallApp()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause()
        print("pydantic" in sys.modules, app.desk.draft.model.name_or_path)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "True", "True demo"]


def test_a_run_that_is_opened_at_once_is_named_before_the_engine_is_imported(tmp_path: Path):
    run = create_run(parse_config({"output_dir": str(tmp_path), "name": "held"}))
    code = """
import asyncio, sys
from pathlib import Path
from evenfall.tui.app import EvenfallApp

go_on = EvenfallApp._after_first_paint

def painted(app):
    print([name for name in ("pydantic", "orjson", "evenfall.engine.run.events") if name in sys.modules])
    print([str(widget.content) for widget in app.screen.query("#body Static")])
    go_on(app)

EvenfallApp._after_first_paint = painted

async def main():
    app = EvenfallApp(watch=Path(sys.argv[1]))
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("r")
        await pilot.pause()
        print(type(app.screen).__name__, app.desk.source.name)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["[]", "['opening held …']", "TrainScreen held"]
