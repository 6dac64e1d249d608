"""How far can a number be off?  Intervals in closed form, which also hold where a bootstrap has no width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, ndtr, ndtri, stdtrit  # quantiles without the slow checks of scipy.stats
from scipy.stats import rankdata


@dataclass(frozen=True)
class Interval:
    """Two limits of a number, and how they were found, in words."""

    low: float
    high: float
    method: str


def wilson(successes: float, total: float, *, level: float = 0.95) -> Interval:
    """The score interval of a proportion (Wilson, "Probable inference, the law of succession ...", 1927).

    Args:
        successes: 0 to `total`; need not be whole, since an effective number of images is not.
        total: above 0.
        level: of confidence.

    Raises:
        ValueError: no images, or more successes than images.
    """
    if not 0 <= successes <= total or total <= 0:
        raise ValueError(f"{successes} successes of {total}")
    z = _normal(level)
    share = successes / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # At the ends the limit is the end itself, which the sums miss by a rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == total else min(1.0, centre + half)
    return Interval(low, high, "Wilson")


def wilson_by_patient(
    is_success: NDArray[np.bool_], groups: Sequence[str] | NDArray[Any], *, level: float = 0.95
) -> Interval | None:
    """The interval of a proportion of images, some of which come from the same patient.

    Wilson's, with the number of images replaced by the number of independent images that would be as uncertain
    (Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data", 1998; with Wilson's limits: Dean and Pagano, "Evaluating confidence interval methods for
    binomial proportions in clustered surveys", 2015). That number comes from the spread between the patients
    (linearised variance of a ratio, Cochran, "Sampling Techniques", 1977), it is reduced for the few patients from
    which the spread is known (Student's t instead of the normal), and it is never above the number of images. Where
    all images are right, or all wrong, there is no spread to be seen; then the images of a patient are taken to
    repeat each other (Kish, "Survey Sampling", 1965, with an intra-patient correlation of 1).

    Args:
        is_success: (N,) for each image that the proportion is about, N >= 1.
        groups: (N,) patient group of each image.
        level: of confidence.

    Returns:
        Wilson's own interval where each patient has one image; None where several images are of one patient only:
        nothing is known of the spread between patients then.
    """
    _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    images = np.bincount(group_of).astype(np.float64)
    found = np.bincount(group_of, weights=is_success)
    num_images, num_patients = len(group_of), len(images)
    share = float(is_success.mean())
    if num_patients == num_images:
        return wilson(int(is_success.sum()), num_images, level=level)
    if num_patients == 1:
        return None
    if share in (0.0, 1.0):
        effective = num_images**2 / float(np.square(images).sum())
    else:
        spread = float(np.square(found - share * images).sum())
        variance = num_patients / (num_patients - 1) * spread / num_images**2
        shrink = (_normal(level) / float(stdtrit(num_patients - 1, (1 + level) / 2))) ** 2
        effective = min(share * (1 - share) / variance * shrink if variance > 0 else math.inf, float(num_images))
    limits = wilson(share * effective, effective, level=level)
    return Interval(limits.low, limits.high, "Wilson, images of a patient as one cluster")


def auroc_score(value: float, num_positives: int, num_negatives: int, *, level: float = 0.95) -> Interval:
    """The interval of an area under the ROC curve from the two numbers of images alone.

    It has a width also where all pairs are in order. Newcombe, "Confidence intervals for an effect size measure based
    on the Mann-Whitney statistic. Part 2", 2006, method 5.

    Args:
        value: the area, 0..1.
        num_positives: images, or patients where images of a patient repeat each other; 1 or more.
        num_negatives: likewise.
        level: of confidence.

    Raises:
        ValueError: a side has no image.
    """
    if num_positives < 1 or num_negatives < 1:
        raise ValueError(f"an area needs both sides: {num_positives} positives, {num_negatives} negatives")
    z = _normal(level)
    middle = (num_positives + num_negatives) / 2 - 1

    def excess(area: float) -> float:
        pairs = 1 + middle * ((1 - area) / (2 - area) + area / (1 + area))
        return (value - area) ** 2 - z**2 * area * (1 - area) * pairs / (num_positives * num_negatives)

    tiny = 1e-12  # the ends themselves are roots of no meaning
    low = 0.0 if excess(tiny) <= 0 or value <= tiny else float(brentq(excess, tiny, min(value, 1 - tiny)))
    high = 1.0 if excess(1 - tiny) <= 0 or value >= 1 - tiny else float(brentq(excess, max(value, tiny), 1 - tiny))
    return Interval(low, high, "Newcombe score")


def delong(
    scores: NDArray[np.floating],
    is_positive: NDArray[np.bool_],
    groups: Sequence[str] | NDArray[Any] | None = None,
    *,
    level: float = 0.95,
) -> Interval:
    """The interval of the area under the ROC curve.

    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", 1988, by the ranks of Sun and Xu, "Fast implementation of DeLong's algorithm", 2014; on
    the logit scale, as Perme and Manevski, "Confidence intervals for the Mann-Whitney test", 2019, advise. Images of
    one patient, also where some are positive and others not, by the sums over patients of Obuchowski, "Nonparametric
    analysis of clustered ROC curve data", 1997, which for one image each are DeLong's. Where that has no width - one
    patient on a side, or an area of 0 or 1 - `auroc_score` with the number of patients, and `method` says so.

    Args:
        scores: (N,) probability of the positive class.
        is_positive: (N,).
        groups: (N,) patient group of each image; None: all images are independent.
        level: of confidence.

    Raises:
        ValueError: a side has no image.
    """
    area, of_positives, of_negatives = _placements(scores, is_positive)
    _, group_of = np.unique(np.arange(len(scores)) if groups is None else np.asarray(groups), return_inverse=True)
    num_groups = int(group_of.max()) + 1
    num_positives, num_negatives = len(of_positives), len(of_negatives)
    with_positives, with_negatives = (len(np.unique(group_of[side])) for side in (is_positive, ~is_positive))
    above = np.bincount(group_of[is_positive], weights=of_positives - area, minlength=num_groups)
    below = np.bincount(group_of[~is_positive], weights=of_negatives - area, minlength=num_groups)
    variance = (
        _scatter(above, above, with_positives) / num_positives**2
        + _scatter(below, below, with_negatives) / num_negatives**2
        + 2 * _scatter(above, below, num_groups) / (num_positives * num_negatives)
    )
    if not variance > 0 or not 0 < area < 1:
        return auroc_score(area, with_positives, with_negatives, level=level)
    logit = math.log(area / (1 - area))
    half = _normal(level) * math.sqrt(variance) / (area * (1 - area))
    method = "DeLong" if num_groups == len(scores) else "DeLong, images of a patient as one cluster (Obuchowski)"
    return Interval(float(expit(logit - half)), float(expit(logit + half)), method)


def delong_difference(
    scores_a: NDArray[np.floating],
    scores_b: NDArray[np.floating],
    is_positive: NDArray[np.bool_],
    *,
    level: float = 0.95,
) -> tuple[float, float, float, float]:
    """Difference of the areas of two scores of the same independent images; sources as `delong`.

    Args:
        scores_a, scores_b: (N,) of the same images.
        is_positive: (N,).
        level: of confidence.

    Returns:
        Area a less area b, its limits, and the two-sided p-value. Limits and p are NaN where DeLong's variance of the
        difference is 0 or unknown although the areas differ; equal scores give 0, 0, 0 and 1.

    Raises:
        ValueError: a side has no image.
    """
    area_a, positives_a, negatives_a = _placements(scores_a, is_positive)
    area_b, positives_b, negatives_b = _placements(scores_b, is_positive)
    difference = area_a - area_b
    if np.array_equal(positives_a, positives_b) and np.array_equal(negatives_a, negatives_b):
        return 0.0, 0.0, 0.0, 1.0
    variance = _variance_of_mean(positives_a - positives_b) + _variance_of_mean(negatives_a - negatives_b)
    if not variance > 0:
        return difference, math.nan, math.nan, math.nan
    error = math.sqrt(variance)
    half = _normal(level) * error
    return difference, difference - half, difference + half, float(2 * ndtr(-abs(difference) / error))


def combine(
    function: Callable[[Sequence[float]], float], rates: Sequence[float], limits: Sequence[Interval]
) -> Interval:
    """The interval of a number that is made of independent rates, each of which has an interval.

    The distances that the limits of one rate alone move the number, added as squares: MOVER, Zou and Donner,
    "Construction of confidence limits about effect measures: a general approach", 2008.

    Args:
        function: the number, from the rates.
        rates: (K,).
        limits: (K,).
    """
    value = function(rates)
    below = above = 0.0
    for place, limit in enumerate(limits):
        moved = [function([*rates[:place], end, *rates[place + 1 :]]) - value for end in (limit.low, limit.high)]
        below += max(0.0, -min(moved)) ** 2
        above += max(0.0, max(moved)) ** 2
    return Interval(value - math.sqrt(below), value + math.sqrt(above), "Wilson for each class, combined by MOVER")


def _placements(
    scores: NDArray[np.floating], is_positive: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """The area; for each positive the share of negatives below it; for each negative that of positives above it."""
    positives, negatives = scores[is_positive], scores[~is_positive]
    if len(positives) == 0 or len(negatives) == 0:
        raise ValueError(f"an area needs both sides: {len(positives)} positives, {len(negatives)} negatives")
    together = rankdata(np.concatenate([positives, negatives]))
    below = (together[: len(positives)] - rankdata(positives)) / len(negatives)
    above = 1 - (together[len(positives) :] - rankdata(negatives)) / len(positives)
    return float(below.mean()), below, above


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else math.nan


def _scatter(first: NDArray[Any], second: NDArray[Any], number: int) -> float:
    """The sum of products over patients, corrected for the number of those that hold the side; NaN for one."""
    return number / (number - 1) * float(first @ second) if number > 1 else math.nan


def _normal(level: float) -> float:
    return float(ndtri((1 + level) / 2))
