"""How did a search go, and which settings mattered?  Every trial by its number; a bar for each setting."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cxr.evaluation.comparison.configurations import short_names
from cxr.evaluation.comparison.importance import Importances
from cxr.evaluation.comparison.search_record import Search
from cxr.evaluation.figure_style import FIRST, INK, QUIET, SECOND, drawing, short_name


def draw_history(search: Search, path: Path) -> bool:
    """Every trial that has ended, by its number, and the best so far.

    Args:
        path: the PNG file.

    Returns:
        Whether there was anything to draw: two trials with a value.
    """
    complete = [trial for trial in search.having("complete") if trial.value is not None]
    pruned = [trial for trial in search.having("pruned") if trial.value is not None]
    valueless = [trial.number for trial in search.trials if trial.outcome in ("diverged", "failed")]
    known = np.array([trial.value for trial in (*complete, *pruned)], dtype=np.float64)
    if len(known) < 2:
        return False
    last = max(trial.number for trial in search.trials)
    with drawing(path, (7.6, 3.9), "val/auroc of every trial, in the order in which they began") as figure:
        axes = figure.subplots()
        if complete:
            best = itertools.accumulate((trial.value or 0.0 for trial in complete), max)
            where, heights = [trial.number for trial in complete], list(best)
            axes.step(
                [*where, last], [*heights, heights[-1]], where="post", color=INK, linewidth=1.4, label="best so far",
                zorder=2,
            )  # fmt: skip
            axes.plot(
                where, [trial.value or 0.0 for trial in complete], "o", color=FIRST, markersize=5.5,
                markerfacecolor="white", markeredgewidth=1.3, label=f"complete ({len(complete)})", zorder=3,
            )  # fmt: skip
        if pruned:
            axes.plot(
                [trial.number for trial in pruned], [trial.value or 0.0 for trial in pruned], "x", color=SECOND,
                markersize=6, markeredgewidth=1.8, label=f"pruned, at its last epoch ({len(pruned)})", zorder=3,
            )  # fmt: skip
        room = 0.08 * (float(np.ptp(known)) or 0.1)
        axes.set_ylim(float(known.min()) - (2.2 if valueless else 1) * room, float(known.max()) + room)
        if valueless:
            # They have no value: marks along the lower edge.
            axes.plot(
                valueless, np.full(len(valueless), 0.035), "v", transform=axes.get_xaxis_transform(), color=QUIET,
                markersize=6, label=f"diverged or failed, no value ({len(valueless)})", zorder=3,
            )  # fmt: skip
        axes.set_xlim(-0.6, last + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.set_xlabel("trial")
        axes.set_ylabel("val/auroc")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower left", ncols=4)
    return True


def draw_importance(importances: Importances, path: Path) -> bool:
    """A bar for each setting, filled where it exceeds chance.

    Args:
        path: the PNG file.

    Returns:
        Whether there was anything to draw.
    """
    settings = importances.settings
    if not settings:
        return False
    names = short_names([each.name for each in settings])
    title = f"What decides whether a trial is among the best {100 * importances.best:.0f} %"
    with drawing(path, (6.4, 1.5 + 0.36 * len(settings)), title) as figure:
        axes = figure.subplots()
        places = np.arange(len(settings))[::-1]
        axes.barh(
            places, [each.share for each in settings], height=0.62, edgecolor=FIRST, linewidth=1.3,
            color=[FIRST if each.above_chance else "white" for each in settings],
        )  # fmt: skip
        for place, each in zip(places, settings, strict=True):
            axes.annotate(
                f"{each.share:.2f}", (each.share, float(place)), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=8.5,
            )  # fmt: skip
        axes.set_yticks(places, [short_name(names[each.name], 28) for each in settings])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.08 * max(max(each.share for each in settings), 0.1))
        axes.set_xlabel("share of the importance of all settings")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        handles = [
            Patch(facecolor=FIRST, edgecolor=FIRST, label="more than shuffled values give (19 of 20)"),
            Patch(facecolor="white", edgecolor=FIRST, label="not more than chance"),
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
    return True
