"""What does a range test of the learning rate look like?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, NullFormatter

from cxr.evaluation.figure_style import FIRST, QUIET, SECOND, drawing
from cxr.files import write_atomically
from cxr.sources.spreadsheet import to_csv
from cxr.training.lr_finder import LrCurve


def write_range_test(curve: LrCurve, path: Path) -> None:
    """The curve as a table: rate, loss of the batch, moving average."""
    table = pd.DataFrame({"lr": curve.rates, "loss": curve.losses, "smoothed": curve.smoothed})
    write_atomically(path, to_csv(table))


def draw_range_test(curve: LrCurve, path: Path, about: str) -> None:
    """Loss against rate, with the suggestions, or why there are none.

    Args:
        curve: at least two steps.
        path: the PNG file.
        about: of what, for the title.
    """
    subtitle = f"None suggested: {curve.useless}" if curve.useless else "points: batches; line: moving average"
    with drawing(path, (5.6, 3.4), f"Range test: {about}", subtitle) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.plot(curve.rates, curve.losses, ".", color=QUIET, markersize=2.5, alpha=0.7)
        axes.plot(curve.rates, curve.smoothed, "-", color=FIRST)
        lowest = float(np.nanmin(curve.smoothed))
        # The explosion at the end would flatten everything before it.
        highest = max(float(curve.smoothed[0]), lowest) * 1.35
        axes.set_ylim(max(0.0, lowest - 0.2 * (highest - lowest)), highest)
        for name, rate, place in (("valley", curve.valley, 0.97), ("steepest", curve.steepest, 0.88)):
            if rate is not None:
                axes.axvline(rate, color=SECOND, linestyle="--" if name == "valley" else ":", linewidth=1.2)
                axes.annotate(
                    f" {name} {rate:.2g}", (rate, place), xycoords=("data", "axes fraction"), va="top", color="#a05c00"
                )
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.grid(axis="y")
