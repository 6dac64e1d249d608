"""How do the rates of right and wrong answers move with the threshold, and how far could other patients move them?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.evaluation.metrics.weighted_metrics import CHUNK, cumulated, rank
from cxr.statistics.resampling import MIN_GROUPS, patient_resamples

NUM_POINTS = 201  # places along a curve at which its band is computed
_ROUNDING = 1e-9  # a place and a rate that are the same number may differ by it


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


@dataclass(frozen=True)
class Band:
    """Limits of a curve at each place along it, for that place alone: 95 of 100 resampled curves pass between them.

    Args:
        x: (K,) ascending, 0..1.
        low: (K,) 0..1.
        high: (K,) 0..1.
    """

    x: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class CurveBands:
    """Bands of both curves: sensitivity along the false-positive rate, and precision along the sensitivity."""

    roc: Band
    precision_recall: Band


def curve_bands(
    scores: NDArray[np.floating],
    is_positive: NDArray[np.bool_],
    groups: Sequence[str] | NDArray[Any],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> CurveBands | None:
    """Bands of the ROC and the precision-recall curve from resamples of patients.

    Vertical limits: at each false-positive rate those of the sensitivity (Fawcett, "An introduction to ROC analysis",
    2006, on averaging curves vertically), at each sensitivity those of the precision. Like any percentile of
    resamples they have no width where every resample is at the end of the scale.

    Args:
        scores: (N,) probability of the positive class.
        is_positive: (N,).
        groups: (N,) patient group of each image.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        None where fewer than ``MIN_GROUPS`` patients are on one of the sides, or no resample differs: such bands would
        be too narrow.
    """
    patients = np.asarray(groups)
    if min(len(np.unique(patients[side])) for side in (is_positive, ~is_positive)) < MIN_GROUPS:
        return None
    weights = patient_resamples(patients, is_positive.astype(np.int64), num_resamples=num_resamples, seed=seed)
    ranking = rank(scores, is_positive)
    x = np.linspace(0.0, 1.0, NUM_POINTS)
    sensitivity, precision = [], []
    at_a_time = max(1, CHUNK // len(scores))
    for start in range(0, num_resamples, at_a_time):
        found, called = cumulated(weights[start : start + at_a_time].astype(np.float64), ranking)
        sensitivity += [_roc_at(x, *counts) for counts in zip(found, called, strict=True)]
        precision += [_precision_at(x, *counts) for counts in zip(found, called, strict=True)]
    bands = [Band(x, *np.quantile(curves, [0.025, 0.975], axis=0)) for curves in (sensitivity, precision)]
    if all((band.low == band.high).all() for band in bands):
        return None
    return CurveBands(*bands)


def _roc_at(x: NDArray[np.float64], found: NDArray[np.float64], called: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sensitivity at each false-positive rate: the highest one there, on the straight line between two thresholds."""
    sensitivity = np.append(0.0, found / found[-1])
    passed = called - found
    rate = np.append(0.0, passed / passed[-1])
    before = np.searchsorted(rate, x + _ROUNDING, side="right") - 1
    after = np.minimum(before + 1, len(rate) - 1)
    width = rate[after] - rate[before]
    share = np.divide(np.maximum(x - rate[before], 0.0), width, out=np.zeros_like(x), where=width > 0)
    at: NDArray[np.float64] = sensitivity[before] + share * (sensitivity[after] - sensitivity[before])
    return at


def _precision_at(
    x: NDArray[np.float64], found: NDArray[np.float64], called: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Precision at the strictest threshold that reaches each sensitivity; no slopes (Davis & Goadrich 2006)."""
    reached = np.searchsorted(found, (x - _ROUNDING) * found[-1], side="left")
    first = np.searchsorted(called, 0.0, side="right")  # images that are not in the resample call nothing
    place = np.clip(reached, first, len(found) - 1)
    at: NDArray[np.float64] = found[place] / called[place]
    return at
