"""How do the subgroups look beside each other, and how do the classes divide over what is known of the images?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from cxr.evaluation.figure_style import INK, QUIET, drawing, short_name
from cxr.evaluation.words import NAMES

ROW = 0.24  # inches
LONGEST_NAME = 34  # letters
LEGEND_COLUMNS = 3
MAX_SEGMENTS = 6  # of a bar; what is beyond is drawn together
# Neighbours differ by more than a quarter of the way from black to white, so that a bar can be read without colour.
_SHADES = ("#0b3c5d", "#b9cfe0", "#3f7cac", "#e6ecf1", "#6d8aa3", "#cfcfcf")
_BRIGHT = ("#b9cfe0", "#e6ecf1", "#cfcfcf")


def draw_subgroups(
    rows: Sequence[Mapping[str, Any]], path: Path, *, metric: str, title: str, overall: float | None
) -> bool:
    """A forest plot: one line for each subgroup with its estimate and interval, a vertical line for all images.

    A subgroup that differs from the rest, all comparisons counted, is a filled diamond, every other an open circle.

    Args:
        rows: from :func:`cxr.evaluation.subgroups.subgroups.subgroup_table`.
        path: the PNG file.
        metric: 'auroc', 'sensitivity' or 'specificity'.
        title: what was scored.
        overall: the metric of all images.

    Returns:
        Whether there was anything to draw.
    """
    shown = [row for row in rows if row["metric"] in (metric, None)]
    if not shown:
        return False
    lines: list[Mapping[str, Any] | str] = []
    for row in shown:
        if row["metric"] is not None and row["column"] not in lines:
            lines.append(row["column"])
        lines.append(row)
    lows = [row["estimate"]["low"] for row in shown if row["estimate"]["low"] is not None]
    start = max(0.0, math.floor(10 * min([*lows, 0.5 if overall is None else overall])) / 10)
    longest = max(len(_name(line)) for line in lines)
    widths = [0.3 + 0.072 * longest, 3.9, 2.1]
    size = (sum(widths), 1.5 + ROW * len(lines))
    key = textwrap.fill(_key(shown, overall), int(15 * size[0]))
    with drawing(path, size, title) as figure:
        figure.supxlabel(key, x=0.012, ha="left", fontsize=8.5, color=QUIET)
        names, axes, numbers = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": widths, "wspace": 0.0})
        for beside in (names, numbers):
            beside.set_axis_off()
            beside.set_xlim(0, 1)
        axes.set_xlim(start, 1.0)
        axes.set_ylim(len(lines) - 0.4, -1.4)
        axes.set_xlabel(f"{NAMES[metric]} with its 95 % interval")
        axes.tick_params(axis="y", length=0, labelleft=False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MultipleLocator(0.1 if start < 0.8 else 0.05))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        _write_numbers(numbers, -1.0, "images", NAMES[metric], weight="bold")
        for place, line in enumerate(lines):
            _draw_line(names, axes, numbers, place, line)
        if overall is not None:
            axes.axvline(overall, color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
    return True


def draw_dependence(entries: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> bool:
    """How the images of each class divide over each column, where it is known; one panel for each column.

    Args:
        entries: from :func:`cxr.evaluation.subgroups.dependence.dependence_table`.
        path: the PNG file.
        title: of what images.

    Returns:
        Whether there was anything to draw.
    """
    if not entries:
        return False
    drawn = [_segments(entry) for entry in entries]
    verdicts = [textwrap.fill(short_name(entry["verdict"], 280).replace(" %", "\u00a0%"), 94) for entry in entries]
    bars = [0.34 * len(entry["classes"]) + 0.2 * -(-len(segments) // LEGEND_COLUMNS) if segments else 0.1
            for entry, segments in zip(entries, drawn, strict=True)]  # fmt: skip
    heights = [0.5 + 0.15 * verdict.count("\n") + bar for verdict, bar in zip(verdicts, bars, strict=True)]
    with drawing(path, (7.6, 0.6 + sum(heights)), title) as figure:
        panels = figure.subplots(len(entries), 1, gridspec_kw={"height_ratios": bars}, squeeze=False)[:, 0]
        for axes, entry, segments, verdict in zip(panels, entries, drawn, verdicts, strict=True):
            axes.set_title(verdict, fontsize=8.5)
            if segments:
                _draw_bars(axes, entry, segments)
            else:
                axes.set_axis_off()
    return True


def _key(rows: Sequence[Mapping[str, Any]], overall: float | None) -> str:
    said = [] if overall is None else [f"dashed line: all images, {overall:.3f}"]
    if any(row["difference"]["remains"] for row in rows):
        said.append("diamond: differs from the rest, all comparisons counted (Holm)")
    elif rows[0]["difference"]["comparisons"]:
        said.append("no difference to the rest shown, all comparisons counted (Holm)")
    return "; ".join(said)


def _name(line: Mapping[str, Any] | str) -> str:
    if isinstance(line, str):
        return short_name(line, LONGEST_NAME)
    if line["metric"] is None:
        return short_name(f"{line['column']}: {line['estimate']['reason']}", LONGEST_NAME + 10)
    return f"   {short_name(line['value'], LONGEST_NAME)}"


def _draw_line(names: Axes, axes: Axes, numbers: Axes, place: int, line: Mapping[str, Any] | str) -> None:
    estimate = None if isinstance(line, str) else line["estimate"]
    quiet = estimate is not None and estimate["value"] is None
    weight = "bold" if isinstance(line, str) else "normal"
    names.text(0.0, place, _name(line), va="center", color=QUIET if quiet else INK, fontweight=weight)
    if isinstance(line, str) or estimate is None or line["metric"] is None:
        return
    if quiet:
        reason = short_name(estimate["reason"], 56)
        axes.text(
            0.01, place, reason, transform=axes.get_yaxis_transform(), va="center", color=QUIET, fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        _write_numbers(numbers, place, f"{line['n']:,}", "", color=QUIET)
        return
    limits = "no interval"
    if estimate["low"] is not None:
        limits = f"{estimate['low']:.2f} to {estimate['high']:.2f}"
        axes.plot([estimate["low"], estimate["high"]], [place, place], color=INK, linewidth=1.4, clip_on=False)
    stands_out = line["difference"]["remains"]
    axes.plot(
        estimate["value"], place, "D" if stands_out else "o", color=INK, clip_on=False, markersize=6,
        markerfacecolor=INK if stands_out else "white", markeredgewidth=1.3, zorder=3,
    )  # fmt: skip
    _write_numbers(numbers, place, f"{line['n']:,}", f"{estimate['value']:.2f} ({limits})")


def _write_numbers(numbers: Axes, place: float, images: str, text: str, **style: Any) -> None:
    numbers.text(0.27, place, images, va="center", ha="right", **style)
    numbers.text(0.33, place, text, va="center", ha="left", **style)


def _segments(entry: Mapping[str, Any]) -> list[list[str]]:
    """The bands of a column, those beyond ``MAX_SEGMENTS`` together."""
    bands = list(next(iter(entry["classes"].values())))
    occurring = [band for band in bands if any(of_class[band] for of_class in entry["classes"].values())]
    if len(occurring) <= MAX_SEGMENTS:
        return [[band] for band in occurring]
    # By their share of a class, not of all: what is common in a small class only is what matters here.
    shares = [of_class for of_class in entry["shares"].values() if None not in of_class.values()]
    by_share = sorted(occurring[:-1], key=lambda band: -max(of_class[band] for of_class in shares))
    alone = set(by_share[: MAX_SEGMENTS - 1])  # never the last, in which other values are already together
    return [*([band] for band in occurring if band in alone), [band for band in occurring if band not in alone]]


def _draw_bars(axes: Axes, entry: Mapping[str, Any], segments: Sequence[Sequence[str]]) -> None:
    labels = []
    for place, (name, of_class) in enumerate(entry["classes"].items()):
        known, missing = sum(of_class.values()), entry["missing"][name]
        labels.append(
            f"{short_name(name)}\n{known:,} known, {missing:,} not" if missing else f"{short_name(name)}\n{known:,}"
        )
        start = 0.0
        for shade, bands in zip(_SHADES, segments, strict=False):
            share = sum(of_class[band] for band in bands) / known if known else 0.0
            axes.barh(place, share, left=start, height=0.7, color=shade, edgecolor="white", linewidth=1.0)
            if share >= 0.045:
                ink = INK if shade in _BRIGHT else "white"
                axes.text(start + share / 2, place, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=8)
            start += share
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.tick_params(axis="both", length=0)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    rows = -(-len(segments) // LEGEND_COLUMNS)
    # A legend fills its columns one after the other; the bands are to be read along the rows.
    by_column = (
        [place for column in range(LEGEND_COLUMNS) for place in range(column, len(segments), LEGEND_COLUMNS)]
        if rows > 1
        else range(len(segments))
    )
    handles = [
        Patch(facecolor=_SHADES[place], edgecolor=QUIET, linewidth=0.5, label=_together(segments[place]))
        for place in by_column
    ]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.0, 0.0), ncols=LEGEND_COLUMNS, fontsize=8,
        borderaxespad=0.2, borderpad=0.1, handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip


def _together(bands: Sequence[str]) -> str:
    return short_name(bands[0], 24) if len(bands) == 1 else "all others"
