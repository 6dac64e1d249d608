"""Which interval does each metric get?  By Wilson, from resamples of patients, or in closed form where those fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from cxr.evaluation.metrics.weighted_metrics import weighted_metrics
from cxr.statistics.areas import area_interval
from cxr.statistics.intervals import Interval, auroc_score, combine, delong, wilson, wilson_by_patient
from cxr.statistics.resampling import MIN_GROUPS, bounded_interval, patient_resamples
from cxr.training.metrics import classification_metrics, predicted_classes

ONE_PATIENT = "all its images are of one patient"
# Least and greatest value of the metrics that are no share of images.
BOUNDS = {
    "auroc": (0.0, 1.0),
    "macro_auroc": (0.0, 1.0),
    "average_precision": (0.0, 1.0),
    "balanced_accuracy": (0.0, 1.0),
    "mcc": (-1.0, 1.0),
    "brier": (0.0, 1.0),
    "log_loss": (0.0, math.inf),
}

Mask = NDArray[np.bool_]


def shares_of_images(called: NDArray[np.int64], labels: NDArray[np.int64], target: int) -> dict[str, tuple[Mask, Mask]]:
    """For each metric that is a share of images: which images it is about, and which of all images count.

    F1 is not one itself, but F1 / (2 - F1) is: of the images that are or are called positive, those that are both
    (Hand, Christen and Kirielle, "F*: an interpretable transformation of the F-measure", 2021).

    Args:
        called: (N,) class that each image was called.
        labels: (N,) its class.
        target: the positive class.
    """
    actual, answered = labels == target, called == target
    return {
        "accuracy": (np.ones(len(labels), dtype=bool), called == labels),
        "sensitivity": (actual, answered),
        "specificity": (~actual, ~answered),
        "ppv": (answered, actual),
        "npv": (~answered, ~actual),
        "f1": (actual | answered, actual & answered),
    }


def metric_intervals(
    values: Mapping[str, float | None],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    class_names: Sequence[str],
    positive: str,
    *,
    threshold: float | None = None,
    auroc_interval: str = "bootstrap",
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval | str]:
    """The 95 % interval of every metric that has a value, or the reason why it has none.

    How they are made:

    - Shares of images (accuracy, sensitivity, specificity, PPV, NPV; F1 through F1 / (2 - F1)): Wilson; where a patient
      has several of the images, `wilson_by_patient`.
    - All others: bootstrap over patients, `bounded_interval`; AUROC, where it is asked for, by `delong`.
    - Where a bootstrap sees too little, because a class that the metric is about has fewer than ``MIN_GROUPS``
      patients, or because no resample differs, as with a perfect value: AUROC by Newcombe's score interval, with
      patients counted as images, and its mean over classes by the mean of these; balanced accuracy and MCC from
      Wilson's intervals of each class; average precision as a share of the positive patients (Boyd, Eng and Page,
      "Area under the precision-recall curve", 2013) and the Brier score as a share of the patients, both by Wilson. The
      log-loss, which has no greatest value, gets none then.

    Args:
        values: what `classification_metrics` gives for the same arguments.
        probabilities: (N, C).
        labels: (N,).
        groups: (N,) patient group of each image.
        class_names, positive, threshold: as for `classification_metrics`.
        auroc_interval: of the positive class's AUROC, 'bootstrap' or 'delong'.
        num_resamples, seed: of the bootstrap.
    """
    target = list(class_names).index(positive)
    _, patients = np.unique(np.asarray(groups), return_inverse=True)
    called = predicted_classes(probabilities, target, threshold=threshold)
    shares = shares_of_images(called, labels, target)
    resampled: dict[str, NDArray[np.float64]] = {}
    if num_patients(patients) > 1:
        weights = patient_resamples(patients, labels, num_resamples=num_resamples, seed=seed)
        resampled = weighted_metrics(probabilities, labels, class_names, positive, weights, threshold=threshold)
    classes = [labels == place for place in range(len(class_names))]
    everyone = [np.ones(len(labels), dtype=bool)]
    sides = {"macro_auroc": classes, "balanced_accuracy": classes, "brier": everyone, "log_loss": everyone}
    found: dict[str, Interval | str] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name in shares:
            about, counts = shares[name]
            found[name] = _of_share(name, counts[about], patients[about])
        elif not resampled:
            found[name] = ONE_PATIENT
        else:
            concerned = sides.get(name, [labels == target, labels != target])
            numbers = [num_patients(patients[side]) for side in concerned]
            fewest = min(numbers)
            if name == "auroc":
                if auroc_interval == "delong" and fewest >= MIN_GROUPS:
                    found[name] = delong(probabilities[:, target], labels == target, patients)
                else:
                    found[name] = area_interval(value, resampled[name], *numbers)
                continue
            interval = _of_resamples(name, value, resampled[name], fewest)
            if interval is None and name == "macro_auroc":
                interval = _of_mean_area(probabilities, labels, patients, class_names)
            found[name] = interval or _in_closed_form(name, value, called, labels, patients, target)
    return found


def num_patients(patients: NDArray[np.intp]) -> int:
    """How many different numbers there are."""
    return int(np.count_nonzero(np.bincount(patients)))


def _of_share(name: str, counts: Mask, patients: NDArray[np.intp]) -> Interval | str:
    interval = wilson_by_patient(counts, patients)
    if interval is None:
        return ONE_PATIENT
    if name == "f1":
        low, high = (2 * share / (1 + share) for share in (interval.low, interval.high))
        return Interval(low, high, f"{interval.method}, on F1 / (2 - F1)")
    return interval


def _of_resamples(name: str, value: float, values: NDArray[np.float64], fewest: int) -> Interval | None:
    if fewest < MIN_GROUPS:
        return None
    lowest, highest = BOUNDS[name]
    limits = bounded_interval(value, values, fewest, lowest=lowest, highest=highest)
    if limits is None:
        return None
    scale = "log" if math.isinf(highest) else "logit"
    return Interval(*limits, f"patient bootstrap, {len(values):,} resamples, {scale} scale")


def _in_closed_form(
    name: str,
    value: float,
    called: NDArray[np.int64],
    labels: NDArray[np.int64],
    patients: NDArray[np.intp],
    target: int,
) -> Interval | str:
    is_positive = labels == target
    num_positive = num_patients(patients[is_positive])
    if name == "average_precision":
        limits = wilson(min(value, 1.0) * num_positive, num_positive)  # a sum of fractions may pass 1 by rounding
        return Interval(limits.low, limits.high, "Wilson, n = positive patients")
    if name == "brier":
        total = num_patients(patients)
        limits = wilson(value * total, total)
        return Interval(limits.low, limits.high, "Wilson, n = patients")
    if name == "log_loss":
        return f"fewer than {MIN_GROUPS} patients, or no resample differs"
    # What is left is made of the shares that were rightly called, within each class or on each side.
    if name == "balanced_accuracy":
        sides, right = [labels == place for place in np.unique(labels)], called == labels
        function: Callable[[Sequence[float]], float] = fmean
    else:
        sides, right = [is_positive, ~is_positive], (called == target) == is_positive
        function = partial(_mcc, prevalence=float(is_positive.mean()))
    limits_of = [wilson_by_patient(right[side], patients[side]) for side in sides]
    known = [limits for limits in limits_of if limits is not None]
    if len(known) < len(sides):
        return "all images of a class are of one patient"
    limits = combine(function, [float(right[side].mean()) for side in sides], known)
    return Interval(max(BOUNDS[name][0], limits.low), min(BOUNDS[name][1], limits.high), limits.method)


def _mcc(rates: Sequence[float], *, prevalence: float) -> float:
    """Matthews' coefficient from sensitivity, specificity and the share of positives."""
    sensitivity, specificity = rates
    called = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    covariance = prevalence * (1 - prevalence) * (sensitivity + specificity - 1)
    product = prevalence * (1 - prevalence) * called * (1 - called)
    return covariance / math.sqrt(product) if product > 0 else 0.0


def _of_mean_area(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    patients: NDArray[np.intp],
    class_names: Sequence[str],
) -> Interval:
    limits = []
    for place, name in enumerate(class_names):
        area = classification_metrics(probabilities, labels, class_names, name)["auroc"]
        assert area is not None, "the mean of the areas is defined only where each of them is"
        side = labels == place
        limits.append(auroc_score(area, num_patients(patients[side]), num_patients(patients[~side])))
    low, high = (float(np.mean([getattr(limit, end) for limit in limits])) for end in ("low", "high"))
    return Interval(low, high, f"{limits[0].method}, n = patients, mean of the classes")
