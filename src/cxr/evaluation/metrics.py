"""How good are the answers on a split, over how many images, and against what baseline?

The values themselves come from :mod:`cxr.training.metrics`, the one place where they are computed; here they get
their n, their baseline and, where they are undefined, the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.training.metrics import classification_metrics, confusion_matrix, predicted_classes

# Scores of the probabilities themselves (log-loss, Brier) have no baseline in a constant class, and stay out.
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
)


def measure(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    positive: str,
    majority: str,
) -> dict[str, Any]:
    """Every metric with its n and baseline, and the confusion matrix.

    Args:
        probabilities: (N, C) rows sum to 1; N >= 1.
        labels: (N,) 0..C-1.
        class_names: (C,).
        positive: the class that sensitivity, AUROC and the like are about, against all the rest.
        majority: the commonest class of the training split; the baseline always answers it.

    Returns:
        ``{metric: {value, n, baseline}}``; n is the number of images that the value is a statement about (the
        positives for sensitivity, those called positive for PPV); an undefined value is None and has a ``reason``.
        Beside them ``confusion_matrix`` with ``classes`` and ``counts`` (rows actual, columns predicted).
    """
    target = list(class_names).index(positive)
    values = classification_metrics(probabilities, labels, class_names, positive)
    constant = np.zeros_like(probabilities)
    constant[:, list(class_names).index(majority)] = 1.0
    baselines = classification_metrics(constant, labels, class_names, positive)
    matrix = confusion_matrix(predicted_classes(probabilities, target), labels, len(class_names))
    num_actual, num_called, total = int(matrix[target].sum()), int(matrix[:, target].sum()), len(labels)
    over = {
        "sensitivity": num_actual,
        "specificity": total - num_actual,
        "ppv": num_called,
        "npv": total - num_called,
    }
    entry: dict[str, Any] = {}
    for name in METRICS:
        if name not in values:
            continue
        baseline = baselines[name]
        if name == "mcc" and 0 < num_actual < total:
            baseline = 0.0  # the limit for constant answers (Chicco & Jurman 2020)
        entry[name] = {"value": values[name], "n": over.get(name, total), "baseline": baseline}
        if name in values.undefined:
            entry[name]["reason"] = values.undefined[name]
    entry["confusion_matrix"] = {"classes": list(class_names), "rows": "actual", "counts": matrix.tolist()}
    return entry
