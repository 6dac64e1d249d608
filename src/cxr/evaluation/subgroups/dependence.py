"""Does what is known of the images go with their class, so that a network could read it instead of the disease?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import chi2, ncx2

from cxr.errors import DataError
from cxr.evaluation.subgroups.bands import COLUMNS, Bands, bands_of
from cxr.statistics.many_comparisons import holm
from cxr.statistics.resampling import patient_resamples

LEVEL: Final = 0.05


def dependence_table(
    records: pd.DataFrame,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    columns: Sequence[str] = COLUMNS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How the classes divide over each column: what a network could read instead of the disease.

    The strength is the bias-corrected V of Cramér (Bergsma, "A bias-correction for Cramér's V and Tschuprow's T",
    2013). Images of a patient repeat each other: resamples of the patients show how many independent images would be
    as uncertain, and the correction, the limits (noncentral chi square; Smithson, "Confidence Intervals", 2003) and
    the test of independence (Rao and Scott, "The analysis of categorical data from complex sample surveys", 1981,
    first order) count those. Missing cells stay out of it, and are counted apart.

    Args:
        records: (N,) rows of a manifest: of a split, or of all splits of a run; ``group`` and `columns` are read.
        labels: (N,) class of each image; -1, unlabelled, stays out.
        class_names: the classes.
        columns: see `bands_of`.
        num_resamples: of patients.
        seed: of the resamples.

    Returns:
        An entry for each column: ``column``; ``association`` with ``value``, ``low``, ``high`` (V, 0..1), ``method``,
        ``n`` images, ``patients``, ``p``, ``p_holm`` (corrected for the number of columns), and a ``reason`` where a
        value is None; ``classes`` {class: {band: images}}; ``shares`` {class: {band: share of the class's images
        where the column is known, or None}}; ``missing`` {class: images}; ``verdict``, a sentence; ``note`` or None.

    Raises:
        ConfigurationError: a column that is not there.
        DataError: no image has a label.
    """
    labelled = labels >= 0
    records, labels = records[labelled], labels[labelled]
    if len(labels) == 0:
        raise DataError("dependence: no image has a label")
    groups = records["group"].astype(str).to_numpy(dtype=object)
    bands = {column: bands_of(records, column) for column in dict.fromkeys(columns)}
    resamples = patient_resamples(groups, labels, num_resamples=num_resamples, seed=seed)
    entries: list[dict[str, Any]] = []
    for column, band in bands.items():
        counts, resampled = _contingency(labels, band, len(class_names), resamples)
        known = band.codes >= 0
        association = _association(counts, resampled, groups[known])
        missing = np.bincount(labels[~known], minlength=len(class_names))
        totals = counts.sum(axis=1)
        entries.append(
            {
                "column": column,
                "association": association,
                "classes": {
                    name: dict(zip(band.names, map(int, row), strict=True))
                    for name, row in zip(class_names, counts, strict=True)
                },
                "shares": {
                    name: {
                        value: int(number) / int(total) if total else None
                        for value, number in zip(band.names, row, strict=True)
                    }
                    for name, row, total in zip(class_names, counts, totals, strict=True)
                },
                "missing": dict(zip(class_names, map(int, missing), strict=True)),
                "note": band.note,
            }
        )
    for entry, p in zip(entries, holm([entry["association"]["p"] for entry in entries]), strict=True):
        entry["association"]["p_holm"] = p
        entry["verdict"] = _verdict(entry)
    return entries


def cramers_v(counts: NDArray[np.number], *, num_independent: float | None = None) -> float | None:
    """Cramér's V with Bergsma's correction of its bias (2013); 0..1.

    Args:
        counts: (C, K) images of each class in each band; rows and columns without any image are left out.
        num_independent: of independent images; None: all are.

    Returns:
        None where fewer than two rows or columns hold an image, or too few images for the correction.
    """
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    total = float(counts.sum()) if num_independent is None else num_independent
    widest = _corrected_width(counts.shape, total)
    if widest is None:
        return None
    excess = max(0.0, float(_phi_squared(counts)) - _expected(counts.shape, total))
    return min(1.0, float(np.sqrt(excess / widest)))


def _contingency(
    labels: NDArray[np.int64], band: Bands, num_classes: int, resamples: NDArray[np.uint16]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Counts (C, K) of the data, and (R, C, K) of the resamples."""
    num_bands, known = len(band.names), band.codes >= 0
    cells = labels[known] * num_bands + band.codes[known]
    counts = np.bincount(cells, minlength=num_classes * num_bands)
    indicators = np.zeros((int(known.sum()), len(counts)), dtype=np.float32)
    indicators[np.arange(len(cells)), cells] = 1.0
    at_a_time = 100
    parts = [
        resamples[start : start + at_a_time][:, known].astype(np.float32) @ indicators
        for start in range(0, len(resamples), at_a_time)
    ]
    resampled = np.concatenate(parts).astype(np.float64)
    return counts.reshape(num_classes, num_bands), resampled.reshape(len(resamples), num_classes, num_bands)


def _association(
    counts: NDArray[np.int64], resampled: NDArray[np.float64], groups: NDArray[np.object_]
) -> dict[str, Any]:
    num_patients = len(set(groups))
    result: dict[str, Any] = dict.fromkeys(("value", "low", "high", "method", "p", "p_holm"))
    result |= {"n": len(groups), "patients": num_patients}
    rows, columns = counts.sum(axis=1) > 0, counts.sum(axis=0) > 0
    if columns.sum() < 2:
        return result | {"reason": "the same for every image" if columns.any() else "not known for any image"}
    if rows.sum() < 2:
        return result | {"reason": "known for images of one class only"}
    counts, resampled = counts[rows][:, columns], resampled[:, rows][:, :, columns]
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    observed = float(_phi_squared(counts))
    independent = _num_independent(observed, _phi_squared(resampled), freedom, len(groups), num_patients)
    value, widest = cramers_v(counts, num_independent=independent), _corrected_width(counts.shape, independent)
    if value is None or widest is None:
        return result | {"reason": f"too few for so many values: {len(groups)} images of {num_patients} patients"}
    statistic = observed * (independent - 1)
    low, high = (
        min(1.0, float(np.sqrt(_noncentrality(statistic, freedom, share) / (independent - 1) / widest)))
        for share in (1 - LEVEL / 2, LEVEL / 2)
    )
    method = f"noncentral chi square, {len(resampled):,} patient resamples"
    p = float(chi2.sf(statistic, freedom))
    return result | {"value": value, "low": low, "high": high, "method": method, "p": p}


def _num_independent(
    observed: float, spread: NDArray[np.float64], freedom: int, num_images: int, num_patients: int
) -> float:
    """How many independent images would leave phi squared as uncertain as resamples of the patients do.

    Of n independent images n phi squared is a noncentral chi square; resampling moves its mean up by `freedom`.
    The mean and the variance of the resamples give an n each; the smaller counts, and no more than there are.
    """
    added, variance = float(spread.mean()) - observed, float(spread.var())
    if variance < 1e-15:  # each class has values of its own: every resample says so, and no patient says more
        return float(num_patients)
    by_variance = 1 + (2 * observed + np.sqrt(4 * observed**2 + 2 * freedom * variance)) / variance
    by_mean = 1 + freedom / added if added > 0 else np.inf
    return float(min(num_images, by_variance, by_mean))


def _noncentrality(statistic: float, freedom: int, share: float) -> float:
    """The noncentrality for which a chi square stays below `statistic` with a chance of `share`; 0 where none is."""
    if chi2.cdf(statistic, freedom) <= share:
        return 0.0
    beyond = statistic + 20 * np.sqrt(statistic + freedom) + 50
    return float(brentq(lambda noncentrality: ncx2.cdf(statistic, freedom, noncentrality) - share, 0.0, beyond))


def _phi_squared(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """Pearson's chi square over the number of images, of the last two axes."""
    wide = counts.astype(np.float64)
    total = wide.sum(axis=(-2, -1), keepdims=True)
    expected = wide.sum(axis=-1, keepdims=True) * wide.sum(axis=-2, keepdims=True) / np.maximum(total, 1)
    cells = np.divide(np.square(wide - expected), expected, out=np.zeros_like(wide), where=expected > 0)
    return np.asarray(cells.sum(axis=(-2, -1)) / np.maximum(total[..., 0, 0], 1))


def _expected(shape: tuple[int, ...], total: float) -> float:
    """Mean of phi squared where nothing depends on anything."""
    return (shape[0] - 1) * (shape[1] - 1) / (total - 1)


def _corrected_width(shape: tuple[int, ...], total: float) -> float | None:
    """The largest phi squared that there can be, with Bergsma's correction."""
    if min(shape) < 2 or total <= 1:
        return None
    widest = min(side - (side - 1) ** 2 / (total - 1) for side in shape) - 1
    return widest if widest > 0 else None


def _verdict(entry: dict[str, Any]) -> str:
    association, shares = entry["association"], entry["shares"]
    absent = _missing_words(entry)
    column = entry["column"]
    with_known = {name: of_class for name, of_class in shares.items() if None not in of_class.values()}
    if association["value"] is None or len(with_known) < 2:
        only = [value for value in next(iter(with_known.values()), {}) if _occurs(entry, value)]
        same = f" ({only[0]})" if len(only) == 1 else ""
        return f"{column}: {association['reason']}{same}{absent if only else ''}"
    bands = next(iter(with_known.values()))

    def gap(value: str) -> float:
        of_classes = [of_class[value] for of_class in with_known.values()]
        # Rounded: of two values the gaps are equal but for the last digit, and the commoner is to be named.
        return round(float(max(of_classes) - min(of_classes)), 9)

    value = max(bands, key=gap)
    lowest, highest = (pick(with_known, key=lambda name: with_known[name][value]) for pick in (min, max))
    first, second = (name for name in with_known if name in ((lowest, highest) if gap(value) else list(with_known)[:2]))
    limits = "" if association["low"] is None else f", {association['low']:.2f} to {association['high']:.2f}"
    strength = f"Cramér's V {association['value']:.2f}{limits}"
    compared = (
        f"{value} is {_percent(shares[first][value])} of {first} and {_percent(shares[second][value])} of {second}"
    )
    if association["p_holm"] < LEVEL:
        return f"{column}: {compared} ({strength}){absent}"
    return f"{column}: no dependence on the class shown ({strength}); {compared}{absent}"


def _occurs(entry: dict[str, Any], value: str) -> bool:
    return any(of_class[value] for of_class in entry["classes"].values())


def _missing_words(entry: dict[str, Any]) -> str:
    shares = {
        name: missing / (missing + sum(entry["classes"][name].values()))
        for name, missing in entry["missing"].items()
        if missing + sum(entry["classes"][name].values())
    }
    if not any(shares.values()):
        return ""
    lowest, highest = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    named = [name for name in shares if name in (lowest, highest)]
    return f"; not known for {' and '.join(f'{_percent(shares[name])} of {name}' for name in named)}"


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 < share < 1 else f"{100 * share:.0f} %"
