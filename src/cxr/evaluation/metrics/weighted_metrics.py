"""What would each metric be if some images counted more than others?  All resamples of a bootstrap at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr.training.metrics import predicted_classes

# The same floor as in cxr.training.metrics: what a probability of 0 for the true class counts as.
_SMALLEST = float(np.finfo(np.float32).eps) / 2
CHUNK = 1_000_000  # weights worked on at a time: 8 MB for each array made of them


@dataclass(frozen=True)
class Ranking:
    """The images from the highest score to the lowest.

    Args:
        order: (N,) places of the images.
        is_positive: (N,) 1 or 0, in this order.
        ends: (T,) the last place of each run of equal scores: such images are called positive together.
    """

    order: NDArray[np.intp]
    is_positive: NDArray[np.float64]
    ends: NDArray[np.intp]


def rank(scores: NDArray[np.floating], is_positive: NDArray[np.bool_]) -> Ranking:
    """Sort once what all resamples share."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return Ranking(order, is_positive[order].astype(np.float64), ends)


def cumulated(weights: NDArray[np.float64], ranking: Ranking) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of the positives, and of all images, with a score at or above each threshold: two (R, T)."""
    ordered = weights[:, ranking.order]
    found = np.cumsum(ordered * ranking.is_positive, axis=1)
    called = np.cumsum(ordered, axis=1, out=ordered)
    if len(ranking.ends) == len(ranking.order):
        return found, called
    return found[:, ranking.ends], called[:, ranking.ends]


def weighted_metrics(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    weights: NDArray[np.number],
    *,
    threshold: float | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Every metric of `cxr.training.metrics.classification_metrics`, once for each row of weights.

    An image of weight 3 counts as three equal images, one of weight 0 as none; weights of one give the metrics
    themselves. The scores are sorted once for all rows.

    Args:
        probabilities: (N, C) rows sum to 1.
        labels: (N,) 0..C-1.
        class_names: (C,).
        positive: the positive class, by name.
        weights: (R, N), 0 or more, finite.
        threshold: see `classification_metrics`.

    Returns:
        Metric name -> (R,) values, NaN where the weights leave it undefined.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    num_images, num_classes = probabilities.shape
    if weights.ndim != 2 or weights.shape[1] != num_images or labels.shape != (num_images,):
        raise ValueError(f"weights {weights.shape} and labels {labels.shape} for probabilities {probabilities.shape}")
    target = list(class_names).index(positive)
    columns = _columns(np.minimum(probabilities, 1.0), labels, target, threshold)
    ranked = range(num_classes) if num_classes > 2 else (target,)
    rankings = {place: rank(probabilities[:, place], labels == place) for place in ranked}
    parts = []
    at_a_time = max(1, CHUNK // max(1, num_images))
    for start in range(0, len(weights), at_a_time):
        chunk = weights[start : start + at_a_time].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN: undefined
            parts.append(_rates(chunk @ columns, num_classes, target) | _areas(chunk, rankings, target))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def _columns(
    table: NDArray[np.floating], labels: NDArray[np.int64], target: int, threshold: float | None
) -> NDArray[np.float64]:
    """What is summed over the images, (N, 2 C + 5).

    For each class whether the image is of it, and whether it is and was called so; then: called positive, rightly
    called positive, right, log-loss, squared error of the positive probability.
    """
    wide = table.astype(np.float64)
    truth = (labels[:, None] == np.arange(table.shape[1])).astype(np.float64)
    called = predicted_classes(table, target, threshold=threshold)
    right = (called == labels).astype(np.float64)
    is_called = (called == target).astype(np.float64)
    loss = -np.log(np.clip(wide[np.arange(len(labels)), labels], _SMALLEST, 1.0))
    error = np.square(wide[:, target] - truth[:, target])
    return np.column_stack(
        [truth, truth * right[:, None], is_called, is_called * truth[:, target], right, loss, error],
    )


def _rates(sums: NDArray[np.float64], num_classes: int, target: int) -> dict[str, NDArray[np.float64]]:
    """Metrics that are made of the sums (R, 2 C + 5)."""
    of_class, found = sums[:, :num_classes], sums[:, num_classes : 2 * num_classes]
    num_called, true_positive, right, loss, error = sums[:, 2 * num_classes :].T
    total, num_actual = of_class.sum(axis=1), of_class[:, target]
    num_other, num_not_called = total - num_actual, total - num_called
    false_positive, false_negative = num_called - true_positive, num_actual - true_positive
    true_negative = num_other - false_positive
    return {
        "accuracy": right / total,
        "balanced_accuracy": (found / of_class).mean(axis=1),
        "sensitivity": true_positive / num_actual,
        "specificity": true_negative / num_other,
        "ppv": true_positive / num_called,
        "npv": true_negative / num_not_called,
        "f1": 2 * true_positive / (num_actual + num_called),
        "mcc": (true_positive * true_negative - false_positive * false_negative)
        / np.sqrt(num_actual * num_other * num_called * num_not_called),
        "log_loss": loss / total,
        "brier": error / total,
    }


def _areas(weights: NDArray[np.float64], rankings: dict[int, Ranking], target: int) -> dict[str, NDArray[np.float64]]:
    """Areas under the curves, (R,) each."""
    areas: dict[str, NDArray[np.float64]] = {}
    of_class = []
    for place, ranking in rankings.items():
        found, called = cumulated(weights, ranking)
        num_found, num_passed = found[:, -1], called[:, -1] - found[:, -1]
        if place == target:
            # `called` is 0 only where `found` is: no image of this score is in the resample.
            precision = found / np.maximum(called, np.finfo(np.float64).tiny)
            steps = np.einsum("rt,rt->r", np.diff(found, axis=1, prepend=0.0), precision)
            areas["average_precision"] = np.where(num_passed > 0, steps / num_found, np.nan)
        passed = called - found
        # A positive and a negative of one score are half in order: the trapezium rule.
        in_order = np.einsum("rt,rt->r", np.diff(passed, axis=1, prepend=0.0), found)
        tied = np.einsum("rt,rt->r", np.diff(passed, axis=1, prepend=0.0), np.diff(found, axis=1, prepend=0.0))
        of_class.append((in_order - tied / 2) / (num_found * num_passed))
        if place == target:
            areas["auroc"] = of_class[-1]
    if len(rankings) > 1:
        areas["macro_auroc"] = np.mean(of_class, axis=0)
    return areas
