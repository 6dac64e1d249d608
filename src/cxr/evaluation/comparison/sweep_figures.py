"""What does each setting of a sweep do to a metric?  Every run as a line or a point, numbers on fitting scales."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from cxr.evaluation.comparison.configurations import Factor, show_value
from cxr.evaluation.figure_style import FIRST, INK, QUIET, SECOND, drawing, short_name

MAX_FACTORS = 6  # axes or panels that one figure can hold at a readable size
MAX_LEVELS = 8  # levels of a factor that are named one by one
MAX_LINES = 200
# Best, middle and worst third of the runs: apart in grey, in width and in dash.
THIRDS: tuple[dict[str, Any], ...] = (
    {"color": FIRST, "linewidth": 2.2, "linestyle": "-"},
    {"color": SECOND, "linewidth": 1.5, "linestyle": (0, (5, 2))},
    {"color": "#bdbdbd", "linewidth": 1.5, "linestyle": (0, (1.2, 1.4))},
)


def is_rate(values: Sequence[Any]) -> bool:
    """Whether numbers belong on a logarithmic scale: all above zero, and a factor of 8 or more apart."""
    return all(value > 0 for value in values) and max(values) >= 8 * min(values)


def draw_parallel_coordinates(
    factors: Sequence[Factor], values: Mapping[str, float], path: Path, *, metric: str, lower_is_better: bool = False
) -> bool:
    """One line per run through its settings to its metric.

    Runs that share a setting run side by side there, in the order of the metric, so that no line hides another. The
    axis of the metric has the better end on top.

    Args:
        factors: what the runs vary; of more than ``MAX_FACTORS`` the first ones are drawn.
        values: name of the run -> metric; runs without one are left out.
        path: the PNG file.
        metric: what the values are, in words.
        lower_is_better: whether small values are good.

    Returns:
        Whether there was anything to draw: two factors or more, three runs or more.
    """
    factors = factors[:MAX_FACTORS]
    names = [name for name in values if all(name in factor.values for factor in factors)]
    if len(factors) < 2 or len(names) < 3:
        return False
    ranked = sorted(names, key=values.__getitem__, reverse=not lower_is_better)[:MAX_LINES]  # the best first
    heights = np.array([_heights(factor, ranked) for factor in factors])
    scores = np.array([values[name] for name in ranked])
    low, high = _padded(scores)
    last = (scores - low) / (high - low)
    heights = np.vstack([heights, 1 - last if lower_is_better else last])
    with drawing(
        path, (1.75 * (len(factors) + 1) + 1.2, 4.4), f"Every run, from its settings to its {metric}"
    ) as figure:
        axes = figure.subplots()
        _lines(axes, heights)
        for place, factor in enumerate(factors):
            logarithmic = factor.is_numeric and is_rate(factor.levels)
            _axis(axes, place, _ticks(factor), _title(factor) + (" (log scale)" if logarithmic else ""))
        ticks = [(float(1 - at if lower_is_better else at), text) for at, text in _number_ticks(low, high)]
        better = " (lower is better)" if lower_is_better else ""
        _axis(axes, len(factors), ticks, f"{metric}{better}", bold=True)
        axes.set_xlim(-0.35, len(factors) + 0.55)
        axes.set_ylim(-0.13, 1.25)
        axes.set_axis_off()
        _legend(figure, len(ranked))
    return True


def draw_main_effects(
    factors: Sequence[Factor], values: Mapping[str, float], path: Path, *, metric: str, full_grid: bool
) -> bool:
    """The metric against each setting: a point for every run, and the mean at each value.

    Args:
        factors: what the runs vary; of more than ``MAX_FACTORS`` the first ones are drawn.
        values: name of the run -> metric; runs without one are left out.
        path: the PNG file.
        metric: what the values are, in words.
        full_grid: whether every combination was run; else the figure says that the means mix the settings.

    Returns:
        Whether there was anything to draw: one factor, two runs.
    """
    factors = [factor for factor in factors[:MAX_FACTORS] if sum(name in values for name in factor.values) >= 2]
    if not factors:
        return False
    columns = min(3, len(factors))
    rows = math.ceil(len(factors) / columns)
    title = f"{metric[0].upper()}{metric[1:]} against each setting: every run (o) and the mean (line)"
    with drawing(path, (max(4.6, 3.3 * columns), 3.4 * rows + (0.3 if full_grid else 0.5)), title) as figure:
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(factors):
                axes.set_axis_off()
                continue
            _panel(axes, factors[place], values)
            if place % columns == 0:
                axes.set_ylabel(metric)
        if not full_grid:
            figure.supxlabel(
                "Not every combination was run: a mean also carries what else differs between its runs.",
                x=0.012, ha="left", fontsize=8, color=QUIET,
            )  # fmt: skip
    return True


def _panel(axes: Axes, factor: Factor, values: Mapping[str, float]) -> None:
    names = [name for name in factor.values if name in values]
    levels = [level for level in factor.levels if any(factor.values[name] == level for name in names)]
    scaled = factor.is_numeric
    logarithmic = scaled and is_rate(levels)
    where = [float(level) for level in levels] if scaled else [float(place) for place in range(len(levels))]
    means = []
    for level, x in zip(levels, where, strict=True):
        scores = np.array([values[name] for name in names if _same(factor.values[name], level)])
        means.append(float(scores.mean()))
        step = 0.02 if logarithmic else 0.02 * ((max(where) - min(where)) or 1.0)
        offsets = _beside(scores) * step
        at = x * np.power(10.0, offsets * _decades(where)) if logarithmic else x + offsets
        axes.plot(
            at, scores, "o", color=FIRST, markersize=5, markerfacecolor="white", markeredgewidth=1.2, zorder=3,
        )  # fmt: skip
    # Between names there is nothing to interpolate: short bars instead of a line. Where a search drew the numbers, each
    # run has its own, and the mean of one run is no mean.
    drawn = scaled and len(levels) > MAX_LEVELS
    if scaled and not drawn:
        axes.plot(where, means, color=INK, linewidth=1.6, marker="_", markersize=16, markeredgewidth=2.2, zorder=2)
    elif not scaled:
        axes.hlines(means, np.array(where) - 0.28, np.array(where) + 0.28, color=INK, linewidth=2.2, zorder=2)
    if logarithmic:
        axes.set_xscale("log")
        room = 10 ** (0.18 * _decades(where))
        axes.set_xlim(min(where) / room, max(where) * room)
    else:
        room = 0.18 * (max(where) - min(where)) if scaled and len(where) > 1 else 0.6
        axes.set_xlim(min(where) - room, max(where) + room)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(levels) <= MAX_LEVELS:
        long = not scaled and max(len(show_value(level)) for level in levels) * len(levels) > 30
        axes.set_xticks(where, [short_name(show_value(level), 18) for level in levels], rotation=30 if long else 0)
        if long:
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
                label.set_rotation_mode("anchor")
    elif not scaled:
        axes.set_xticks([])
    elif logarithmic:  # plain numbers: text is not parsed as mathematics here
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_title(_title(factor) + (" (log scale)" if logarithmic else ""))
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _beside(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps to the side, so that points of (nearly) one score stand beside each other: 0, 1, -1, 2, ..."""
    near = 0.01 * (float(np.ptp(scores)) or 1.0)
    steps = np.zeros(len(scores))
    order = np.argsort(scores, kind="stable")
    count = 0
    for before, now in itertools.pairwise(order):
        count = count + 1 if scores[now] - scores[before] <= near else 0
        steps[now] = (count + 1) // 2 * (1 if count % 2 else -1)
    return steps


def _decades(where: Sequence[float]) -> float:
    return math.log10(max(where) / min(where)) or 1.0


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _positions(factor: Factor) -> dict[str, float]:
    """Height 0..1 of each level, under its `repr`."""
    levels = factor.levels
    if len(levels) == 1:
        return {repr(levels[0]): 0.5}
    if factor.is_numeric:
        numbers = [math.log10(level) for level in levels] if is_rate(levels) else [float(level) for level in levels]
        low, high = min(numbers), max(numbers)
        return {repr(level): (at - low) / (high - low) for level, at in zip(levels, numbers, strict=True)}
    return {repr(level): place / (len(levels) - 1) for place, level in enumerate(levels)}


def _heights(factor: Factor, ranked: Sequence[str]) -> NDArray[np.float64]:
    """Where each run crosses the axis; runs of one level side by side, the best on top."""
    positions = _positions(factor)
    heights = np.array([positions[repr(factor.values[name])] for name in ranked])
    band, spread = _band(factor), heights.copy()
    for height in np.unique(heights):
        members = np.flatnonzero(heights == height)
        if len(members) > 1:
            spread[members] = height + band * np.linspace(0.5, -0.5, len(members))
    return spread


def _band(factor: Factor) -> float:
    """The room that the runs of one level take."""
    heights = np.unique(list(_positions(factor).values()))
    return min(0.11, 0.4 * float(np.diff(heights).min())) if len(heights) > 1 else 0.11


def _lines(axes: Axes, heights: NDArray[np.float64]) -> None:
    """Smooth lines of the runs, best first; drawn from the worst to the best, so that the best lie on top."""
    num_axes, num_runs = heights.shape
    share = np.linspace(0, 1, 24)
    ease = share * share * (3 - 2 * share)
    for run in reversed(range(num_runs)):
        pieces = [
            np.column_stack([place + share, start + ease * (end - start)])
            for place, (start, end) in enumerate(zip(heights[:-1, run], heights[1:, run], strict=True))
        ]
        style = THIRDS[_third(run, num_runs)]
        axes.add_collection(LineCollection([np.concatenate(pieces)], **style, zorder=3 - _third(run, num_runs)))
        axes.plot(num_axes - 1, heights[-1, run], "o", color=style["color"], markersize=3.5, zorder=4)


def _third(rank: int, count: int) -> int:
    return min(2, 3 * rank // count)


def _axis(axes: Axes, place: int, ticks: Sequence[tuple[float, str]], title: str, *, bold: bool = False) -> None:
    axes.plot([place, place], [-0.08, 1.08], color=INK if bold else QUIET, linewidth=1.6 if bold else 0.9, zorder=5)
    axes.text(place, 1.2, title, ha="center", va="bottom", fontweight="bold", fontsize=8.5)
    for height, text in ticks:
        axes.annotate(
            text, (place, height), xytext=(7 if bold else 5, 0), textcoords="offset points", va="center", fontsize=8,
            zorder=6, bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.88},
        )  # fmt: skip


def _ticks(factor: Factor) -> list[tuple[float, str]]:
    """Names of the levels, beside the lines that cross there: above them at the top, else below."""
    levels, positions, aside = factor.levels, _positions(factor), _band(factor) / 2 + 0.035
    shown = {repr(level): short_name(show_value(level), 18) for level in levels}
    if len(levels) > MAX_LEVELS:
        levels = [levels[0], levels[len(levels) // 2], levels[-1]]
        # Numbers that a search drew have more digits than anybody reads.
        shown |= {repr(level): f"{level:.3g}" for level in levels if isinstance(level, float)}
    placed = [(positions[repr(level)], shown[repr(level)]) for level in levels]
    return [(height + aside if height == 1 else height - aside, text) for height, text in placed]


def _title(factor: Factor) -> str:
    name = short_name(factor.name, 20)
    return name if not factor.also else f"{name}\nwith {short_name(', '.join(factor.also), 26)}"


def _padded(scores: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(scores.min()), float(scores.max())
    room = 0.06 * (high - low) or 0.01
    return low - room, high + room


def _number_ticks(low: float, high: float) -> list[tuple[float, str]]:
    inside = [tick for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]
    digits = max(2, 1 - math.floor(math.log10((high - low) / 5)))
    return [((tick - low) / (high - low), f"{tick:.{digits}f}") for tick in inside]


def _legend(figure: Figure, num_runs: int) -> None:
    names = ("best third", "middle third", "last third")
    used = sorted({_third(run, num_runs) for run in range(num_runs)})
    handles = [Line2D([], [], **THIRDS[third], label=f"{names[third]} of {num_runs} runs") for third in used]
    figure.legend(handles=handles, loc="outside lower left", ncols=3)
