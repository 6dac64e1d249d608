"""What is the mean of a value that each image has, and how sure is it?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.statistics.resampling import patient_resamples, percentile_interval

NUM_RESAMPLES = 1000
MIN_PATIENTS = 5  # resamples of fewer hold too few different sets to tell where the limits lie


def patient_mean(values: NDArray[np.floating], groups: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """The mean over images, with the limits of a bootstrap over patients.

    Args:
        values: (N,); NaN = undefined, and left out.
        groups: (N,) patient group.
        seed: of the resamples.

    Returns:
        ``value``, ``low``, ``high`` (95 %; None where undefined, with a ``reason``), ``n`` images, ``patients``,
        ``method``.
    """
    defined = np.isfinite(values)
    known = values[defined].astype(np.float64)
    owners = [group for group, stays in zip(groups, defined, strict=True) if stays]
    entry: dict[str, Any] = {
        "value": float(known.mean()) if len(known) else None,
        "low": None,
        "high": None,
        "n": len(known),
        "patients": len(set(owners)),
        "method": f"patient bootstrap, {NUM_RESAMPLES:,} resamples",
    }
    if not len(known):
        return entry | {"reason": "no image has a value"}
    if entry["patients"] < MIN_PATIENTS:
        return entry | {"reason": f"{entry['patients']} patients: an interval needs {MIN_PATIENTS}"}
    # Of one class, so that nothing is stratified: this mean does not hang on the labels.
    one_class = np.zeros(len(known), np.int64)
    counts = patient_resamples(owners, one_class, num_resamples=NUM_RESAMPLES, seed=seed).astype(np.float64)
    limits = percentile_interval(counts @ known / counts.sum(axis=1))
    if limits is None:
        return entry | {"reason": "too few resamples have a value"}
    return entry | {"low": limits[0], "high": limits[1]}
