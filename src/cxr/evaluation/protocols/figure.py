"""How far apart do the protocols lie?  Every area and every optimism with its interval, one line for a protocol."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from cxr.evaluation.figure_style import QUIET, SERIES, drawing, short_name
from cxr.evaluation.protocols.optimism import Row
from cxr.evaluation.protocols.plan import GROUP
from cxr.evaluation.protocols.verdicts import METRIC_TITLES, name_of
from cxr.evaluation.words import number

ROW = 0.46  # inches
OFFSET = 0.16  # rows between the two marks of a line
LONGEST_NAME = 34
LONGEST_REASON, WRAPPED = 96, 50  # letters of what stands instead of an area, and of a line of it
SHOWN = ("auroc", "auroc_within_sources")


def draw_protocols(rows: Sequence[Row], path: Path) -> bool:
    """Left the areas, right how far each lies above the one by group; protocols without numbers are named too.

    Args:
        rows: as measured.
        path: the PNG file.

    Returns:
        Whether there was anything to draw.
    """
    if not any(row.metrics.get(metric, {}).get("value") is not None for row in rows for metric in SHOWN):
        return False
    names = [_name(row) for row in rows]
    widths = [0.3 + 0.078 * max(map(len, names)), 3.6, 3.2]
    with drawing(path, (sum(widths), 1.5 + ROW * len(rows)), "One configuration under several protocols") as figure:
        beside, areas, differences = figure.subplots(
            1, 3, sharey=True, gridspec_kw={"width_ratios": widths, "wspace": 0.02}
        )
        beside.set_axis_off()
        beside.set_xlim(0, 1)
        for place, (row, name) in enumerate(zip(rows, names, strict=True)):
            beside.text(
                0.0 if row.value is None else 0.06, place, name, va="center", fontsize=8.5,
                color=QUIET if row.reason is not None else None, fontweight="bold" if row.value is None else None,
            )  # fmt: skip
            if told := _instead(row):
                areas.text(
                    0.02, place, textwrap.fill(short_name(told, LONGEST_REASON), WRAPPED), va="center", fontsize=7.5,
                    color=QUIET, transform=areas.get_yaxis_transform(), linespacing=1.15,
                )  # fmt: skip
        _marks(areas, [row.metrics for row in rows])
        _marks(differences, [row.optimism for row in rows])
        areas.set_ylim(len(rows) - 0.4, -0.6)
        lowest = min(
            (row.metrics[metric][end] for row in rows for metric in SHOWN if metric in row.metrics
             for end in ("value", "low") if row.metrics[metric][end] is not None),
        )  # fmt: skip
        areas.set_xlim(min(0.5, math.floor(10 * lowest) / 10), 1.005)
        areas.set_xlabel("area under the ROC curve, 95 % interval")
        differences.axvline(0, color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        differences.set_xlabel(f"less the area by {GROUP}: right is optimism")
        for axes in (areas, differences):
            axes.tick_params(axis="y", length=0, labelleft=False)
            axes.spines["left"].set_visible(False)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
        widest = max(map(abs, differences.get_xlim()))
        differences.set_xlim(-widest, widest)
        figure.legend(*areas.get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return True


def _marks(axes: Axes, given: Sequence[Mapping[str, Any]]) -> None:
    """A mark and its interval for each line and metric."""
    for metric, series, side in zip(SHOWN, SERIES, (-OFFSET, OFFSET), strict=True):
        drawn = False
        for place, estimates in enumerate(given):
            estimate = estimates.get(metric)
            if estimate is None or estimate["value"] is None:
                continue
            label = None if drawn else METRIC_TITLES[metric]
            drawn = True
            at = place + side
            axes.plot(
                [estimate["value"]], [at], marker=series["marker"], color=series["color"], linestyle="none",
                markersize=5.5, label=label, zorder=3,
            )  # fmt: skip
            if estimate["low"] is not None:
                axes.plot([estimate["low"], estimate["high"]], [at, at], color=series["color"], linewidth=1.8, zorder=2)


def _instead(row: Row) -> str:
    """What there is to say of a row without an area; '' where it has one."""
    if row.reason is not None:
        return row.reason.partition(";")[0]
    if row.metrics["auroc"]["value"] is not None:
        return ""
    rates = [
        f"{METRIC_TITLES[name]} {number(row.metrics[name]['value'], digits=2)}"
        + (f", by group {number(row.by_group[name]['value'], digits=2)}" if name in row.by_group else "")
        for name in ("sensitivity", "specificity")
        if row.metrics[name]["value"] is not None
    ]
    return "; ".join(["one class only", *rates])


def _name(row: Row) -> str:
    return short_name(name_of(row), LONGEST_NAME)
