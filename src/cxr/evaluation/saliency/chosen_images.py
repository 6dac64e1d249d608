"""Which few images stand for many?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxr.training.metrics import predicted_classes

KINDS = ("true positives", "false positives", "false negatives", "true negatives")
KINDS_WITHOUT_LABEL = ("called positive", "called negative")


def most_confident(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    positive_index: int,
    groups: Sequence[str],
    *,
    number: int,
    threshold: float | None = None,
) -> dict[str, NDArray[np.int64]]:
    """The images of which the network is surest, right and wrong.

    Those that are called positive come with the highest probability of the positive class first, the others with the
    lowest; ties in the order of the rows. A patient comes a second time only when there are no others left.

    Args:
        probabilities: (N, C).
        labels: (N,) class, -1 = unlabelled; such images are left out.
        positive_index: column of the positive class.
        groups: (N,) patient group.
        number: at most so many of each kind.
        threshold: see `cxr.training.metrics.predicted_classes`.

    Returns:
        For each of ``KINDS`` the row numbers, the surest first; empty where there is none.
    """
    called = predicted_classes(probabilities, positive_index, threshold=threshold) == positive_index
    actual, known = labels == positive_index, labels >= 0
    score = probabilities[:, positive_index].astype(np.float64)
    members = (called & actual, called & ~actual, ~called & actual, ~called & ~actual)
    doubt = np.where(called, -score, score)
    chosen = {}
    for kind, member in zip(KINDS, members, strict=True):
        rows = np.flatnonzero(member & known)
        chosen[kind] = _patients_first(rows[np.argsort(doubt[rows], kind="stable")], groups, number)
    return chosen


def most_confident_without_label(
    probabilities: NDArray[np.floating],
    positive_index: int,
    groups: Sequence[str],
    *,
    number: int,
    threshold: float | None = None,
) -> dict[str, NDArray[np.int64]]:
    """The images of which the network is surest, where nobody knows what is right.

    Args:
        probabilities, positive_index, groups, number, threshold: see `most_confident`, and so is the order.

    Returns:
        For each of ``KINDS_WITHOUT_LABEL`` the row numbers, the surest first; empty where there is none.
    """
    labels = np.full(len(probabilities), positive_index)
    chosen = most_confident(probabilities, labels, positive_index, groups, number=number, threshold=threshold)
    return dict(zip(KINDS_WITHOUT_LABEL, (chosen["true positives"], chosen["false negatives"]), strict=True))


def spread_over_patients(
    rows: NDArray[np.int64], groups: Sequence[str], *, number: int, seed: int = 0
) -> NDArray[np.int64]:
    """Some of many rows, drawn at random: one of each patient before the second of any.

    Args:
        rows: (M,) row numbers to draw from.
        groups: (N,) patient group of every row.
        number: at most so many.
        seed: 0 or more.

    Returns:
        Row numbers, ascending.
    """
    shuffled = np.random.default_rng(seed).permutation(rows)
    return np.sort(_patients_first(shuffled, groups, number))


def _patients_first(rows: NDArray[np.int64], groups: Sequence[str], number: int) -> NDArray[np.int64]:
    """The first rows, each patient's first before anybody's second."""
    turns: dict[str, int] = {}
    turn_of = []
    for row in rows:
        turn_of.append(turns.get(groups[row], 0))
        turns[groups[row]] = turn_of[-1] + 1
    return rows[np.argsort(np.array(turn_of, np.int64), kind="stable")][:number]
