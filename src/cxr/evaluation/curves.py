"""How do the rates of right and wrong answers move as the threshold moves?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ThresholdRates:
    """Rates at every threshold that the scores can tell apart, from the strictest to the laxest.

    The first point is the threshold that calls nothing positive. Images of equal score enter together, so that
    the order of ties, which is chance, cannot shape the curve.

    Args:
        thresholds: (T,) descending, the first is infinity; an image is positive where score >= threshold.
        sensitivity: (T,) share of the positives found, 0..1.
        false_positive_rate: (T,) share of the negatives called positive, 0..1.
        precision: (T,) share of the images called positive that are, 0..1; where none is, the next threshold's.
    """

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    false_positive_rate: NDArray[np.float64]
    precision: NDArray[np.float64]


def threshold_rates(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> ThresholdRates:
    """Count the right and wrong answers at every threshold.

    Args:
        scores: (N,) probability of the positive class.
        is_positive: (N,) whether the image is of that class.

    Raises:
        ValueError: where one of the two sides has no image: there is no curve then.
    """
    num_positives = int(is_positive.sum())
    num_negatives = len(is_positive) - num_positives
    if num_positives == 0 or num_negatives == 0:
        raise ValueError(f"a curve needs both sides: {num_positives} positives, {num_negatives} negatives")
    order = np.argsort(-scores, kind="stable")
    descending = scores[order].astype(np.float64)
    last_of_tie = np.append(np.flatnonzero(np.diff(descending)), len(descending) - 1)
    true_positives = np.cumsum(is_positive[order])[last_of_tie]
    called_positive = last_of_tie + 1
    precision = true_positives / called_positive
    return ThresholdRates(
        thresholds=np.concatenate([[np.inf], descending[last_of_tie]]),
        sensitivity=np.concatenate([[0.0], true_positives / num_positives]),
        false_positive_rate=np.concatenate([[0.0], (called_positive - true_positives) / num_negatives]),
        precision=np.concatenate([precision[:1], precision]),
    )
