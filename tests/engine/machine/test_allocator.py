"""torch's allocator is told to grow its segments, before torch is there to be told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = """
import os, sys
from evenfall.tui.commands.main import main
assert main(["runs", "--runs", sys.argv[1]]) == 0
assert "torch" not in sys.modules
print(os.environ.get("PYTORCH_ALLOC_CONF"))
"""


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
@pytest.mark.parametrize("own", [None, "max_split_size_mb:128"])
def test_the_command_line_says_so_unless_the_user_has_said_something(
    tmp_path: Path, name: str, own: str | None
) -> None:
    environment = {key: value for key, value in os.environ.items() if "ALLOC_CONF" not in key}
    if own:
        environment[name] = own
    done = subprocess.run(
        [sys.executable, "-c", RUNS, str(tmp_path)], capture_output=True, text=True, check=True,
        env=environment,
    )  # fmt: skip
    told = done.stdout.splitlines()[-1]
    if own and name == "PYTORCH_CUDA_ALLOC_CONF":
        assert told == "None"
    else:
        assert told == (own or "expandable_segments:True")
