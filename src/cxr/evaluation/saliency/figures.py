"""What does the network's evidence look like, on the radiographs of which it is surest?"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patheffects import AbstractPathEffect
from numpy.typing import NDArray

from cxr.evaluation.figure_style import QUIET, SECOND, drawing

LEVELS = (0.25, 0.5, 0.75)
_DARKEST = 0.6  # opacity of the black veil where the map is 0: the radiograph stays to be seen


@dataclass(frozen=True, eq=False)
class Panel:
    """One image with its map.

    Args:
        image: (H, W) uint8.
        saliency: (H, W) 0 to 1.
        lungs: (H, W) whether a pixel lies in a lung; None where nobody has drawn them.
        caption: what stands above it, a line each.
    """

    image: NDArray[np.uint8]
    saliency: NDArray[np.floating]
    lungs: NDArray[np.bool_] | None
    caption: Sequence[str]


def draw_panels(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Each radiograph as it is, and below it with the map.

    The map is drawn as contours, thicker where there is more, and as a veil, darkest where there is no evidence: that
    tells more from less without colour, too. Lungs are a dashed line.

    Args:
        panels: at least one.
        path: the PNG file.
        title: what the images have in common.
    """
    columns = len(panels)
    width = 2.15
    levels = ", ".join(f"{level:.0%}" for level in LEVELS)
    note = f"Contours: {levels} of the greatest evidence in the image; the darker, the less."
    if any(panel.lungs is not None for panel in panels):
        note += " Dashed: lungs."
    size = (max(width * columns, 3.4) + 0.25, 2 * width + 1.35)
    with drawing(path, size, title) as figure:
        axes = figure.subplots(2, columns, squeeze=False)
        for column, panel in enumerate(panels):
            axes[0, column].set_title("\n".join(panel.caption), fontsize=8, linespacing=1.35)
            for place in axes[:, column]:
                place.imshow(panel.image, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
                place.set_axis_off()
            _draw_map(axes[1, column], panel)
        note = textwrap.fill(note, int(size[0] * 15))  # letters of this size are about .065 inch wide
        figure.supxlabel(note, x=0.012, ha="left", fontsize=8, color=QUIET)


def _draw_map(axes: Axes, panel: Panel) -> None:
    veil = np.zeros((*panel.saliency.shape, 4))
    veil[..., 3] = _DARKEST * (1 - panel.saliency)
    axes.imshow(veil, interpolation="bilinear")
    lowest, highest = float(panel.saliency.min()), float(panel.saliency.max())
    if highest == 0 or lowest > LEVELS[-1]:  # no contour would say which of the two it is
        said = "no evidence" if highest == 0 else f"everywhere above {LEVELS[-1]:.0%}"
        words = axes.text(0.03, 0.04, said, transform=axes.transAxes, fontsize=8, color="white")
        words.set_path_effects(_casing(2.0))
    else:
        lines = axes.contour(panel.saliency, levels=LEVELS, colors=[SECOND], linewidths=(0.6, 1.1, 1.7))
        lines.set_path_effects(_casing(2.6))
    if panel.lungs is not None and 0 < panel.lungs.mean() < 1:
        outline = axes.contour(panel.lungs.astype(float), levels=[0.5], colors=["white"], linewidths=0.9)
        outline.set_linestyle((0, (3, 2)))
        outline.set_path_effects(_casing(1.8))


def _casing(width: float) -> list[AbstractPathEffect]:
    """A dark border, so that a line or a word stands out from any grey."""
    return [patheffects.withStroke(linewidth=width, foreground="black", alpha=0.75)]
