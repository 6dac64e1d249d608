"""What do the answers on one split amount to, with an interval on every number?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr.evaluation.calibration.metrics import measure_calibration
from cxr.evaluation.calibration.operating_point_metrics import measure_operating_points
from cxr.evaluation.calibration.stored import StoredCalibration
from cxr.evaluation.metrics.measures import measure
from cxr.evaluation.scoring.answers import Answers
from cxr.evaluation.scoring.subject import labels_of
from cxr.evaluation.subgroups.dependence import dependence_table
from cxr.evaluation.subgroups.subgroups import subgroup_table


@dataclass(frozen=True)
class Wishes:
    """What is measured beyond the plain metrics.

    Args:
        prevalence: for which PPV and NPV are given besides; None: as in the images.
        subgroups: columns of the manifest.
        auroc_interval: of the whole split's AUROC, see `cxr.evaluation.metrics.metric_intervals.metric_intervals`.
        num_resamples: of the patients, behind every interval.
        seed: of the resamples.
    """

    prevalence: float | None
    subgroups: Sequence[str]
    auroc_interval: str
    num_resamples: int
    seed: int


def assess(
    answers: Answers,
    class_names: Sequence[str],
    positive: str,
    training_counts: Counter[str],
    threshold: float | None,
    fitted: StoredCalibration | None,
    calibrated: NDArray[np.float32] | None,
    wishes: Wishes,
) -> dict[str, Any]:
    """The entry of one split in ``metrics.json``, apart from where it comes from.

    Args:
        answers: at least one of its images has a label; those without are counted and left out.
        class_names: (C,) in the order of the columns.
        positive: the class that sensitivity, AUROC and the like are about.
        training_counts: images of each class in the training split; empty where that is not known.
        threshold: probability from which an image is called positive; None: the likeliest class.
        fitted: calibration and thresholds from validation; None: neither is measured.
        calibrated: (N, C) what it made of all the probabilities; None with it.
        wishes: what is measured besides.

    Returns:
        See `cxr.evaluation.metrics.measures.measure`; ``counts``; ``calibration``, ``operating_points``,
        ``subgroups``, ``dependence``, and, of the run's own data, ``dependence_of_run``: the same over all its splits
        together, where few images of one split would hide it; of a cross-validation also ``folds``: the metrics of
        each.
    """
    subject = answers.subject
    labelled = subject.labels >= 0
    labels, probabilities = subject.labels[labelled], answers.probabilities[labelled]
    records = subject.records[labelled]
    groups = records["group"].astype(str).tolist()
    target = list(class_names).index(positive)
    total = sum(training_counts.values())
    common: dict[str, Any] = {
        "threshold": threshold,
        "prevalences": [training_counts[name] / total for name in class_names] if total else None,
        "auroc_interval": wishes.auroc_interval,
        "num_resamples": wishes.num_resamples,
        "seed": wishes.seed,
    }
    entry = measure(probabilities, labels, groups, class_names, positive, subject.majority, **common)
    entry["counts"] = _counts(records, labels, class_names, target) | {"unlabelled": int((~labelled).sum())}
    entry |= {
        "positive": positive,
        "threshold": threshold,
        "majority_class": subject.majority,
        "majority_of": subject.majority_of,
        "warnings": list(subject.warnings),
        "notes": list(subject.notes),
    }
    if answers.folds:
        entry["folds"] = {
            name: measure(probabilities[own], labels[own], list(np.array(groups)[own]), class_names, positive,
                          subject.majority, **common)
            | {"counts": _counts(records[own], labels[own], class_names, target)}
            for name, own in ((name, rows[labelled]) for name, rows in answers.folds.items())
        }  # fmt: skip
    resampled = {"num_resamples": wishes.num_resamples, "seed": wishes.seed}
    if fitted is not None and calibrated is not None:
        calibrated = calibrated[labelled]
        entry["calibration"] = measure_calibration(
            probabilities, calibrated, labels, groups, target, fitted.calibration, **resampled
        )
        entry["operating_points"] = measure_operating_points(
            fitted.operating_points, calibrated, labels, groups, target, prevalence=wishes.prevalence, **resampled
        )
    if wishes.subgroups:
        entry["subgroups"] = subgroup_table(
            records, probabilities, labels, class_names, positive,
            columns=wishes.subgroups, threshold=threshold, **resampled,
        )  # fmt: skip
        entry["dependence"] = dependence_table(records, labels, class_names, columns=wishes.subgroups, **resampled)
        if (everything := subject.run_records) is not None:
            entry["dependence_of_run"] = dependence_table(
                everything, labels_of(everything, class_names), class_names, columns=wishes.subgroups, **resampled
            )
    return entry


def _counts(
    records: pd.DataFrame, labels: NDArray[np.int64], class_names: Sequence[str], target: int
) -> dict[str, Any]:
    per_class = np.bincount(labels, minlength=len(class_names)).tolist()
    return {
        "images": len(labels),
        "patients": int(records["group"].nunique()),
        "positives": per_class[target],
        "classes": dict(zip(class_names, per_class, strict=True)),
    }
