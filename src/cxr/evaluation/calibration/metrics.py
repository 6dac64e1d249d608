"""How far can the probabilities be taken at their word?  Of the positive class, before and after calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.evaluation.calibration.calibration import Calibration
from cxr.evaluation.calibration.recalibration import UNBOUNDED, log_odds, recalibration_line, resampled_lines
from cxr.statistics.intervals import wilson_by_patient
from cxr.statistics.resampling import patient_resamples, percentile_interval

NUM_BINS = 10
MIN_IN_BIN = 5  # images that a bin of equal mass holds at least, so far as there are as many
MIN_PATIENTS = 5  # resamples of fewer hold too few different sets to tell where limits lie
_NUM_SIMULATIONS = 200
_CHUNK = 400_000  # weights worked on at a time: arrays of this size stay in a processor's cache


@dataclass(frozen=True)
class Bins:
    """Neighbouring probabilities put together.

    Args:
        edges: (B + 1,) ascending, from 0 to 1; a bin holds its lower edge, and the last one both.
        place: (N,) bin of each image.
    """

    edges: NDArray[np.float64]
    place: NDArray[np.intp]

    @property
    def num_bins(self) -> int:
        return len(self.edges) - 1


def equal_width_bins(predicted: NDArray[np.floating], num_bins: int = NUM_BINS) -> Bins:
    """Bins of one width; some may hold no image.

    Args:
        predicted: (N,) probabilities.
        num_bins: B.
    """
    return _bins(predicted, np.arange(1, num_bins) / num_bins)


def equal_mass_bins(predicted: NDArray[np.floating], num_bins: int = NUM_BINS) -> Bins:
    """Bins of as equal a number of images as ties allow: equal probabilities are never divided.

    Args:
        predicted: (N,) probabilities, N >= 1.
        num_bins: B at most; fewer where a bin would hold fewer than ``MIN_IN_BIN`` images, or where ties leave fewer.
    """
    num_bins = max(1, min(num_bins, len(predicted) // MIN_IN_BIN))
    ordered = np.sort(predicted.astype(np.float64))
    cuts = ordered[len(ordered) * np.arange(1, num_bins) // num_bins]
    return _bins(predicted, np.unique(cuts[cuts > ordered[0]]))


def _bins(predicted: NDArray[np.floating], inner: NDArray[np.float64]) -> Bins:
    place = np.searchsorted(inner, predicted.astype(np.float64), side="right")
    return Bins(np.concatenate([[0.0], inner, [1.0]]), place)


def calibration_error(predicted: NDArray[np.floating], is_positive: NDArray[np.bool_], bins: Bins) -> float:
    """Expected calibration error: the mean over images of how far, in their bin, frequency and mean prediction differ.

    Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning", 2015 (equal width);
    Nixon, Dusenberry, Zhang, Jerfel & Tran, "Measuring calibration in deep learning", 2019 (equal mass). Of the
    positive class's probability, not of the likeliest class's as by Guo et al. (2017).

    Args:
        predicted: (N,) probability of the positive class.
        is_positive: (N,).
        bins: of these predictions.
    """
    gaps = np.bincount(bins.place, weights=is_positive - predicted.astype(np.float64), minlength=bins.num_bins)
    return float(np.abs(gaps).sum() / len(predicted))


def brier_parts(predicted: NDArray[np.floating], is_positive: NDArray[np.bool_], bins: Bins) -> dict[str, float]:
    """What the Brier score is made of: reliability - resolution + uncertainty + within-bin variance - covariance.

    Murphy, "A new vector partition of the probability score", 1973; the two terms that are left where predictions
    within a bin differ: Stephenson, Coelho & Jolliffe, "Two extra components in the Brier score decomposition", 2008.

    Args:
        predicted: (N,) probability of the positive class.
        is_positive: (N,).
        bins: of these predictions.
    """
    wide = predicted.astype(np.float64)
    truth = is_positive.astype(np.float64)
    counts = np.bincount(bins.place, minlength=bins.num_bins)
    held = np.maximum(counts, 1)
    mean = np.bincount(bins.place, weights=wide, minlength=bins.num_bins) / held
    frequency = np.bincount(bins.place, weights=truth, minlength=bins.num_bins) / held
    share = counts / len(wide)
    off = wide - mean[bins.place]
    return {
        "reliability": float((share * (mean - frequency) ** 2).sum()),
        "resolution": float((share * (frequency - truth.mean()) ** 2).sum()),
        "uncertainty": float(truth.mean() * (1 - truth.mean())),
        "within_bin_variance": float((off**2).mean()),
        "within_bin_covariance": float(2 * (off * (truth - frequency[bins.place])).mean()),
    }


def reliability_bins(
    predicted: NDArray[np.floating], is_positive: NDArray[np.bool_], groups: Sequence[str], bins: Bins
) -> list[dict[str, Any]]:
    """Predicted against observed in each bin that holds an image.

    Args:
        predicted: (N,) probability of the positive class.
        is_positive: (N,).
        groups: (N,) patient group.
        bins: of these predictions.

    Returns:
        ``{low, high, n, mean_predicted, observed, observed_low, observed_high}`` each; the limits are Wilson's, with
        a patient's images as one cluster; None where all are of one patient.
    """
    found = []
    names = np.asarray(groups, dtype=str)
    for place in range(bins.num_bins):
        held = bins.place == place
        if not held.any():
            continue
        limits = wilson_by_patient(is_positive[held], names[held].tolist())
        found.append(
            {
                "low": float(bins.edges[place]),
                "high": float(bins.edges[place + 1]),
                "n": int(held.sum()),
                "mean_predicted": float(predicted[held].mean(dtype=np.float64)),
                "observed": float(is_positive[held].mean()),
                "observed_low": None if limits is None else limits.low,
                "observed_high": None if limits is None else limits.high,
            }
        )
    return found


def measure_calibration(
    before: NDArray[np.floating],
    after: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: Sequence[str],
    positive_index: int,
    calibration: Calibration,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """What ``metrics.json`` holds of the calibration.

    Args:
        before: (N, C) probabilities of the network; N >= 1.
        after: (N, C) those that `calibration` made of them.
        labels: (N,) 0..C-1.
        groups: (N,) patient group.
        positive_index: the column of the positive class; it stands against all others.
        calibration: what was applied.
        num_resamples: of patients.
        seed: of the resamples and simulations.

    Returns:
        ``method``, the parameters of a temperature or Platt line, ``fitted_on`` (always 'val'), ``notes``;
        ``before`` and ``after``: ``ece_equal_mass``, ``ece_equal_width``, ``brier``, ``slope``, ``intercept``, ``bias``
        (mean prediction minus frequency), each ``{value, low, high, method, n, expected, reason?}``,
        `expected` being what the same predictions would give on average if they held; ``brier_parts`` and ``bins`` of
        `after`, ``brier_parts_before`` and ``bins_before``, all in bins of equal mass.
    """
    is_positive = labels == positive_index
    weights = patient_resamples(groups, is_positive.astype(np.int64), num_resamples=num_resamples, seed=seed)
    _, patients = np.unique(np.asarray(groups), return_inverse=True)
    stages = {"before": _measure_stage(before, is_positive, positive_index, weights, patients, seed)}
    stages["after"] = (
        stages["before"]
        if np.array_equal(before, after)
        else _measure_stage(after, is_positive, positive_index, weights, patients, seed)
    )
    parts: dict[str, Any] = {}
    for name, probabilities in (("", after), ("_before", before)):
        predicted = probabilities[:, positive_index]
        bins = equal_mass_bins(predicted)
        parts[f"brier_parts{name}"] = brier_parts(predicted, is_positive, bins)
        parts[f"bins{name}"] = reliability_bins(predicted, is_positive, groups, bins)
    parameters = {
        key: value
        for key, value in calibration.to_dict().items()
        if key in ("method", "temperature", "slopes", "intercepts", "notes")
    }
    return {**parameters, "fitted_on": "val", **stages, **parts}


def _measure_stage(
    probabilities: NDArray[np.floating],
    is_positive: NDArray[np.bool_],
    positive_index: int,
    weights: NDArray[np.uint16],
    patients: NDArray[np.intp],
    seed: int,
) -> dict[str, Any]:
    num_patients = len(np.unique(patients))
    predicted = probabilities[:, positive_index].astype(np.float64)
    off = predicted - is_positive
    method = f"patient bootstrap, {len(weights):,} resamples"
    few = f"{num_patients} patients: an interval needs {MIN_PATIENTS}" if num_patients < MIN_PATIENTS else None

    def entry(value: float, limits: tuple[float, float] | None, expected: float, reason: str) -> dict[str, Any]:
        found: dict[str, Any] = {"value": value, "n": len(off), "expected": expected}
        if limits is None or few is not None:
            return found | {"low": None, "high": None, "method": None, "reason": few or reason}
        return found | {"low": limits[0], "high": limits[1], "method": method}

    equal_mass, equal_width = equal_mass_bins(predicted), equal_width_bins(predicted)
    in_mass, in_width = (np.eye(bins.num_bins)[bins.place] for bins in (equal_mass, equal_width))
    columns = [np.ones_like(off), off**2, off, off[:, None] * in_mass, off[:, None] * in_width]
    total, squares, bias, *gaps = resampled_sums(weights, np.column_stack(columns)).T
    entries: dict[str, Any] = {}
    num_mass = equal_mass.num_bins
    for name, bins, of_bins in (
        ("ece_equal_mass", equal_mass, gaps[:num_mass]),
        ("ece_equal_width", equal_width, gaps[num_mass:]),
    ):
        value = calibration_error(predicted, is_positive, bins)
        by_chance = _errors_by_chance(predicted, bins, seed)
        limits = _error_limits(value, off, bins, np.array(of_bins), total, patients, by_chance)
        entries[name] = entry(value, limits, float(by_chance.mean()), "no resample has a value")
    expected = float((predicted * (1 - predicted)).mean())
    limits = percentile_interval(squares / total)
    entries["brier"] = entry(float((off**2).mean()), limits, expected, "no resample has a value")
    entries["bias"] = entry(float(off.mean()), percentile_interval(bias / total), 0.0, "no resample has a value")

    odds = log_odds(probabilities, positive_index)
    line = recalibration_line(odds, is_positive)
    if isinstance(line, str):
        undefined = {"value": None, "low": None, "high": None, "method": None, "n": len(off), "reason": line}
        return entries | {"slope": undefined | {"expected": 1.0}, "intercept": undefined | {"expected": 0.0}}
    intercept, slope = (percentile_interval(drawn) for drawn in resampled_lines(odds, is_positive, weights, line))
    if intercept is None or slope is None or max(map(abs, intercept + slope)) >= UNBOUNDED:
        intercept = slope = None
    apart = "in too many resamples the two sides do not overlap: the slope has no bound"
    return entries | {"slope": entry(line[1], slope, 1.0, apart), "intercept": entry(line[0], intercept, 0.0, apart)}


def _error_limits(
    value: float,
    off: NDArray[np.float64],
    bins: Bins,
    gaps: NDArray[np.float64],
    total: NDArray[np.float64],
    patients: NDArray[np.intp],
    by_chance: NDArray[np.float64],
) -> tuple[float, float] | None:
    """Limits of the calibration error, which chance alone makes larger than 0, and in a resample a second time.

    The error is the length, in the sum of absolute values, of the vector of the bins' gaps. No error of that vector
    that is shorter than some length can move it by more than that length, so the lower limit is the value less the
    97.5 % quantile of how far the resamples' gaps lie from the data's: a confidence set of the gaps (Beran, "Balanced
    simultaneous confidence sets", 1988), seen from the origin. Each bin's distance is widened for the few patients in
    it, from which a bootstrap sees too little spread (Rao and Wu, "Resampling inference with complex survey data",
    1988). It is 0 also where truths drawn as the predictions say give as large a value. The upper limit is the
    percentile, which errs on the wide side.

    Args:
        value: of the data.
        off: (N,) prediction minus truth.
        bins: B of them.
        gaps: (B, R) sum of `off` in each bin and resample.
        total: (R,) images in each resample.
        patients: (N,) number of each image's patient.
        by_chance: (S,) errors of truths that are drawn as the predictions say.
    """
    of_data = np.bincount(bins.place, weights=off, minlength=bins.num_bins)
    held = np.array([len(np.unique(patients[bins.place == place])) for place in range(bins.num_bins)])
    widened = np.sqrt(held / np.maximum(held - 1, 1))[:, None]
    limits = percentile_interval(np.abs(gaps).sum(axis=0) / total)
    distance = percentile_interval(np.abs(widened * (gaps - of_data[:, None] * total / len(off))).sum(axis=0) / total)
    if limits is None or distance is None:
        return None
    nothing = value <= float(np.quantile(by_chance, 0.975))
    return 0.0 if nothing else max(0.0, value - distance[1]), max(limits[1], value)


def resampled_sums(weights: NDArray[np.uint16], columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the images (R, K) of the columns (N, K) in each resample of `weights` (R, N), in little memory."""
    at_a_time = max(1, _CHUNK // max(1, weights.shape[1]))
    starts = range(0, len(weights), at_a_time)
    return np.concatenate([weights[start : start + at_a_time].astype(np.float64) @ columns for start in starts])


def _errors_by_chance(predicted: NDArray[np.float64], bins: Bins, seed: int) -> NDArray[np.float64]:
    """Calibration errors (S,) of truths that are drawn as the predictions say, all images independent.

    Bröcker & Smith, "Increasing the reliability of reliability diagrams", 2007.
    """
    generator = np.random.default_rng(seed)
    members = np.eye(bins.num_bins)[bins.place]
    errors = []
    at_a_time = max(1, _CHUNK // len(predicted))
    for start in range(0, _NUM_SIMULATIONS, at_a_time):
        size = (min(at_a_time, _NUM_SIMULATIONS - start), len(predicted))
        truth = generator.random(size) < predicted
        errors.append(np.abs((truth - predicted) @ members).sum(axis=1))
    return np.concatenate(errors) / len(predicted)
