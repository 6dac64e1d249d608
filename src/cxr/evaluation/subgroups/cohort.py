"""What do the answers come to on a part of the images, and how would that vary with other patients?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cxr.evaluation.words import counted
from cxr.statistics.areas import resampled_areas
from cxr.statistics.intervals import Interval, auroc_score, wilson_by_patient
from cxr.statistics.resampling import percentile_interval
from cxr.training.metrics import classification_metrics, predicted_classes

METRICS: Final = ("auroc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Part:
    """A part of the images, and what was measured there.

    Args:
        images, patients: how many.
        counts: images of the positive class, and of all others.
        too_few: metric -> why it is not measured.
        values: metric -> its value, of the others.
        intervals: metric -> 95 % limits; None where the resamples give none.
        resampled: metric -> (R,) its values in the resamples, NaN where undefined.
    """

    images: int
    patients: int
    counts: tuple[int, int]
    too_few: dict[str, str]
    values: dict[str, float]
    intervals: dict[str, Interval | None]
    resampled: dict[str, NDArray[np.float64]]

    def variance_at(self, metric: str, value: float) -> float:
        """The variance of a metric, were its value another.

        That of as many independent images, times what the images of a patient repeat each other: as the resamples
        show, or, where they have no spread to show it, as much as can be.
        """
        most = max(1.0, self.images / self.patients)
        own = _variance(metric, self.values[metric], self.counts)
        spread = float(np.nanvar(self.resampled[metric])) / own if own > 0 else most
        return _variance(metric, value, self.counts) * min(max(spread, 1.0), most)


@dataclass(frozen=True)
class Cohort:
    """All images, and how any part of them is measured; arguments as
    `cxr.evaluation.subgroups.subgroups.subgroup_table`.

    Args:
        groups: (N,) patient group of each image.
        resamples: (R, N) from `cxr.statistics.resampling.patient_resamples`.
    """

    groups: NDArray[np.object_]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: list[str]
    positive: str
    threshold: float | None
    min_images: int
    min_patients: int
    resamples: NDArray[np.uint16]

    def values(self, images: NDArray[np.bool_]) -> dict[str, float | None]:
        """All metrics of the images that are True, (N,)."""
        return classification_metrics(
            self.probabilities[images], self.labels[images], self.class_names, self.positive, threshold=self.threshold
        )

    def part(self, images: NDArray[np.bool_]) -> Part:
        """The metrics of the images that are True, (N,), where these are enough."""
        target = self.class_names.index(self.positive)
        is_positive = self.labels == target
        parts = {"sensitivity": images & is_positive, "specificity": images & ~is_positive}
        num_with, num_without = (len(set(self.groups[part])) for part in parts.values())
        patients = len(set(self.groups[images]))
        needs = {"auroc": (num_with, num_without), "sensitivity": (num_with, None), "specificity": (None, num_without)}
        too_few: dict[str, str] = {}
        for metric, (with_it, without) in needs.items():
            if images.sum() < self.min_images:
                too_few[metric] = f"too few: {counted(int(images.sum()), 'image')} ({self.min_images} are needed)"
            elif with_it is not None and with_it < self.min_patients:
                too_few[metric] = self._short_of(with_it, "with")
            elif without is not None and without < self.min_patients:
                too_few[metric] = self._short_of(without, "without")
        values = {name: value for name, value in self.values(images).items() if name in METRICS and name not in too_few}
        defined = {name: value for name, value in values.items() if value is not None}
        called = predicted_classes(self.probabilities, target, threshold=self.threshold) == target
        scores = self.probabilities[:, target]
        ascending = {metric: np.flatnonzero(part)[scores[part].argsort()] for metric, part in parts.items()}
        weights = (
            {metric: self.resamples.take(places, axis=1) for metric, places in ascending.items()} if defined else {}
        )
        resampled, intervals = {}, {}
        for metric, value in defined.items():
            if metric == "auroc":
                resampled[metric] = resampled_areas(
                    *(scores[places] for places in ascending.values()), *weights.values()
                )
                intervals[metric] = _auroc_interval(value, resampled[metric], num_with, num_without)
            else:
                places = ascending[metric]
                right = called[places] == (metric == "sensitivity")
                resampled[metric] = _resampled_shares(right, weights[metric])
                intervals[metric] = wilson_by_patient(right, list(self.groups[places]))
        counts = (int(parts["sensitivity"].sum()), int(parts["specificity"].sum()))
        return Part(int(images.sum()), patients, counts, too_few, defined, intervals, resampled)

    def _short_of(self, number: int, side: str) -> str:
        return f"too few: {counted(number, 'patient')} {side} {self.positive} ({self.min_patients} are needed)"


def _variance(metric: str, value: float, counts: tuple[int, int]) -> float:
    """Of independent images; of an AUROC by the formula of Newcombe (2006), see `auroc_score`."""
    num_positives, num_negatives = counts
    if metric != "auroc":
        return value * (1 - value) / (num_positives if metric == "sensitivity" else num_negatives)
    pairs = 1 + ((num_positives + num_negatives) / 2 - 1) * ((1 - value) / (2 - value) + value / (1 + value))
    return value * (1 - value) * pairs / (num_positives * num_negatives)


def _auroc_interval(value: float, resampled: NDArray[np.float64], num_with: int, num_without: int) -> Interval | None:
    if value in (0.0, 1.0):
        return auroc_score(value, num_with, num_without)
    limits = percentile_interval(resampled)
    return None if limits is None else Interval(*limits, f"patient bootstrap, {len(resampled):,} resamples")


def _resampled_shares(is_right: NDArray[np.bool_], weights: NDArray[np.uint16]) -> NDArray[np.float64]:
    sides = np.column_stack([np.ones(len(is_right)), is_right]).astype(np.float32)
    total, right = (weights.astype(np.float32) @ sides).astype(np.float64).T
    shares: NDArray[np.float64] = np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)
    return shares
