"""What would an area under the ROC curve be with other patients, and how much of one does another keep?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.statistics.intervals import Interval, auroc_score
from cxr.statistics.resampling import MIN_GROUPS, bounded_interval, percentile_interval

CHANCE = 0.5
_CHUNK = 500_000  # weights worked on at a time, which a processor keeps at hand


def resampled_areas(
    of_positives: NDArray[np.floating],
    of_negatives: NDArray[np.floating],
    weights_of_positives: NDArray[np.unsignedinteger],
    weights_of_negatives: NDArray[np.unsignedinteger],
) -> NDArray[np.float64]:
    """The area in every resample.

    For each positive the negatives of a lower score are counted, and those of the same score by half.

    Args:
        of_positives, of_negatives: (P,) and (Q,) scores, ascending.
        weights_of_positives, weights_of_negatives: (R, P) and (R, Q): how often each stands in each resample.

    Returns:
        (R,), NaN where a side is empty.
    """
    below, not_above = (np.searchsorted(of_negatives, of_positives, side=side) for side in ("left", "right"))
    areas = np.empty(len(weights_of_positives))
    at_a_time = max(1, _CHUNK // (len(of_positives) + len(of_negatives)))
    for start in range(0, len(areas), at_a_time):
        chunk = slice(start, start + at_a_time)
        positives = weights_of_positives[chunk].astype(np.float64)
        passed = np.zeros((len(positives), len(of_negatives) + 1))
        passed[:, 1:] = weights_of_negatives[chunk]
        np.cumsum(passed, axis=1, out=passed)
        in_order = np.einsum("rp,rp->r", positives, passed.take(below, axis=1))
        if (below != not_above).any():
            in_order = (in_order + np.einsum("rp,rp->r", positives, passed.take(not_above, axis=1))) / 2
        pairs = positives.sum(axis=1) * passed[:, -1]
        areas[chunk] = np.divide(in_order, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def areas_within(
    scores: NDArray[np.floating],
    is_positive: NDArray[np.bool_],
    weights: NDArray[np.unsignedinteger],
    strata: NDArray[np.integer] | None = None,
) -> NDArray[np.float64]:
    """The area in every resample, over the pairs of images of the same stratum.

    The strata of a cross-validation are its folds: scores of different models are not compared, which would draw the
    area below its true value (Parker, Guenter and Bedo, "Stratification bias in low signal microarray studies", 2007).

    Args:
        scores: (N,) higher for the positive class.
        is_positive: (N,).
        weights: (R, N) how often each image stands in each resample.
        strata: (N,) number of each image's stratum; None: all are of one.

    Returns:
        (R,), NaN where no stratum has a pair.
    """
    strata = np.zeros(len(scores), np.int64) if strata is None else strata
    in_order, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for stratum in np.unique(strata):
        sides = [np.flatnonzero((strata == stratum) & side) for side in (is_positive, ~is_positive)]
        ascending = [side[scores[side].argsort(kind="stable")] for side in sides]
        counts = [weights.take(side, axis=1) for side in ascending]
        of_stratum = counts[0].sum(axis=1, dtype=np.float64) * counts[1].sum(axis=1, dtype=np.float64)
        within = resampled_areas(scores[ascending[0]], scores[ascending[1]], counts[0], counts[1])
        in_order += np.where(of_stratum > 0, within, 0.0) * of_stratum
        pairs += of_stratum
    areas: NDArray[np.float64] = np.divide(in_order, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def area_interval(value: float, areas: NDArray[np.float64], num_positives: int, num_negatives: int) -> Interval:
    """The 95 % interval of an area whose images come from patients.

    By `bounded_interval` from the resamples; where these see too little, because a side has fewer than ``MIN_GROUPS``
    patients or no resample differs, by Newcombe's score interval with patients counted as images.

    Args:
        value: the area.
        areas: (R,) in each resample of the patients.
        num_positives, num_negatives: patients on each side, 1 or more.
    """
    fewest = min(num_positives, num_negatives)
    limits = bounded_interval(value, areas, fewest) if fewest >= MIN_GROUPS else None
    if limits is not None:
        return Interval(*limits, f"patient bootstrap, {len(areas):,} resamples, logit scale")
    score = auroc_score(value, num_positives, num_negatives)
    return Interval(score.low, score.high, f"{score.method}, n = patients")


def share_above_chance(
    areas: NDArray[np.float64], reference: NDArray[np.float64], reference_low: float, fewest: int, *, of: str
) -> dict[str, Any]:
    """How much of what one score has above chance another has: (area - 0.5) / (reference - 0.5), and its 95 % limits.

    Args:
        areas: (R + 1,) that of the data first, then one of each resample of the patients.
        reference: (R + 1,) of the same resamples.
        reference_low: lower limit of the reference; where chance is not below it there is nothing to share.
        fewest: patients on the side that has fewer.
        of: whose the reference is, for the reason.

    Returns:
        ``value``, ``low``, ``high``, ``method``; None where undefined, with a ``reason``. Below 0 where the score is
        worse than chance, above 1 where it is better than the reference.
    """
    share: dict[str, Any] = dict.fromkeys(("value", "low", "high", "method"))
    if reference_low <= CHANCE:
        return share | {"reason": f"nothing to share: {of} is not shown to be above chance"}
    share["value"] = float((areas[0] - CHANCE) / (reference[0] - CHANCE))
    if fewest < MIN_GROUPS:
        return share | {"reason": f"no interval: {fewest} patients on one side, {MIN_GROUPS} are needed"}
    room = reference[1:] - CHANCE
    # A reference that is above chance is so in nearly all resamples; in the others there is no share.
    shares = np.divide(areas[1:] - CHANCE, room, out=np.full(len(room), np.nan), where=room > 0)
    limits = percentile_interval(shares)
    if limits is None:
        return share | {"reason": "no interval: too few resamples define the share"}
    method = f"paired patient bootstrap, {len(room):,} resamples"
    return share | {"low": limits[0], "high": limits[1], "method": method}
