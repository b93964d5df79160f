"""From starting `evenfall` to its first screen, as a terminal sees it.

    python tests/benchmarks/first_paint.py [times]

Starts the command in a pseudo-terminal of 120x36 and takes the time until the Model screen's list has been
written to it; `q` ends it. Prints each time and the median.
"""

import fcntl
import os
import pty
import select
import shutil
import statistics
import struct
import sys
import tempfile
import termios
import time

PAINTED = b"smollm2"


def one(folder: str) -> float:
    command = shutil.which("evenfall", path=os.path.dirname(sys.executable)) or shutil.which("evenfall") or "evenfall"
    start = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ["TERM"] = "xterm-256color"
        os.execv(command, [command])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
    seen, painted = b"", None
    deadline = start + 30
    while time.perf_counter() < deadline:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:
                break
        if painted is None and PAINTED in seen.lower():
            painted = time.perf_counter() - start
            os.write(terminal, b"q")
    os.close(terminal)
    os.waitpid(child, 0)
    if painted is None:
        raise SystemExit(f"nothing was painted: {seen[-2000:]!r}")
    return painted


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        taken = [one(folder) for _ in range(times + 1)][1:]  # the first fills the page cache
    print(" ".join(f"{seconds:.2f}" for seconds in taken))
    print(f"first paint: median {statistics.median(taken):.2f} s of {len(taken)}")


if __name__ == "__main__":
    main()
