"""Do the numbers hold for everyone?  Each subgroup of the images against the rest, with all comparisons counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from cxr.evaluation.subgroups.bands import COLUMNS, MISSING, Bands, bands_of
from cxr.evaluation.subgroups.cohort import METRICS, Cohort, Part
from cxr.statistics.many_comparisons import holm
from cxr.statistics.resampling import patient_resamples, percentile_interval

LEVEL: Final = 0.05


def subgroup_table(
    records: pd.DataFrame,
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    *,
    columns: Sequence[str] = COLUMNS,
    threshold: float | None = None,
    min_images: int = 20,
    min_patients: int = 10,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """AUROC, sensitivity and specificity in every band of every column, and how far each is from the rest.

    The rest are all other images of which the column is known: images without an entry often come from a source of
    their own, and a comparison of sexes would become one of sources. The missing ones are a subgroup themselves, and
    are compared with all that are known.

    Limits of a sensitivity or a specificity: see `cxr.statistics.intervals.wilson_by_patient`; of an AUROC:
    percentiles of patient resamples, or, where it is 0 or 1, `auroc_score` of the patients.

    A difference is taken within each resample. Its variance is the one of these differences, but no less than it
    would be if both parts had the value of all images: a small subgroup whose value is near 0 or 1 varies too little,
    by chance. Its limits are the percentiles, stretched to this variance; where one part is at 0 or 1, both
    intervals put together (Newcombe, "Interval estimation for the difference between independent proportions", 1998,
    method 10). Its p-value, by the normal distribution, is corrected for the number of comparisons (Holm, "A simple
    sequentially rejective multiple test procedure", 1979); two bands that are each other's rest are one comparison.

    Args:
        records: (N,) rows of a manifest; ``group`` and `columns` are read.
        probabilities: (N, C) rows sum to 1.
        labels: (N,) 0..C-1; N >= 1.
        class_names: (C,).
        positive: the class that all three metrics are about, against all the rest.
        columns: see `cxr.evaluation.subgroups.bands.bands_of`.
        threshold: see `cxr.training.metrics.classification_metrics`.
        min_images: a band of fewer images is "too few" for any number.
        min_patients: of patients with the positive class (AUROC, sensitivity) and without (AUROC, specificity).
        num_resamples: of patients.
        seed: of the resamples.

    Returns:
        A row for each column, band and metric: ``column``, ``value`` (the band, "missing"), ``n`` images,
        ``patients``, ``positives`` (images), ``metric``, ``estimate`` {value, low, high, method}, ``difference``
        {value, low, high, method, p, p_holm, remains, comparisons}, ``note``. `remains`: whether the difference is
        still there after correction; `comparisons`: how many there were in all. What is None has a ``reason``
        beside it. A column that is known for no image has one row, its value and metric None.

    Raises:
        ConfigurationError: a column that is not there.
        ValueError: records, probabilities and labels are not of one length.
    """
    if not len(records) == len(probabilities) == len(labels) > 0:
        raise ValueError(f"{len(records)} records, {len(probabilities)} probabilities, {len(labels)} labels")
    bands = {column: bands_of(records, column) for column in dict.fromkeys(columns)}
    cohort = Cohort(
        records["group"].astype(str).to_numpy(dtype=object),
        probabilities,
        labels,
        list(class_names),
        positive,
        threshold,
        min_images,
        min_patients,
        patient_resamples(list(records["group"].astype(str)), labels, num_resamples=num_resamples, seed=seed),
    )
    overall = cohort.values(np.ones(len(labels), dtype=bool))
    rows: list[dict[str, Any]] = []
    comparisons: dict[tuple[frozenset[bytes], str], list[dict[str, Any]]] = {}
    sides: dict[bytes, Part] = {}
    for column, band in bands.items():
        known = band.codes >= 0
        if not known.any():
            rows.append(_unknown(column, band, cohort, labels))
            continue
        for name, mask, rest in _divisions(band, known):
            for images in (mask, rest):
                if images.tobytes() not in sides:
                    sides[images.tobytes()] = cohort.part(images)
            side, other = sides[mask.tobytes()], sides[rest.tobytes()]
            for metric in METRICS:
                difference = _difference(side, other, metric, overall[metric])
                if difference["p"] is not None:
                    comparison = (frozenset((mask.tobytes(), rest.tobytes())), metric)
                    comparisons.setdefault(comparison, []).append(difference)
                row = _row(column, name, metric, side) | {"difference": difference}
                rows.append(row | {"note": band.note if name == MISSING and row["note"] is None else row["note"]})
    corrected = holm([same[0]["p"] for same in comparisons.values()])
    for same, p in zip(comparisons.values(), corrected, strict=True):
        for difference in same:
            difference |= {"p_holm": p, "remains": p is not None and p < LEVEL}
    for row in rows:
        row["difference"]["comparisons"] = len(comparisons)
    return rows


def subgroup_verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the rows of `subgroup_table` come to, in a sentence or two."""
    num_comparisons = rows[0]["difference"]["comparisons"] if rows else 0
    if num_comparisons == 0:
        return "no subgroup is large enough to be compared with the rest"
    counted = f"{num_comparisons} comparison{'s' if num_comparisons > 1 else ''} of a subgroup with the rest"
    named: dict[tuple[str, str, float], str] = {}
    for row in rows:
        difference = row["difference"]
        if difference["remains"]:
            # Two bands that are each other's rest are one finding, and named once.
            finding = (row["column"], row["metric"], round(abs(difference["value"]), 9))
            direction = "lower" if difference["value"] < 0 else "higher"
            numbers = "{value:+.2f} ({low:+.2f} to {high:+.2f})".format(**difference)
            named.setdefault(finding, f"{row['metric']} of {row['column']} {row['value']} is {direction}: {numbers}")
    if not named:
        return f"{counted}: no difference shown, all comparisons counted (Holm); that is not proof of equality"
    remain = f"{len(named)} remain{'s' if len(named) == 1 else ''}"
    return f"{counted}; with all counted (Holm) {remain}: {'; '.join(named.values())}"


def _divisions(band: Bands, known: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Name, images and rest of every band, the missing ones last."""
    divided = [(name, band.codes == place, known & (band.codes != place)) for place, name in enumerate(band.names)]
    return divided if known.all() else [*divided, (MISSING, ~known, known)]


def _row(column: str, name: str, metric: str, part: Part) -> dict[str, Any]:
    reason, estimate = part.too_few.get(metric), _empty()
    if reason is None:
        interval = part.intervals[metric]
        estimate["value"] = part.values[metric]
        if interval is not None:
            estimate |= {"low": interval.low, "high": interval.high, "method": interval.method}
        else:
            estimate["reason"] = "no interval: too few patients in the resamples"
    else:
        estimate["reason"] = reason
    known = {"n": part.images, "patients": part.patients, "positives": part.counts[0]}
    return {"column": column, "value": name, **known, "metric": metric, "estimate": estimate, "note": reason}


def _difference(side: Part, rest: Part, metric: str, overall: float | None) -> dict[str, Any]:
    result = _empty() | {"p": None, "p_holm": None, "remains": False}
    if metric in side.too_few:
        return result | {"reason": side.too_few[metric]}
    if metric in rest.too_few:
        return result | {"reason": f"the rest is {rest.too_few[metric]}" if rest.images else "there is no other image"}
    own, other = side.values[metric], rest.values[metric]
    differences = side.resampled[metric] - rest.resampled[metric]
    difference, limits = own - other, percentile_interval(differences)
    result["value"] = difference
    if limits is None or overall is None:
        return result | {"reason": "undefined in more than half of the resamples"}
    resampled = float(np.nanvar(differences))
    variance = max(resampled, side.variance_at(metric, overall) + rest.variance_at(metric, overall))
    method = f"patient bootstrap, {len(differences):,} resamples"
    below, above = difference - limits[0], limits[1] - difference
    own_interval, other_interval = side.intervals[metric], rest.intervals[metric]
    if {own, other} & {0.0, 1.0} and own_interval is not None and other_interval is not None:
        below = math.hypot(own - own_interval.low, other_interval.high - other)
        above = math.hypot(own_interval.high - own, other - other_interval.low)
        method = "Newcombe, of both intervals"
    elif resampled > 0:
        below, above = (math.sqrt(variance / resampled) * width for width in (below, above))
    p = float(2 * norm.sf(abs(difference) / math.sqrt(variance))) if variance > 0 else 1.0
    low, high = max(-1.0, difference - below), min(1.0, difference + above)
    return result | {"low": low, "high": high, "method": method, "p": p}


def _unknown(column: str, band: Bands, cohort: Cohort, labels: NDArray[np.int64]) -> dict[str, Any]:
    reason = "not known for any image"
    return {
        "column": column,
        "value": None,
        "n": len(labels),
        "patients": len(set(cohort.groups)),
        "positives": int((labels == cohort.class_names.index(cohort.positive)).sum()),
        "metric": None,
        "estimate": _empty() | {"reason": reason},
        "difference": _empty() | {"p": None, "p_holm": None, "remains": False, "reason": reason},
        "note": f"{column}: {reason}" + (f"; {band.note}" if band.note is not None else ""),
    }


def _empty() -> dict[str, Any]:
    return dict.fromkeys(("value", "low", "high", "method"))
