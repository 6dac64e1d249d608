"""What does the page of a comparison show of the searches among its runs?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxr.evaluation.comparison.configurations import show_value
from cxr.evaluation.comparison.importance import METHOD, weigh
from cxr.evaluation.comparison.search_figures import draw_history, draw_importance
from cxr.evaluation.comparison.search_record import Search
from cxr.evaluation.report.figures import picture_of
from cxr.evaluation.report.parts import Part, Section
from cxr.evaluation.words import number

_WIDE = 480  # CSS pixels from which a figure is not read at the width of a phone


def draw_searches(searches: Sequence[Search], folder: Path) -> tuple[Section, list[Path]]:
    """The section of the page, and the figures that were written into a folder for it."""
    section = Section("search", "How the search went", "Each study by its trials, those that were pruned among them.")
    drawn: list[Path] = []
    for place, search in enumerate(searches, 1):
        mark = "" if len(searches) == 1 else f"_{place}"
        history, bars = folder / f"search_history{mark}.png", folder / f"search_importance{mark}.png"
        importances = weigh(search)
        pictures = []
        if draw_history(search, history):
            drawn.append(history)
            pictures.append(picture_of(history, "val/auroc of every trial, and the best so far.", wide=_WIDE))
        if draw_importance(importances, bars):
            drawn.append(bars)
            pictures.append(picture_of(bars, METHOD, wide=_WIDE))
        missing = "" if importances.missing is None else f"Not shown: {importances.missing}."
        sentences = [f"{search.summary}.", _best(search), missing]
        section.add(Part(sentences=[text for text in sentences if text], pictures=pictures))
    return section, drawn


def _best(search: Search) -> str:
    best = search.best
    if best is None:
        return ""
    settings = ", ".join(f"{name}={show_value(value)}" for name, value in best.params.items())
    return (
        f"The best is trial {best.number} (val/auroc {number(best.value)}): {settings}. It was chosen by this number, "
        "which therefore flatters it; the test split tells."
    )
