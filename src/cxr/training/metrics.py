"""How good are probabilities against labels?  The one place where metrics are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from cxr.errors import DataError

if TYPE_CHECKING:  # what compares finished runs has no need of torch, which takes seconds to import
    from torch import Tensor

# Probabilities from a softmax in float32, or read back from a CSV, sum to one within this.
_SUM_TOLERANCE = 1e-3
# A wrong answer given with probability 1 would cost infinitely much; this is half a step of float32 below 1.
_SMALLEST = float(np.finfo(np.float32).eps) / 2

Probabilities: TypeAlias = "npt.NDArray[np.floating] | Tensor"
Labels: TypeAlias = "npt.NDArray[np.integer] | Tensor"


class Metrics(dict[str, "float | None"]):
    """Metric name -> value, None where the data do not define it; `undefined` says why for each None."""

    def __init__(self, values: Mapping[str, float | None], undefined: Mapping[str, str]) -> None:
        super().__init__(values)
        self.undefined = dict(undefined)


def classification_metrics(
    probabilities: Probabilities,
    labels: Labels,
    class_names: Sequence[str],
    positive: str,
    *,
    threshold: float | None = None,
) -> Metrics:
    """Measure probabilities against labels.

    One class is the positive one; with more than two classes it stands against all others together.

    Args:
        probabilities: (N, C), finite, in [0, 1], each row sums to 1; never logits.
        labels: (N,) integers in 0..C-1.
        class_names: the C classes in the order of the columns.
        positive: the positive class, by name.
        threshold: an image is called positive from this probability on; otherwise it is called the likeliest of the
            other classes. None = the likeliest class (for two classes 0.5, a tie being called positive).

    Returns:
        ``accuracy`` and ``balanced_accuracy`` (mean recall of the classes) over all classes; ``log_loss`` (nats per
        image; a probability of 0 for the true class counts as 6e-8); for the positive class ``auroc``,
        ``average_precision`` (sum over the recall steps, no interpolation), ``sensitivity``, ``specificity``, ``ppv``,
        ``npv``, ``f1``, ``mcc`` (Matthews 1975) and ``brier`` (mean squared error of its probability, Brier 1950, in
        0..1); with more than two classes also ``macro_auroc``, the plain mean of the one-against-rest areas. What the
        data do not define is None.

    Raises:
        DataError: an argument is not as described; what is not finite is refused, for it would pass for 0.5.
    """
    table, truth = _checked(probabilities, labels, class_names, positive)
    target = list(class_names).index(positive)
    predicted = predicted_classes(table, target, threshold=threshold)
    matrix = confusion_matrix(predicted, truth, len(class_names)).astype(np.float64)
    undefined: dict[str, str] = {}

    def ratio(name: str, numerator: float, denominator: float, reason: str) -> float | None:
        if denominator > 0:
            return float(numerator / denominator)
        undefined[name] = reason
        return None

    total = float(matrix.sum())
    true_positive = matrix[target, target]
    false_negative = matrix[target].sum() - true_positive
    false_positive = matrix[:, target].sum() - true_positive
    true_negative = total - true_positive - false_negative - false_positive
    num_actual, num_called = true_positive + false_negative, true_positive + false_positive
    num_other, num_not_called = total - num_actual, total - num_called

    nothing = "no image"
    no_positive = f"no image of class {positive}" if total else nothing
    no_other = f"every image is of class {positive}" if total else nothing
    none_called = f"no image was called {positive}" if total else nothing
    all_called = f"every image was called {positive}" if total else nothing

    values: dict[str, float | None] = {"accuracy": ratio("accuracy", float(np.trace(matrix)), total, nothing)}
    absent = [name for name, count in zip(class_names, matrix.sum(axis=1), strict=True) if count == 0]
    if absent:
        values["balanced_accuracy"] = None
        undefined["balanced_accuracy"] = f"no image of class {', '.join(absent)}"
    else:
        values["balanced_accuracy"] = float(np.mean(np.diag(matrix) / matrix.sum(axis=1)))

    if num_actual and num_other:
        values["auroc"] = _auroc(table[:, target], truth == target)
        values["average_precision"] = _average_precision(table[:, target], truth == target)
    else:
        for name in ("auroc", "average_precision"):
            values[name] = None
            undefined[name] = no_other if num_actual else no_positive
    if len(class_names) > 2:
        if absent:
            values["macro_auroc"] = None
            undefined["macro_auroc"] = undefined["balanced_accuracy"]
        else:
            areas = [_auroc(table[:, column], truth == column) for column in range(len(class_names))]
            values["macro_auroc"] = float(np.mean(areas))

    values["sensitivity"] = ratio("sensitivity", true_positive, num_actual, no_positive)
    values["specificity"] = ratio("specificity", true_negative, num_other, no_other)
    values["ppv"] = ratio("ppv", true_positive, num_called, none_called)
    values["npv"] = ratio("npv", true_negative, num_not_called, all_called)
    values["f1"] = ratio("f1", 2 * true_positive, num_actual + num_called, f"{no_positive}, and none was called so")
    if not num_actual or not num_other:
        reason = no_other if num_actual else no_positive
    else:
        reason = all_called if num_called else none_called
    values["mcc"] = ratio(
        "mcc",
        true_positive * true_negative - false_positive * false_negative,
        float(np.sqrt(num_actual * num_other * num_called * num_not_called)),
        reason,
    )
    if total:
        wide = table.astype(np.float64)
        of_truth = wide[np.arange(len(truth)), truth]
        values["log_loss"] = float(-np.log(np.clip(of_truth, _SMALLEST, 1.0)).mean())
        values["brier"] = float(np.square(wide[:, target] - (truth == target)).mean())
    else:
        values["log_loss"] = values["brier"] = None
        undefined["log_loss"] = undefined["brier"] = nothing
    return Metrics(values, undefined)


def predicted_classes(
    probabilities: npt.NDArray[np.floating], positive_index: int, *, threshold: float | None = None
) -> npt.NDArray[np.int64]:
    """The class that each row (N, C) is called, (N,); see ``threshold`` in `classification_metrics`."""
    others = np.delete(np.arange(probabilities.shape[1]), positive_index)
    rest = (
        others[probabilities[:, others].argmax(axis=1)] if len(others) else np.full(len(probabilities), positive_index)
    )
    of_positive = probabilities[:, positive_index]
    if threshold is None:
        called = of_positive >= np.take_along_axis(probabilities, rest[:, None], axis=1)[:, 0]
    else:
        called = of_positive >= threshold
    return np.where(called, positive_index, rest).astype(np.int64)


def confusion_matrix(
    predicted: npt.NDArray[np.integer], labels: npt.NDArray[np.integer], num_classes: int
) -> npt.NDArray[np.int64]:
    """Counts (C, C): rows are what is true, columns what was called."""
    cells = labels.astype(np.int64) * num_classes + predicted.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def _auroc(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> float:
    """The share of pairs of a positive and a negative that the scores put in order, a tie counting half.

    Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982. By ranks in float64: torchmetrics
    integrates in float32 and calls a perfect order 1.0000001.
    """
    num_positive = int(is_positive.sum())
    num_negative = len(is_positive) - num_positive
    won = float(rankdata(scores)[is_positive].sum()) - num_positive * (num_positive + 1) / 2
    return won / (num_positive * num_negative)


def _average_precision(scores: npt.NDArray[np.floating], is_positive: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    # Images of one score are called positive together: only the last of each group is an operating point.
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    found = np.cumsum(is_positive[order])[ends].astype(np.float64)
    steps = np.diff(found, prepend=0.0) / found[-1]
    return float((steps * found / (ends + 1)).sum())


def _as_array(values: Probabilities | Labels) -> npt.NDArray[Any]:
    """A tensor wherever it lies, or what NumPy takes, as an array."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _checked(
    probabilities: Probabilities, labels: Labels, class_names: Sequence[str], positive: str
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]:
    table, truth = _as_array(probabilities), _as_array(labels)
    num_classes = len(class_names)
    if positive not in class_names:
        raise DataError(f"positive class {positive!r}: not one of {', '.join(class_names)}")
    if table.ndim != 2 or table.shape[1] != num_classes or truth.shape != table.shape[:1]:
        raise DataError(
            f"metrics: probabilities of shape {table.shape} and labels of shape {truth.shape} for {num_classes} classes"
        )
    if not np.issubdtype(table.dtype, np.floating) or not np.issubdtype(truth.dtype, np.integer):
        raise DataError(f"metrics: probabilities are {table.dtype} and labels {truth.dtype}; give floats and integers")
    if not np.isfinite(table).all():
        raise DataError(
            f"metrics: {int((~np.isfinite(table).all(axis=1)).sum())} images have a probability that is not finite"
        )
    if len(table) and (table.min() < 0 or table.max() > 1 + _SUM_TOLERANCE):
        raise DataError(f"metrics: values from {table.min()} to {table.max()} are no probabilities (are they logits?)")
    if len(table) and np.abs(table.sum(axis=1, dtype=np.float64) - 1).max() > _SUM_TOLERANCE:
        raise DataError("metrics: the probabilities of an image do not sum to 1")
    if len(truth) and (truth.min() < 0 or truth.max() >= num_classes):
        raise DataError(f"metrics: labels from {truth.min()} to {truth.max()}, for classes 0 to {num_classes - 1}")
    return np.minimum(table, 1.0), truth.astype(np.int64)
