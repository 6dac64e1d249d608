"""What does a run look like?  Learning curves, class counts, confusion, ROC and precision-recall as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from numpy.typing import NDArray

from cxr.evaluation.figure_style import FIRST, INK, QUIET, SERIES, drawing, short_name
from cxr.evaluation.metrics.curves import Band, ThresholdRates

MAX_CELLS_WITH_TEXT = 12  # classes up to which a confusion cell holds its numbers


def _line(axes: Axes, x: NDArray[Any], y: NDArray[Any], series: int, label: str) -> None:
    """A line with its name at its end instead of in a legend; markers only where they do not run together."""
    style = dict(SERIES[series])
    if len(x) > 40:
        style["marker"] = None
    axes.plot(x, y, label=label, clip_on=False, **style)


def draw_training_curves(
    history: pd.DataFrame, path: Path, best_epoch: int | None = None, rates: pd.DataFrame | None = None
) -> bool:
    """Loss, validation scores and learning rate over the epochs.

    Args:
        history: column ``epoch``, counted from 0, and any of ``train/loss``, ``val/loss``, ``val/auroc``,
            ``val/balanced_accuracy``, ``lr``; rows may lack any of them, and an epoch may have many rows.
        path: the PNG file.
        best_epoch: the epoch of the checkpoint that is evaluated; marked by a dotted vertical line.
        rates: columns ``epoch`` (with a fraction), ``stage``, ``lr`` and ``lr_first``: how the rates moved, drawn
            instead of those at the ends of the epochs, on a logarithmic axis where there are several stages; thin lines
            then stand between these in every panel.

    Returns:
        Whether there was anything to draw.
    """
    panels: list[tuple[str, str, list[tuple[str, str]]]] = [
        ("Loss", "cross-entropy (nats)", [("train/loss", "training"), ("val/loss", "validation")]),
        ("Validation", "score (0 to 1)", [("val/auroc", "AUROC"), ("val/balanced_accuracy", "balanced accuracy")]),
        ("Learning rate", "learning rate", [("lr", "")]),
    ]
    drawn = [
        (name, unit, [(column, label) for column, label in columns if _has_values(history, column)])
        for name, unit, columns in panels
    ]
    drawn = [panel for panel in drawn if panel[2]]
    if not drawn:
        return False
    num_epochs = int(history["epoch"].max()) + 1
    stages = None if rates is None else rates.groupby("stage").agg({"epoch": "min", "lr_first": "max"})
    staged = stages is not None and len(stages) > 1
    title = f"Training over {num_epochs} epoch{'s' if num_epochs > 1 else ''}"
    if best_epoch is not None:
        title = f"Training: epoch {best_epoch + 1} of {num_epochs} is evaluated (dotted line)"
    if stages is not None and staged:
        title = f"{title}, {len(stages)} stages (thin lines)"
    with drawing(path, (3.9 * len(drawn), 3.2), title) as figure:
        for axes, (name, unit, columns) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
            lines = [(*_along_epochs(history, column), label) for column, label in columns]
            if name == "Learning rate" and rates is not None:
                lines = _rate_lines(rates)
            highest = max(float(np.max(values)) for _, values, _ in lines)
            lowest = min(float(np.min(values)) for _, values, _ in lines)
            scale = 1.0
            if name == "Learning rate" and staged:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
                axes.yaxis.set_minor_formatter(NullFormatter())
            elif name == "Learning rate" and highest > 0:
                exponent = math.floor(math.log10(highest) + 1e-9)
                scale = 10.0**exponent
                unit = f"{unit} (1e{exponent})"
            for series, (epochs, values, label) in enumerate(lines):
                _line(axes, epochs, values / scale, series, label)
            if name == "Learning rate" and staged:
                # A cycle ends a hundred thousand times below its highest rate, which is of no interest.
                assert stages is not None
                axes.set_ylim(float(stages["lr_first"].min()) / 30, 1.5 * highest)
                for line in axes.lines:  # the ends of the cycles lie below
                    line.set_clip_on(True)
            elif name == "Validation":
                axes.set_ylim(min(0.5, math.floor(lowest * 10 - 0.2) / 10), 1.0)
            else:
                axes.set_ylim(0.0, 1.08 * highest / scale if highest > 0 else 1.0)
            axes.set_title(name)
            axes.set_xlabel("epochs")
            axes.set_ylabel(unit)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
            axes.set_xlim(0, num_epochs)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
            for begin in [] if stages is None else stages["epoch"][1:]:
                axes.axvline(begin, color=QUIET, linewidth=0.6, zorder=0.4)
            if best_epoch is not None:
                axes.axvline(best_epoch + 1, color=QUIET, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)
            if len(lines) > 1:  # beside the panel's title, where no line can run through it
                axes.legend(
                    loc="lower right",
                    bbox_to_anchor=(1.0, 1.0),
                    ncols=2,
                    fontsize=8,
                    columnspacing=1.2,
                    borderaxespad=0.2,
                )
    return True


def _rate_lines(rates: pd.DataFrame) -> list[tuple[NDArray[Any], NDArray[Any], str]]:
    """The rate of the head and, where it differs anywhere, that of the first layers."""
    epochs, head, first = (rates[name].to_numpy(float) for name in ("epoch", "lr", "lr_first"))
    return [(epochs, head, "head"), (epochs, first, "first layers")] if (head != first).any() else [(epochs, head, "")]


def _has_values(history: pd.DataFrame, column: str) -> bool:
    return column in history and bool(np.isfinite(pd.to_numeric(history[column], errors="coerce")).any())


def _along_epochs(history: pd.DataFrame, column: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Epochs are counted from 1 on paper; rows within one epoch are spread evenly up to its end."""
    rows = history[["epoch", column]].apply(pd.to_numeric, errors="coerce").dropna()
    place = rows.groupby("epoch").cumcount() + 1
    rows_of_epoch = rows.groupby("epoch")["epoch"].transform("size")
    return (rows["epoch"] + place / rows_of_epoch).to_numpy(float), rows[column].to_numpy(float)


def draw_class_counts(counts: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """How many images of each class stand in each split.

    Args:
        counts: split -> class name -> images.
        path: the PNG file.
    """
    class_names = list(dict.fromkeys(name for of_split in counts.values() for name in of_split))
    longest = max((number for of_split in counts.values() for number in of_split.values()), default=0)
    size = (2.7 * len(counts) + 1.0, 1.5 + 0.34 * len(class_names))
    with drawing(path, size, "Images of each class") as figure:
        for axes, (split, of_split) in zip(
            figure.subplots(1, len(counts), sharey=True, squeeze=False)[0], counts.items(), strict=True
        ):
            numbers = [of_split.get(name, 0) for name in class_names]
            total = sum(numbers)
            axes.barh(range(len(class_names)), numbers, height=0.62, color=FIRST)
            for place, number in enumerate(numbers):
                share = f" ({number / total:.0%})" if total else ""
                axes.annotate(
                    f"{number:,}{share}", (number, place), xytext=(4, 0), textcoords="offset points", va="center"
                )
            axes.set_title(f"{split}: {total:,}")
            axes.set_xlim(0, longest * 1.55 if longest else 1)
            axes.set_ylim(len(class_names) - 0.5, -0.5)
            axes.set_yticks(range(len(class_names)), [short_name(name) for name in class_names])
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.set_xlabel("images")


def draw_confusion(
    matrix: NDArray[np.integer], class_names: Sequence[str], path: Path, *, title: str, majority: str
) -> None:
    """The confusion matrix with counts and row rates; shade = share of the row.

    Args:
        matrix: (C, C) counts, rows actual, columns predicted.
        class_names: (C,) in the order of the matrix.
        path: the PNG file.
        title: what was scored.
        majority: the class whose constant answer is the baseline.
    """
    num_classes = len(class_names)
    totals = matrix.sum(axis=1, keepdims=True)
    rates = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    with_text = num_classes <= MAX_CELLS_WITH_TEXT
    cell = max(0.85, 2.4 / num_classes) if with_text else 0.34
    names = [short_name(name) for name in class_names]
    longest = 0.085 * max(len(name) for name in names)  # inches
    rotated = longest > 0.95 * cell
    right, always, total = (
        int(np.trace(matrix)),
        int(totals[list(class_names).index(majority), 0]),
        int(matrix.sum()),
    )
    subtitle = f"{right:,} of {total:,} images right ({right / total:.1%})\n"
    subtitle += f"always {short_name(majority)}: {always:,} ({always / total:.1%})"
    size = (
        cell * num_classes + longest + (1.3 if with_text else 2.4),
        cell * num_classes + 1.75 + (longest if rotated else 0.2),
    )
    shade = LinearSegmentedColormap.from_list("paper_to_ink", ["#ffffff", "#9dbdd6", FIRST])
    with drawing(path, size, title, subtitle) as figure:
        axes = figure.subplots()
        image = axes.imshow(rates, cmap=shade, vmin=0.0, vmax=1.0)
        axes.set_xticks(range(num_classes), names, rotation=90 if rotated else 0)
        rows = [f"{name}\n{int(n):,}" if with_text else name for name, n in zip(names, totals[:, 0], strict=True)]
        axes.set_yticks(range(num_classes), rows)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")
        axes.spines[:].set_visible(True)
        axes.set_xticks(np.arange(1, num_classes) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, num_classes) - 0.5, minor=True)
        axes.grid(which="minor", color=QUIET, linewidth=0.4)
        axes.tick_params(which="both", length=0)
        if not with_text:
            bar = figure.colorbar(image, ax=axes, shrink=0.5, label="share of the actual class")
            bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
            return
        for row, column in np.ndindex(matrix.shape):
            # From .8 on, white letters stand out more from the shade than black ones.
            ink = "white" if rates[row, column] > 0.8 else INK
            share = f"{rates[row, column]:.0%}" if totals[row, 0] else "no image"
            centred: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
            axes.text(column, row - 0.1, f"{int(matrix[row, column]):,}", fontsize=13, fontweight="bold", **centred)
            axes.text(column, row + 0.2, share, fontsize=8.5, **centred)


def draw_roc(
    rates: ThresholdRates,
    path: Path,
    *,
    title: str,
    sides: str,
    auroc: float | None,
    threshold: float | None,
    interval: tuple[float, float] | None = None,
    band: Band | None = None,
    operating_points: Mapping[str, float] | None = None,
) -> None:
    """Sensitivity against the false-positive rate, with the line of chance and the points that are used.

    Args:
        rates: from :func:`cxr.evaluation.metrics.curves.threshold_rates`.
        path: the PNG file.
        title: what was scored.
        sides: the number of images on each side, in words.
        auroc: the area, as it stands in ``metrics.json``.
        threshold: the operating point that is marked, if the answer is taken at a threshold.
        interval: the limits of the area.
        band: the limits of the curve, from :func:`cxr.evaluation.metrics.curves.curve_bands`.
        operating_points: further thresholds to mark, by name.
    """
    with drawing(path, (4.5, _height(threshold, band, operating_points)), title, sides) as figure:
        axes = _unit_square(figure)
        axes.plot([0, 1], [0, 1], label="chance: AUROC 0.500", **_baseline())
        label = f"network: AUROC {_number(auroc)}{_limits(interval)}"
        axes.plot(rates.false_positive_rate, rates.sensitivity, color=FIRST, clip_on=False, label=label)
        _fill(axes, band)
        _mark_points(axes, rates.false_positive_rate, rates.sensitivity, rates, threshold, operating_points)
        axes.set_xlabel("false-positive rate (1 - specificity)")
        axes.set_ylabel("sensitivity")
        figure.legend(loc="outside lower left")


def draw_precision_recall(
    rates: ThresholdRates,
    path: Path,
    *,
    title: str,
    sides: str,
    average_precision: float | None,
    prevalence: float,
    threshold: float | None,
    interval: tuple[float, float] | None = None,
    band: Band | None = None,
    operating_points: Mapping[str, float] | None = None,
) -> None:
    """Precision against sensitivity, with the prevalence as the line of chance; arguments as :func:`draw_roc`."""
    with drawing(path, (4.5, _height(threshold, band, operating_points)), title, sides) as figure:
        axes = _unit_square(figure)
        axes.plot([0, 1], [prevalence, prevalence], label=f"chance: prevalence {_number(prevalence)}", **_baseline())
        label = f"network: average precision {_number(average_precision)}{_limits(interval)}"
        # Between two thresholds no precision is reached by interpolation (Davis & Goadrich 2006): steps, not slopes.
        axes.step(rates.sensitivity, rates.precision, where="pre", color=FIRST, clip_on=False, label=label)
        _fill(axes, band)
        _mark_points(axes, rates.sensitivity, rates.precision, rates, threshold, operating_points, from_called=True)
        axes.set_xlabel("sensitivity (recall)")
        axes.set_ylabel("precision (PPV)")
        figure.legend(loc="outside lower left")


def _height(threshold: float | None, band: Band | None, operating_points: Mapping[str, float] | None) -> float:
    """Inches: the curve keeps its size, whatever stands in the legend below it."""
    return 5.0 + 0.195 * ((threshold is not None) + (band is not None) + len(operating_points or {}))


def _limits(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _fill(axes: Axes, band: Band | None) -> None:
    if band is not None:
        label = "95 % of resamples of patients, at each point"
        axes.fill_between(band.x, band.low, band.high, color=FIRST, alpha=0.18, linewidth=0, label=label, zorder=1.2)


def _unit_square(figure: Figure) -> Axes:
    axes = figure.subplots()
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.grid()
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
        axis.set_major_locator(MaxNLocator(5))
    return axes


def _baseline() -> dict[str, Any]:
    return {"color": QUIET, "linewidth": 1.2, "linestyle": (0, (4, 3)), "zorder": 1.5}


def _mark_points(
    axes: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    rates: ThresholdRates,
    threshold: float | None,
    operating_points: Mapping[str, float] | None,
    *,
    from_called: bool = False,
) -> None:
    """Mark where the thresholds lie on the curve; with `from_called` only those at which something is called."""
    named = {} if threshold is None else {"in use": threshold}
    for (name, used), marker in zip((named | dict(operating_points or {})).items(), cycle("osD^v"), strict=False):
        place = int(np.count_nonzero(rates.thresholds >= used)) - 1
        if from_called and place == 0:  # no PPV is defined there
            continue
        axes.plot(
            x[place], y[place], marker, color=INK, markersize=7, markerfacecolor="white", markeredgewidth=1.8,
            linestyle="none", clip_on=False, label=f"{short_name(name)}: threshold {_number(used)}", zorder=5,
        )  # fmt: skip


def _number(value: float | None) -> str:
    return "undefined" if value is None or not math.isfinite(value) else f"{value:.3f}"
