"""How good are the answers on a split: value, interval, how many images and patients, and against what baseline?

The values themselves come from :mod:`cxr.training.metrics`, the one place where they are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.evaluation.metrics.metric_intervals import metric_intervals, num_patients, shares_of_images
from cxr.statistics.intervals import Interval
from cxr.training.metrics import classification_metrics, confusion_matrix, predicted_classes

METRICS = (
    "auroc",
    "macro_auroc",  # more than two classes only
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "mcc",
    "brier",
    "log_loss",
)


def measure(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    class_names: Sequence[str],
    positive: str,
    majority: str,
    *,
    threshold: float | None = None,
    prevalences: Sequence[float] | None = None,
    auroc_interval: str = "bootstrap",
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Every metric with its 95 % interval, its n and its baseline, and the confusion matrix.

    Args:
        probabilities: (N, C) rows sum to 1; N >= 1.
        labels: (N,) 0..C-1.
        groups: (N,) patient group of each image.
        class_names: (C,).
        positive: the class that sensitivity, AUROC and the like are about, against all the rest.
        majority: the commonest class of the training split; the baseline always answers it.
        threshold: probability from which an image is called positive; None: the likeliest class.
        prevalences: (C,) share of each class in the training split, sums to 1; the baseline of Brier score and
            log-loss always gives these probabilities. None: these two have no baseline.
        auroc_interval: see `metric_intervals`.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        ``{metric: {value, low, high, method, n, n_patients, baseline}}``; n is the number of images, and n_patients
        that of patients, that the value is a statement about (the positives for sensitivity, those called positive
        for PPV). An undefined value is None, and so are its limits and method; ``reason`` says why. Where only the
        interval is undefined, limits and method are None and ``reason_interval`` says why. Beside them
        ``confusion_matrix`` with ``classes`` and ``counts`` (rows actual, columns predicted).

    Raises:
        DataError: see `cxr.training.metrics.classification_metrics`.
    """
    values = classification_metrics(probabilities, labels, class_names, positive, threshold=threshold)
    baselines = _baselines(labels, class_names, positive, majority, prevalences)
    intervals = metric_intervals(
        values,
        probabilities,
        labels,
        groups,
        class_names,
        positive,
        threshold=threshold,
        auroc_interval=auroc_interval,
        num_resamples=num_resamples,
        seed=seed,
    )
    target = list(class_names).index(positive)
    called = predicted_classes(probabilities, target, threshold=threshold)
    _, patients = np.unique(np.asarray(groups), return_inverse=True)
    everything = np.ones(len(labels), dtype=bool)
    about = {name: images for name, (images, _) in shares_of_images(called, labels, target).items() if name != "f1"}
    entry: dict[str, Any] = {}
    for name in METRICS:
        if name not in values:
            continue
        images = about.get(name, everything)
        interval = intervals.get(name)
        limits = asdict(interval) if isinstance(interval, Interval) else dict.fromkeys(("low", "high", "method"))
        entry[name] = {"value": values[name], **limits} | {
            "n": int(images.sum()),
            "n_patients": num_patients(patients[images]),
            "baseline": baselines[name],
        }
        if name in values.undefined:
            entry[name]["reason"] = values.undefined[name]
        elif isinstance(interval, str):
            entry[name]["reason_interval"] = interval
    matrix = confusion_matrix(called, labels, len(class_names))
    entry["confusion_matrix"] = {"classes": list(class_names), "rows": "actual", "counts": matrix.tolist()}
    return entry


def _baselines(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    majority: str,
    prevalences: Sequence[float] | None,
) -> dict[str, float | None]:
    """What answers that never look at an image reach: always the majority, or always the shares of the classes."""
    constant = np.zeros((len(labels), len(class_names)))
    constant[:, list(class_names).index(majority)] = 1.0
    baselines: dict[str, float | None] = {**classification_metrics(constant, labels, class_names, positive)}
    if baselines["auroc"] is not None:
        baselines["mcc"] = 0.0  # the limit for constant answers (Chicco & Jurman 2020)
    baselines |= {"brier": None, "log_loss": None}
    if prevalences is not None:
        constant[:] = prevalences
        informed = classification_metrics(constant, labels, class_names, positive)
        baselines |= {name: informed[name] for name in ("brier", "log_loss")}
    return baselines
