"""Of many differences, which are found by more than chance?"""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float | None], num_comparisons: int | None = None) -> list[float | None]:
    """Correct for many comparisons: the chance of any false finding among them stays below the level.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Args:
        p_values: None where nothing was tested: it counts for nothing.
        num_comparisons: how many comparisons there could have been, if more than are given: those left out were
            chosen by looking at the data, and count as if they were larger.
    """
    tested = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    total = max(len(tested), num_comparisons if num_comparisons is not None else 0)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(tested):
        highest = max(highest, min(1.0, (total - rank) * p))
        corrected[place] = highest
    return corrected
