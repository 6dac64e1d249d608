"""How does every figure look?  One typeface, ink that survives a black-and-white printer, and whole files only."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK = "#1a1a1a"
QUIET = "#6b6b6b"
# Blue and orange of Okabe & Ito (2008) keep apart for every kind of colour vision; darkened so that they also
# differ in grey (luminance about .08 and .34), and each line has its own dash and marker besides.
FIRST = "#00508a"
SECOND = "#e08a1e"
SERIES: tuple[dict[str, Any], ...] = (
    {"color": FIRST, "linestyle": "-", "marker": "o"},
    {"color": SECOND, "linestyle": (0, (5, 2)), "marker": "s"},
)
STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$x"
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titlepad": 8.0,
    "axes.grid": False,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "figure.facecolor": "white",
}
DPI = 160
MAX_NAME = 22  # letters of a class name in a figure


@contextmanager
def drawing(path: Path, size: tuple[float, float], title: str, subtitle: str = "") -> Iterator[Figure]:
    """A figure without pyplot's global state, saved when the block ends and seen on disk only when whole.

    Args:
        path: the PNG file.
        size: width and height, inches.
        title: one line in bold, wrapped where it is too long.
        subtitle: smaller, above the first axes.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.06))
        FigureCanvasAgg(figure)
        title = textwrap.fill(title, int(size[0] * 9.5))  # bold letters of this size are about .1 inch wide
        figure.suptitle(title, x=0.012, ha="left", fontsize=11.5, fontweight="bold")
        yield figure
        if subtitle:
            figure.axes[0].set_title(subtitle, color=QUIET)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        figure.savefig(partial, format="png", dpi=DPI)
        partial.replace(path)


def short_name(name: str, length: int = MAX_NAME) -> str:
    """A name that fits: the middle is left out, since long class names differ at both ends."""
    if len(name) <= length:
        return name
    return f"{name[: length - length // 2 - 1]}…{name[-(length // 2) :]}"
