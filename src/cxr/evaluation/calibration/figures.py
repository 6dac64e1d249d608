"""Do the probabilities hold, and what does each threshold give?  Reliability diagram and operating points as PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from cxr.evaluation.figure_style import FIRST, INK, QUIET, SECOND, drawing, short_name
from cxr.evaluation.metrics.curves import ThresholdRates

_HISTOGRAM_BINS = 20
_RATES = ("sensitivity", "specificity")
_LINE = 105  # letters that fit beside a marker
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def draw_reliability(
    entry: Mapping[str, Any],
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    path: Path,
    *,
    title: str,
    positive: str,
) -> None:
    """Observed against predicted, before and after calibration, and below it where the predictions lie.

    Args:
        entry: from :func:`cxr.evaluation.calibration.metrics.measure_calibration`.
        before: (N,) probability of the positive class by the network.
        after: (N,) the calibrated one.
        path: the PNG file.
        title: what was scored.
        positive: the positive class.
    """
    stages = [("before", "as the network says", before, entry["bins_before"])]
    if entry["method"] != "none":
        stages.append(("after", f"after {_method(entry)}", after, entry["bins"]))
    with drawing(path, (4.1 * len(stages) + 0.2, 5.6), title) as figure:
        grid = figure.subplots(2, len(stages), sharex=True, sharey="row", squeeze=False, height_ratios=[3.4, 1])
        for place, (stage, name, predicted, bins) in enumerate(stages):
            top, bottom = grid[:, place]
            _draw_bins(top, bins)
            error = entry[stage]["ece_equal_mass"]
            top.set_title(f"{name}\ncalibration error {_with_limits(error)}")
            bottom.hist(predicted, bins=np.linspace(0, 1, _HISTOGRAM_BINS + 1), color=FIRST, edgecolor="white", lw=0.5)
            bottom.set_xlabel(f"predicted probability of {short_name(positive)}")
            bottom.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
            bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        grid[0, 0].set_ylabel(f"observed share of {short_name(positive)}")
        grid[1, 0].set_ylabel("images")
        figure.align_ylabels(grid[:, 0])
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=len(stages))


def _draw_bins(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    axes.plot(
        [0, 1], [0, 1], color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), label="perfect calibration", zorder=1.5
    )
    x = np.array([row["mean_predicted"] for row in bins])
    y = np.array([row["observed"] for row in bins])
    for row in bins:
        if row["observed_low"] is not None:
            limits = [row["observed_low"], row["observed_high"]]
            axes.plot([row["mean_predicted"]] * 2, limits, color=FIRST, linewidth=1.3, clip_on=False)
    fewest, most = min(row["n"] for row in bins), max(row["n"] for row in bins)
    number = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    label = f"groups of {number} images, with 95 % interval"
    axes.plot(x, y, color=FIRST, linewidth=0.9, marker="o", markersize=4.5, clip_on=False, label=label, zorder=3)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid()
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))


def draw_operating_points(
    rates: ThresholdRates, points: Sequence[Mapping[str, Any]], path: Path, *, title: str, sides: str
) -> None:
    """Sensitivity and specificity against the threshold, with those that were chosen.

    Args:
        rates: of the images that are shown, from :func:`cxr.evaluation.metrics.curves.threshold_rates`.
        points: entries of `cxr.evaluation.calibration.operating_point_metrics.measure_operating_points` on the
            same images.
        path: the PNG file.
        title: what was scored.
        sides: the number of images on each side, in words.
    """
    same: dict[float, list[Mapping[str, Any]]] = {}
    for point in points:
        same.setdefault(point["threshold"], []).append(point)
    labels = [_label(together) for together in same.values()]
    num_lines = sum(1 + label.count("\n") for label in labels)
    with drawing(path, (6.6, 4.5 + 0.17 * num_lines), title, sides) as figure:
        axes = figure.subplots()
        # From one threshold down to the next the rates are those of the next: a probability equal to it is called.
        thresholds = np.concatenate([[1.0], np.minimum(rates.thresholds[1:], 1.0), [0.0]])
        for values, color, dash, name in (
            (rates.sensitivity, FIRST, "-", "sensitivity"),
            (1 - rates.false_positive_rate, SECOND, (0, (5, 2)), "specificity"),
        ):
            held = np.append(values, values[-1])
            axes.step(thresholds, held, where="post", color=color, linestyle=dash, label=name, clip_on=False)
        for place, (together, label) in enumerate(zip(same.values(), labels, strict=True)):
            _mark(axes, together[0], place, label)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("threshold on the predicted probability; in brackets: 95 % intervals")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", fontsize=8)


def _mark(axes: Axes, point: Mapping[str, Any], place: int, label: str) -> None:
    threshold = min(point["threshold"], 1.0)
    style: dict[str, Any] = {"color": INK, "markerfacecolor": "white", "clip_on": False}
    style["marker"] = _MARKERS[place % len(_MARKERS)]
    axes.axvline(threshold, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1.5)
    band = point.get("abstain")
    if band is not None:  # a bar for each, since the bands of neighbouring thresholds overlap
        height = 0.03 + 0.04 * place
        axes.plot([band["low"], band["high"]], [height] * 2, color=QUIET, linewidth=3, solid_capstyle="butt")
        axes.plot([threshold], [height], markersize=4, markeredgewidth=1, zorder=5, **style)
    known = [point[name]["value"] for name in _RATES if point[name]["value"] is not None]
    axes.plot(
        [threshold] * len(known), known, markersize=6.5, markeredgewidth=1.5, linestyle="none", label=label, zorder=5,
        **style,
    )  # fmt: skip


def _label(together: Sequence[Mapping[str, Any]]) -> str:
    """What a threshold gives, in lines that fit, under the names of all rules that chose it."""
    point = together[0]
    text = f"{' and '.join(one['name'] for one in together)}: from {point['threshold']:.3g} on, "
    text += ", ".join(f"{name} {_with_limits(point[name])}" for name in _RATES)
    if point.get("abstain") is not None:
        band = point["abstain"]
        share = band["abstained"]["value"]
        text += f"; no answer from {band['low']:.3g} to {band['high']:.3g}"
        text += "" if share is None else f" ({share:.1%} of the images)"
    return textwrap.fill(text, _LINE)


def _method(entry: Mapping[str, Any]) -> str:
    if entry["method"] == "temperature":
        return f"temperature {entry['temperature']:.2f}"
    return {"platt": "Platt scaling", "isotonic": "isotonic regression"}[entry["method"]]


def _with_limits(metric: Mapping[str, Any]) -> str:
    if metric["value"] is None:
        return "undefined"
    limits = "" if metric["low"] is None else f" ({metric['low']:.3f} to {metric['high']:.3f})"
    return f"{metric['value']:.3f}{limits}"
