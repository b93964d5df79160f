#!/usr/bin/env bash
# Where COLUMNS and LINES are exported, a Textual app never learns that its terminal has another size.
#
# textual 8.2.8, Python 3.11.
#
# A shell keeps the two for itself; `export COLUMNS`, some job runners and test runners pass them on. Textual asks for
# the size with the two taken first, at its start and again whenever the terminal sends SIGWINCH. So the app begins with
# the exported size whatever the terminal has, and a resize changes nothing, though the signal came and the terminal
# itself would tell.
#
# Seen, in a terminal of 100x30 that becomes 140x40:
#   not exported: 100x30 then 140x40
#   exported as 80x24: 80x24 then 80x24
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/app.py" <<'PYTHON'
import sys

from textual.app import App


class Sizes(App):
    def on_mount(self):
        self.set_timer(1.0, lambda: self.write("begin"))
        self.set_timer(4.0, lambda: self.write("end"))

    def write(self, when):
        with open(sys.argv[1], "a") as file:
            file.write(f"{self.size.width}x{self.size.height}\n")
        if when == "end":
            self.exit()


Sizes().run()
PYTHON
cat > "$folder/program.py" <<'PYTHON'
import fcntl
import os
import pathlib
import pty
import struct
import subprocess
import sys
import termios
import threading
import time

folder = pathlib.Path(sys.argv[1])


def sizes(name, exported):
    master, slave = pty.openpty()
    resize = lambda rows, columns: fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    resize(30, 100)
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    app = subprocess.Popen(
        [sys.executable, folder / "app.py", folder / name], stdin=slave, stdout=slave, stderr=slave,
        start_new_session=True, env=env | {"TERM": "xterm-256color"} | exported,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)

    def drain():
        try:
            while os.read(master, 65536):
                pass
        except OSError:
            pass

    threading.Thread(target=drain, daemon=True).start()
    while not (folder / name).exists():
        time.sleep(0.1)
    resize(40, 140)
    app.wait(30)
    return (folder / name).read_text().split()


plain, exported = sizes("plain", {}), sizes("exported", {"COLUMNS": "80", "LINES": "24"})
print("not exported:", *plain)
print("exported as 80x24:", *exported)
seen = (plain, exported) == (["100x30", "140x40"], ["80x24", "80x24"])
raise SystemExit(0 if seen else "this has changed")
PYTHON
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile textual==8.2.8
"$folder/venv/bin/python" "$folder/program.py" "$folder"
