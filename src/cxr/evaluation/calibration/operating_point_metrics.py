"""What do thresholds that were chosen elsewhere give on these images?  Rates, predictive values, and who is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.errors import ConfigurationError
from cxr.evaluation.calibration.metrics import resampled_sums
from cxr.evaluation.calibration.operating_points import OperatingPoint
from cxr.statistics.intervals import wilson_by_patient
from cxr.statistics.resampling import patient_resamples, percentile_interval


def measure_operating_points(
    points: Sequence[OperatingPoint],
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: Sequence[str],
    positive_index: int,
    *,
    prevalence: float | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """What the thresholds give on other images.

    Args:
        points: from `cxr.evaluation.calibration.operating_points.choose_operating_points`; nothing of them is changed.
        probabilities: (N, C), calibrated if those were.
        labels: (N,) 0..C-1.
        groups: (N,) patient group.
        positive_index: the column of the positive class.
        prevalence: of the positive class, above 0 and below 1, for which PPV and NPV are stated besides.
        num_resamples: of patients, or draws, for the limits of those two.
        seed: of the resamples.

    Returns:
        For each point ``name``, ``rule``, ``chosen_on``, ``threshold``, ``notes``, ``on_choice`` (the sensitivity and
        specificity where it was chosen); ``sensitivity``, ``specificity``, ``ppv``, ``npv``, each ``{value, low, high,
        n, method, reason?}``; ``prevalence`` and, where it is given, ``ppv_at_prevalence`` and ``npv_at_prevalence`` by
        Bayes' rule; with a band ``abstain``: ``rule``, ``low``, ``high``, ``abstained`` (share, with limits), ``left``
        (images), and the four rates and ``accuracy`` of those left.

    Raises:
        ConfigurationError: a prevalence that is none.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise ConfigurationError(f"prevalence={prevalence}: give a number above 0 and below 1")
    scores, is_positive = probabilities[:, positive_index], labels == positive_index
    owners = np.asarray(groups, dtype=str)
    answers = [scores >= point.threshold for point in points]
    resampled = None
    if points and prevalence is not None and len(np.unique(owners)) < len(owners):
        weights = patient_resamples(groups, is_positive.astype(np.int64), num_resamples=num_resamples, seed=seed)
        resampled = _resampled_rates(answers, is_positive, weights)
    entries = []
    for place, (point, called) in enumerate(zip(points, answers, strict=True)):
        entry: dict[str, Any] = {
            "name": point.name,
            "rule": point.rule,
            "chosen_on": point.chosen_on,
            "threshold": point.threshold,
            "notes": list(point.notes),
            "on_choice": {"sensitivity": point.sensitivity, "specificity": point.specificity},
            **_rates(called, is_positive, owners),
            "prevalence": prevalence,
        }
        if prevalence is not None:
            of_point = None if resampled is None else resampled[place]
            drawn = _draw_rates(called, is_positive, owners, of_point, num_resamples, seed)
            entry |= _at_prevalence(entry, drawn, prevalence, of_point is not None)
        if point.abstain is not None:
            held = point.abstain.holds(scores)
            entry["abstain"] = {
                **point.abstain.to_dict(),
                "abstained": _rate(held, owners, "no image"),
                "left": int((~held).sum()),
                **_rates(called[~held], is_positive[~held], owners[~held]),
                "accuracy": _rate((called == is_positive)[~held], owners[~held], "no image is left"),
            }
        entries.append(entry)
    return entries


def _rates(
    called: NDArray[np.bool_], is_positive: NDArray[np.bool_], groups: NDArray[np.str_]
) -> dict[str, dict[str, Any]]:
    return {
        "sensitivity": _rate(called[is_positive], groups[is_positive], "no positive image"),
        "specificity": _rate(~called[~is_positive], groups[~is_positive], "no negative image"),
        "ppv": _rate(is_positive[called], groups[called], "no image was called positive"),
        "npv": _rate(~is_positive[~called], groups[~called], "every image was called positive"),
    }


def _rate(is_right: NDArray[np.bool_], groups: NDArray[np.str_], empty: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"value": None, "low": None, "high": None, "n": len(is_right), "method": None}
    if len(is_right) == 0:
        return entry | {"reason": empty}
    entry["value"] = float(is_right.mean())
    limits = wilson_by_patient(is_right, groups.tolist())
    if limits is None:
        return entry | {"reason": "all images are of one patient"}
    return entry | {"low": limits.low, "high": limits.high, "method": limits.method}


def _resampled_rates(
    answers: Sequence[NDArray[np.bool_]], is_positive: NDArray[np.bool_], weights: NDArray[np.uint16]
) -> NDArray[np.float64]:
    """Sensitivity and specificity in each resample, (P, 2, R); NaN where a side has no image."""
    right = [side for called in answers for side in (called & is_positive, ~called & ~is_positive)]
    sums = resampled_sums(weights, np.column_stack([is_positive, ~is_positive, *right]).astype(np.float64)).T
    with np.errstate(invalid="ignore"):
        return sums[2:].reshape(len(answers), 2, -1) / sums[:2]


def _draw_rates(
    called: NDArray[np.bool_],
    is_positive: NDArray[np.bool_],
    groups: NDArray[np.str_],
    resampled: NDArray[np.float64] | None,
    num_draws: int,
    seed: int,
) -> list[NDArray[np.float64]] | None:
    """Sensitivities and specificities (R,) that the data leave possible; None where one is undefined.

    Of independent images draws from Beta(right + 1/2, wrong + 1/2) (Mossman & Berger, "Intervals for posttest
    probabilities", 2001), of others the resamples of patients (2, R); where these do not vary because all is right or
    all wrong, the same draws with patients for images.
    """
    generator = np.random.default_rng(seed)
    drawn = []
    for place, (side, right) in enumerate(((is_positive, called), (~is_positive, ~called))):
        if not side.any():
            return None
        share = float(right[side].mean())
        if resampled is not None and 0 < share < 1:
            drawn.append(resampled[place])
        else:
            number = len(np.unique(groups[side]))
            drawn.append(generator.beta(share * number + 0.5, (1 - share) * number + 0.5, num_draws))
    return drawn


def _at_prevalence(
    rates: dict[str, Any],
    drawn: list[NDArray[np.float64]] | None,
    prevalence: float,
    by_patient: bool,
) -> dict[str, Any]:
    method = (
        "resampled patients, by Bayes' rule" if by_patient else "Beta draws (Mossman & Berger 2001), by Bayes' rule"
    )
    num_images = rates["sensitivity"]["n"] + rates["specificity"]["n"]
    entries: dict[str, Any] = {}
    for place, (name, empty) in enumerate(
        (("ppv", "no image was called positive"), ("npv", "every image was called positive"))
    ):
        entry: dict[str, Any] = {"value": None, "low": None, "high": None, "n": num_images, "method": None}
        entries[f"{name}_at_prevalence"] = entry
        if drawn is None:
            entry["reason"] = "needs both a sensitivity and a specificity"
            continue
        value = float(_posterior(rates["sensitivity"]["value"], rates["specificity"]["value"], prevalence)[place])
        if math.isnan(value):
            entry["reason"] = empty
            continue
        entry["value"] = value
        limits = percentile_interval(_posterior(drawn[0], drawn[1], prevalence)[place])
        if limits is None:
            entry["reason"] = f"in most resamples {empty}"
            continue
        # The draws of a rate of 0 or 1 all lie to one side of it.
        entry |= {"low": min(limits[0], value), "high": max(limits[1], value), "method": method}
    return entries


def _posterior(sensitivity: Any, specificity: Any, prevalence: float) -> tuple[Any, Any]:
    """PPV and NPV by Bayes' rule; NaN where nothing is called so."""
    true_positive, false_positive = np.multiply(sensitivity, prevalence), np.multiply(1 - specificity, 1 - prevalence)
    true_negative, false_negative = np.multiply(specificity, 1 - prevalence), np.multiply(1 - sensitivity, prevalence)
    with np.errstate(invalid="ignore"):
        return true_positive / (true_positive + false_positive), true_negative / (true_negative + false_negative)
