"""Does the network look at the lungs more than a map that knows nothing would?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.statistics.patient_mean import patient_mean


def share_inside(maps: NDArray[np.floating], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much of each map lies inside.

    Args:
        maps: (N, H, W), none below 0.
        inside: (N, H, W).

    Returns:
        (N,) 0 to 1; NaN where the map is zero everywhere.
    """
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    within = np.where(inside, maps, 0).sum(axis=(1, 2), dtype=np.float64)
    shares = np.full(len(maps), np.nan)
    np.divide(within, total, out=shares, where=total > 0)
    return shares


def lung_share(
    maps: NDArray[np.floating], inside: NDArray[np.bool_], groups: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """The mean share of saliency in the lungs, beside what a blind map would get.

    A map of one value everywhere has as much of itself in the lungs as they cover of the image. The network passes
    when the whole interval lies above that. To pass says little: a map that always points at the middle of the image
    may pass too. Not to pass says that the evidence lies elsewhere.

    Args:
        maps: (N, H, W) from `cxr.evaluation.saliency.grad_cam.grad_cam`.
        inside: (N, H, W) the lungs.
        groups: (N,) patient group.
        seed: of the interval.

    Returns:
        ``lung_share`` (see `patient_mean`; maps without evidence are left out), ``area_share`` of the same images,
        ``without_evidence`` (their number) and ``passed`` (None where there is no interval).
    """
    shares = share_inside(maps, inside)
    used = np.isfinite(shares)
    estimate = patient_mean(shares, groups, seed=seed)
    area = float(inside[used].mean()) if used.any() else None
    passed = None if area is None or estimate["low"] is None else bool(estimate["low"] > area)
    return {
        "lung_share": estimate,
        "area_share": area,
        "without_evidence": int((~used).sum()),
        "passed": passed,
    }
