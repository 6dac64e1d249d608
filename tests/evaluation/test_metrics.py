from __future__ import annotations

import json

import numpy as np
import pytest

from cxr.evaluation.metrics import measure


def answers(*groups: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Certain answers: (label, answer, how often) each."""
    labels = np.concatenate([np.full(n, label) for label, _, n in groups])
    predicted = np.concatenate([np.full(n, answer) for _, answer, n in groups])
    return np.where(predicted[:, None] == np.arange(2), 0.9, 0.1).astype(np.float32), labels


def test_counts_of_the_original_work_stand_beside_its_baseline() -> None:
    # TP 4, FN 0, FP 3, TN 71: 75 of 78 right, where always answering "other" gives 74 of 78.
    probabilities, labels = answers((0, 0, 4), (1, 0, 3), (1, 1, 71))
    entry = measure(probabilities, labels, ["covid", "other"], "covid", "other")

    assert entry["accuracy"] == {"value": pytest.approx(75 / 78), "n": 78, "baseline": pytest.approx(74 / 78)}
    assert entry["balanced_accuracy"]["baseline"] == 0.5
    assert entry["auroc"]["baseline"] == 0.5
    assert entry["average_precision"]["baseline"] == pytest.approx(4 / 78)
    assert entry["sensitivity"] == {"value": 1.0, "n": 4, "baseline": 0.0}
    assert entry["specificity"] == {"value": pytest.approx(71 / 74), "n": 74, "baseline": 1.0}
    assert entry["ppv"] == {"value": pytest.approx(4 / 7), "n": 7, "baseline": None}
    assert entry["npv"] == {"value": 1.0, "n": 71, "baseline": pytest.approx(74 / 78)}
    assert entry["f1"]["baseline"] == 0.0
    assert entry["mcc"]["baseline"] == 0.0
    assert entry["confusion_matrix"]["counts"] == [[4, 0], [3, 71]]


def test_the_baseline_answers_the_majority_of_the_training_not_of_the_split() -> None:
    probabilities, labels = answers((0, 0, 9), (1, 1, 1))
    entry = measure(probabilities, labels, ["covid", "other"], "covid", "other")
    assert entry["accuracy"]["baseline"] == pytest.approx(0.1)


def test_the_positive_class_is_found_by_name() -> None:
    probabilities, labels = answers((0, 0, 4), (1, 0, 3), (1, 1, 71))
    entry = measure(probabilities, labels, ["covid", "other"], "other", "other")
    assert entry["sensitivity"]["n"] == 74
    assert entry["sensitivity"]["value"] == pytest.approx(71 / 74)


def test_an_absent_class_gives_null_and_the_reason_never_zero() -> None:
    probabilities, labels = answers((1, 0, 2), (1, 1, 5))
    entry = measure(probabilities, labels, ["covid", "other"], "covid", "other")
    for name in ("auroc", "average_precision", "balanced_accuracy", "sensitivity", "mcc"):
        assert entry[name]["value"] is None
        assert "covid" in entry[name]["reason"]
    assert entry["sensitivity"]["n"] == 0
    assert "reason" not in entry["specificity"]
    json.dumps(entry, allow_nan=False)


def test_three_classes_have_a_mean_over_classes() -> None:
    labels = np.arange(30) % 3
    probabilities = np.full((30, 3), 0.2, dtype=np.float32)
    probabilities[np.arange(30), labels] = 0.6
    entry = measure(probabilities, labels, ["a", "b", "c"], "b", "a")
    assert entry["macro_auroc"] == {"value": 1.0, "n": 30, "baseline": 0.5}
    assert entry["balanced_accuracy"]["baseline"] == pytest.approx(1 / 3)
