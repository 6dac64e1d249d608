"""Which images stand in a bootstrap resample?  Whole patients, drawn with replacement, and no class lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit

# A class that this many groups hold is missing from a plain resample with a chance below exp(-20), 2 in a thousand
# millions.  A class of fewer groups is kept by drawing its groups apart from the others.
MIN_GROUPS = 20
_ROUNDING = 1e-12  # a perfect metric that is a sum of fractions may be off by less
_CHUNK = 2_000_000  # draws made at a time: they take 16 bytes each


def patient_resamples(
    groups: Sequence[str] | NDArray[Any], labels: NDArray[np.int64], *, num_resamples: int = 1000, seed: int = 0
) -> NDArray[np.uint16]:
    """How often each image stands in each bootstrap resample; the images of a patient come and go together.

    The cluster bootstrap (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8): as many
    patient groups are drawn with replacement as there are. Where fewer than ``MIN_GROUPS`` groups hold a class, it
    could be missing from a resample; then the groups are drawn within strata, a stratum being the groups that hold
    the same ones of these rare classes, so that every resample has as many groups with each of them as the data.

    Args:
        groups: (N,) patient group of each image.
        labels: (N,) class of each image, 0 or more.
        num_resamples: R.
        seed: the same groups, labels and seed give the same resamples, in whatever order the images come.

    Returns:
        (R, N) counts.

    Raises:
        ValueError: groups and labels are not of one length, or there is no image or no resample.
    """
    if len(groups) != len(labels) or len(labels) == 0 or num_resamples < 1:
        raise ValueError(f"{num_resamples} resamples of {len(groups)} groups for {len(labels)} labels")
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    strata = _strata(group_of, labels, len(names))
    generator = np.random.default_rng(seed)
    resamples = np.empty((num_resamples, len(labels)), dtype=np.uint16)
    at_a_time = max(1, _CHUNK // len(names))
    for start in range(0, num_resamples, at_a_time):
        rows = min(at_a_time, num_resamples - start)
        counts = np.empty((rows, len(names)), dtype=np.uint16)
        for members in strata:
            drawn = generator.integers(len(members), size=(rows, len(members)))
            drawn += len(members) * np.arange(rows)[:, None]
            counts[:, members] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        resamples[start : start + rows] = counts[:, group_of]
    return resamples


def percentile_interval(values: NDArray[np.float64], *, level: float = 0.95) -> tuple[float, float] | None:
    """The middle part of what the resamples gave (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).

    Args:
        values: (R,) a metric in each resample, NaN where it is undefined there; these are left out.
        level: share of the values between the limits.

    Returns:
        The two limits; None where fewer than half of the resamples define the metric.
    """
    defined = _defined(values)
    if defined is None:
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bounded_interval(
    value: float,
    values: NDArray[np.float64],
    num_patients: int,
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Limits of a metric that has a least and a greatest value, from the spread of the resamples.

    As far below as above on the scale on which the metric has no ends (logit; logarithm where there is no greatest
    value). With few patients percentile limits are too narrow near an end, because no resample is worse than its worst
    patients allow; these hold their level sooner, as DeLong's do on this scale (Perme and Manevski, "Confidence
    intervals for the Mann-Whitney test", 2019). Carpenter and Bithell, "Bootstrap confidence intervals: when, which,
    what?", 2000, treat the transformed normal interval. The spread of few patients is itself uncertain, and resamples
    show it too small by 1 in n; hence Student's t for the normal, and n / (n - 1).

    Args:
        value: the metric of the data.
        values: (R,) in each resample, NaN where it is undefined there; these are left out.
        num_patients: n, those on the side that has the fewest; 2 or more.
        lowest, highest: the ends; infinity where there is none above.
        level: of confidence.

    Returns:
        The two limits; None where `value` is at an end, where the resamples do not differ, and where fewer than half
        of them define the metric.
    """
    defined = _defined(values)
    if defined is None or not lowest + _ROUNDING < value < highest - _ROUNDING or np.ptp(defined) < _ROUNDING:
        return None
    times = float(stdtrit(num_patients - 1, (1 + level) / 2)) * math.sqrt(num_patients / (num_patients - 1))
    spread = times * float(defined.std(ddof=1))
    if math.isinf(highest):
        factor = math.exp(spread / (value - lowest))
        return lowest + (value - lowest) / factor, lowest + (value - lowest) * factor
    width = highest - lowest
    share = (value - lowest) / width
    half = spread / (width * share * (1 - share))
    low, high = expit(logit(share) + np.array([-half, half]))
    return lowest + width * float(low), lowest + width * float(high)


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    defined = values[~np.isnan(values)]
    return None if len(defined) == 0 or 2 * len(defined) < len(values) else defined


def _strata(group_of: NDArray[np.intp], labels: NDArray[np.int64], num_groups: int) -> list[NDArray[np.intp]]:
    """The groups that are drawn from among each other, for each stratum."""
    holds = np.zeros((num_groups, int(labels.max()) + 1), dtype=bool)
    holds[group_of, labels] = True
    rare = holds[:, holds.sum(axis=0) < MIN_GROUPS]
    if rare.shape[1] == 0:
        return [np.arange(num_groups)]
    _, stratum = np.unique(rare, axis=0, return_inverse=True)
    stratum = stratum.reshape(-1)
    return [np.flatnonzero(stratum == number) for number in range(int(stratum.max()) + 1)]
