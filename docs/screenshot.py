"""Makes the README's pictures: the Train screen over a finished run, and the Data screen.

    python docs/screenshot.py RUN [SCREEN] [WIDTHxHEIGHT]

Writes docs/SCREEN.svg. Textual's own export names a font on a public server; here the picture uses the
viewer's monospaced font instead and needs nothing from outside.
"""

import asyncio
import re
import sys
from pathlib import Path

from evenfall.engine.run.directory import RunDirectory
from evenfall.tui.app import EvenfallApp

FONTS = "Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"


async def picture(run: RunDirectory, screen: str, size: tuple[int, int]) -> str:
    app = EvenfallApp(root=run.path.parent, watch=run)
    async with app.run_test(size=size) as pilot:
        app.show(screen)  # type: ignore[arg-type] - checked by the app's modes
        for wait in range(120):  # polls and the first plots; the Data screen reads its rows
            await pilot.pause(0.25)
            if wait >= 12 and getattr(app.screen, "_job", None) is None:
                break
        return app.export_screenshot(title="evenfall")


def without_fonts(svg: str) -> str:
    """Without the @font-face rules that point to a server, and with local monospaced fonts."""
    svg = re.sub(r"@font-face\s*\{[^}]*\}", "", svg)
    return re.sub(r"font-family:\s*(Fira Code|arial)[^;]*;", f"font-family: {FONTS};", svg)


def main() -> None:
    run = RunDirectory(Path(sys.argv[1]))
    screen = sys.argv[2] if len(sys.argv) > 2 else "train"
    width, height = (sys.argv[3] if len(sys.argv) > 3 else "120x36").split("x")
    svg = asyncio.run(picture(run, screen, (int(width), int(height))))
    out = Path(__file__).parent / f"{screen}.svg"
    out.write_text(without_fonts(svg), encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
