"""Do two networks, or two configurations, differ on the same patients, once all comparisons are counted?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import binomtest, t

from cxr.evaluation.comparison.predictions import Predictions
from cxr.evaluation.metrics.weighted_metrics import weighted_metrics
from cxr.statistics.intervals import delong_difference
from cxr.statistics.resampling import patient_resamples
from cxr.training.metrics import predicted_classes

MIN_PATIENTS = 10  # below, the spread between resamples says little of the spread between samples


@dataclass(frozen=True)
class SeedSpread:
    """How far repeats of one configuration with other seeds lie apart on the same images.

    Args:
        variance: of a single run about the mean of its configuration, pooled over the configurations.
        freedom: its degrees of freedom: repeats less configurations.
    """

    variance: float
    freedom: int


@dataclass(frozen=True)
class Difference:
    """What was found between two configurations, first less second.

    Args:
        value, low, high: the difference of the metric and its 95 % limits, not widened for many comparisons; None
            where there is none.
        p: two-sided, not corrected; None where nothing could be tested.
        method: of the limits and p, in words.
        num_images, num_patients: what it rests on.
        notes: what must be known of it, a sentence each.
        reason: why there is no p.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    method: str
    num_images: int
    num_patients: int
    notes: tuple[str, ...] = ()
    reason: str | None = None


class SharedResamples:
    """The metrics of every network in the same resamples of the same patients, each worked out once.

    Args:
        num_resamples: R.
        seed: of the resamples.
    """

    def __init__(self, num_resamples: int, seed: int = 0) -> None:
        self.num_resamples = num_resamples
        self._seed = seed
        self._weights: dict[bytes, NDArray[np.uint16]] = {}
        self._metrics: dict[tuple[object, ...], dict[str, NDArray[np.float64]]] = {}

    def metrics(self, network: Predictions, everyone: Predictions) -> dict[str, NDArray[np.float64]]:
        """Metric name -> (R + 1,) values: that of the data first, then one of each resample.

        Args:
            network: whose metrics.
            everyone: all records from which patients are drawn; those of `network` are among them.
        """
        # Groups by number, so that what they are called has no say.
        groups = pd.factorize(everyone.groups)[0]
        universe = _digest(everyone) + groups.tobytes() + everyone.labels.tobytes()
        if universe not in self._weights:
            names = [str(group) for group in groups]
            drawn = patient_resamples(names, everyone.labels, num_resamples=self.num_resamples, seed=self._seed)
            self._weights[universe] = np.concatenate([np.ones((1, drawn.shape[1]), np.uint16), drawn])
        key = (network.names, _digest(network), universe)
        if key not in self._metrics:
            weights = self._weights[universe]
            if len(network.keys) < len(everyone.keys):
                weights = weights[:, np.searchsorted(everyone.keys.astype(str), network.keys.astype(str))]
            self._metrics[key] = weighted_metrics(
                network.probabilities,
                network.labels,
                network.class_names,
                network.positive,
                weights,
                threshold=network.threshold,
            )
        return self._metrics[key]

    def mean(self, blocks: Sequence[Sequence[Predictions]], everyone: Predictions, metric: str) -> NDArray[np.float64]:
        """(R + 1,) mean of a metric over the networks of each block, then over the blocks."""
        nothing = np.full(self.num_resamples + 1, np.nan)
        of_blocks = [
            np.mean([self.metrics(network, everyone).get(metric, nothing) for network in block], axis=0)
            for block in blocks
        ]
        return np.asarray(np.mean(of_blocks, axis=0), dtype=np.float64)


def compare(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    metric: str,
    resamples: SharedResamples,
    spread: SeedSpread | None = None,
) -> Difference:
    """Test whether two configurations differ in a metric, on the records that both have scored.

    One network against one, each patient with one image: for ``auroc`` DeLong, DeLong and Clarke-Pearson, "Comparing
    the areas under two or more correlated receiver operating characteristic curves" (1988); for ``accuracy`` McNemar,
    "Note on the sampling error of the difference between correlated proportions or percentages" (1947), exact
    binomial. Otherwise a paired bootstrap over patients: the standard error is that of the difference over resamples
    that both share (as in Robin et al., "pROC", 2011), referred to Student's t with one degree of freedom less than
    there are patients. With a known spread of seeds its variance is added, and Satterthwaite (1946) gives the degrees
    of freedom.

    Args:
        first, second: the repeats of each configuration, sorted by key; repeats on the same records are averaged, and
            where the records of the repeats differ (other splits), only equal records stand against each other.
        metric: as `weighted_metrics` names it.
        resamples: shared by all comparisons.
        spread: None where no configuration was repeated: the result then speaks of these networks alone.
    """
    kinds = {(network.class_names, network.positive) for network in (*first, *second)}
    if len(kinds) > 1:
        return _untested("their classes differ", 0, 0)
    blocks, notes = _blocks(first, second)
    if not blocks:
        return _untested("they share no image", 0, 0)
    everyone, conflicts = everyone_in([network for block in blocks for side in block for network in side])
    num_images, num_patients = len(everyone.keys), len(set(everyone.groups))
    if conflicts:
        return _untested(f"the labels of {conflicts} of {num_images} images disagree", num_images, num_patients)
    of_first = resamples.mean([block[0] for block in blocks], everyone, metric)
    of_second = resamples.mean([block[1] for block in blocks], everyone, metric)
    between = of_first - of_second
    value = float(between[0])
    if np.isnan(value):
        return _untested(f"{metric} is undefined on these images", num_images, num_patients, notes)
    alone = len(blocks) == 1 and len(blocks[0][0]) == len(blocks[0][1]) == 1
    if alone and spread is None and num_images == num_patients and metric in ("auroc", "accuracy"):
        one, other = blocks[0][0][0], blocks[0][1][0]
        target = one.class_names.index(one.positive)
        if metric == "auroc":
            is_positive = one.labels == target
            value, low, high, p = delong_difference(
                one.probabilities[:, target], other.probabilities[:, target], is_positive
            )
            if np.isnan(p):
                return _untested("one of the classes has a single image", num_images, num_patients, notes)
            # Equal scores have no spread: limits without width would claim certainty.
            limits = (low, high) if low < high else (None, None)
            return Difference(value, limits[0], limits[1], p, "DeLong", num_images, num_patients, notes)
        right = [
            predicted_classes(each.probabilities, target, threshold=each.threshold) == each.labels
            for each in (one, other)
        ]
        value, low, high, p = mcnemar(right[0], right[1])
        return Difference(value, low, high, p, "McNemar, exact", num_images, num_patients, notes)
    defined = between[1:][~np.isnan(between[1:])]
    if num_patients < MIN_PATIENTS or 2 * len(defined) < resamples.num_resamples:
        too_few = num_patients < MIN_PATIENTS
        reason = f"{num_patients} patients are too few" if too_few else "undefined in most resamples"
        return replace(_untested(reason, num_images, num_patients, notes), value=value)
    variance, freedom = float(np.var(defined, ddof=1)), float(num_patients - 1)
    method = f"patient bootstrap, {resamples.num_resamples:,} resamples"
    if spread is not None:
        of_seeds = spread.variance * sum(1 / len(one) + 1 / len(other) for one, other in blocks) / len(blocks) ** 2
        total = variance + of_seeds
        if total > 0:
            freedom = total**2 / (variance**2 / freedom + of_seeds**2 / spread.freedom)
        variance = total
        method += ", and the spread of the seeds"
    error = variance**0.5
    if error == 0:
        return Difference(value, None, None, 1.0, method, num_images, num_patients, notes)
    half = float(t.ppf(0.975, freedom)) * error
    p = float(2 * t.sf(abs(value) / error, freedom))
    return Difference(value, value - half, value + half, p, method, num_images, num_patients, notes)


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Difference of two accuracies on the same independent images, its 95 % limits, and the exact p.

    The test is McNemar's (1947) in its exact form: of the images on which exactly one of the two is right, each side
    has half by chance. The limits are those of Agresti and Min, "Simple improved confidence intervals for comparing
    matched proportions" (2005): Wald's, with half an image added to each cell.

    Args:
        right_a, right_b: (N,) whether each network is right; N >= 1.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    total = len(right_a)
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    moved = total + 2
    middle = (only_a - only_b) / moved
    error = float(np.sqrt((only_a + only_b + 1) / moved - middle**2) / np.sqrt(moved))
    half = 1.959963984540054 * error
    return (only_a - only_b) / total, max(-1.0, middle - half), min(1.0, middle + half), p


def _untested(reason: str, num_images: int, num_patients: int, notes: tuple[str, ...] = ()) -> Difference:
    return Difference(None, None, None, None, "not tested", num_images, num_patients, notes, reason)


def _digest(predictions: Predictions) -> bytes:
    """Stands for the records: equal where the keys are."""
    return hashlib.sha256("\n".join(predictions.keys).encode(errors="surrogatepass")).digest()


def _blocks(
    first: Sequence[Predictions], second: Sequence[Predictions]
) -> tuple[list[tuple[list[Predictions], list[Predictions]]], tuple[str, ...]]:
    """The repeats of both sides on equal records, side by side; without any, all of them on what all share."""
    sides: list[dict[bytes, list[Predictions]]] = [{}, {}]
    for by_records, repeats in zip(sides, (first, second), strict=True):
        for network in repeats:
            by_records.setdefault(_digest(network), []).append(network)
    shared = [digest for digest in sides[0] if digest in sides[1]]
    if shared:
        left_out = sum(len(side[digest]) for side in sides for digest in side if digest not in shared)
        notes = (f"{left_out} repeats without a counterpart on the same images left out",) if left_out else ()
        return [(sides[0][digest], sides[1][digest]) for digest in shared], notes
    everyone = [*first, *second]
    common = reduce(np.intersect1d, [network.keys.astype(str) for network in everyone])
    if len(common) == 0:
        return [], ()
    cut = [network.take(np.searchsorted(network.keys.astype(str), common)) for network in everyone]
    note = f"only {len(common):,} of {len(set().union(*(n.keys for n in everyone))):,} images are common to both"
    return [(cut[: len(first)], cut[len(first) :])], (note,)


def everyone_in(networks: Sequence[Predictions]) -> tuple[Predictions, int]:
    """All records of some networks, each once and sorted, and for how many of them the labels disagree.

    Patients of whom any network says that they belong together stay together.
    """
    keys = np.concatenate([network.keys for network in networks]).astype(str)
    labels = np.concatenate([network.labels for network in networks])
    _, first, record = np.unique(keys, return_index=True, return_inverse=True)
    conflicts = len(np.unique(record[labels != labels[first][record]]))
    everyone = replace(
        networks[0],
        keys=keys[first].astype(object),
        labels=labels[first],
        groups=_joined_groups(networks, record.reshape(-1)),
        probabilities=np.empty((len(first), 0), np.float32),
    )
    return everyone, conflicts


def _joined_groups(networks: Sequence[Predictions], record: NDArray[np.intp]) -> NDArray[Any]:
    """Patient groups of the records; where runs group differently, what any of them joins stays together."""
    num_records = int(record.max()) + 1
    codes = pd.factorize(np.concatenate([network.groups for network in networks]))[0] + num_records
    size = int(codes.max()) + 1
    links = coo_array((np.ones(len(record)), (record, codes)), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1][:num_records].astype(str), dtype=object)
