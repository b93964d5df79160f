"""The theme `evenfall`: a dim room with one lamp.

Its greys and colours lie on the 256-colour cube, because COLORTERM is rarely forwarded over SSH and
a grey between two cube entries would be quantised to navy or merge with its neighbour. State is never
told by colour alone: each has a glyph and a word too.
"""

from textual.theme import Theme

BACKGROUND = "#121212"  # 233
SURFACE = "#1c1c1c"  # 234
PANEL = "#262626"  # 235
RAISED = "#3a3a3a"  # 237
LINE = "#4e4e4e"  # 239
MUTED = "#949494"  # 246
TEXT = "#d0d0d0"  # 252
LAMP = "#ffaf5f"  # 215
BLUE = "#87afd7"  # 110
GREEN = "#87d787"  # 114
YELLOW = "#d7af5f"  # 179
RED = "#ff8787"  # 210
VIOLET = "#af87d7"  # 140

EVENFALL = Theme(
    name="evenfall",
    primary=BLUE,
    secondary=VIOLET,
    accent=LAMP,
    success=GREEN,
    warning=YELLOW,
    error=RED,
    foreground=TEXT,
    background=BACKGROUND,
    surface=SURFACE,
    panel=PANEL,
    dark=True,
    variables={
        "text": TEXT,
        "text-muted": MUTED,
        "text-disabled": "#6c6c6c",  # 242
        "chart-band": "#5f87af",  # 67
        "raised": RAISED,
        "line": LINE,
        "border": LAMP,
        "border-blurred": LINE,
        "block-cursor-background": RAISED,
        "block-cursor-foreground": "#eeeeee",
        "block-cursor-text-style": "bold",
        "block-cursor-blurred-background": PANEL,
        "block-cursor-blurred-foreground": TEXT,
        "block-hover-background": PANEL,
        "input-selection-background": RAISED,
        "input-cursor-background": LAMP,
        "scrollbar": RAISED,
        "scrollbar-hover": LINE,
        "scrollbar-active": LAMP,
        "scrollbar-background": BACKGROUND,
        "scrollbar-background-hover": BACKGROUND,
        "scrollbar-background-active": BACKGROUND,
        "scrollbar-corner-color": BACKGROUND,
    },
)
