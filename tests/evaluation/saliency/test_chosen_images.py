from __future__ import annotations

import numpy as np

from cxr.evaluation.saliency.chosen_images import (
    KINDS,
    most_confident,
    most_confident_without_label,
    spread_over_patients,
)


def of_positive(scores: list[float]) -> np.ndarray:
    """(N, 2) with the positive class at index 0."""
    return np.array([[score, 1 - score] for score in scores], np.float32)


def test_surest_of_each_kind_come_first() -> None:
    probabilities = of_positive([0.6, 0.9, 0.7, 0.95, 0.1, 0.4, 0.3, 0.2])
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    chosen = most_confident(probabilities, labels, 0, [str(n) for n in range(8)], number=2)
    assert {kind: rows.tolist() for kind, rows in chosen.items()} == {
        "true positives": [1, 0],
        "false positives": [3, 2],
        "false negatives": [4, 5],
        "true negatives": [7, 6],
    }
    assert tuple(chosen) == KINDS


def test_patients_come_twice_only_when_there_are_no_others() -> None:
    probabilities = of_positive([0.99, 0.98, 0.9, 0.8])
    chosen = most_confident(probabilities, np.zeros(4, np.int64), 0, ["p", "p", "q", "p"], number=3)
    assert chosen["true positives"].tolist() == [0, 2, 1]


def test_ties_keep_the_order_of_the_rows_and_unlabelled_are_left_out() -> None:
    probabilities = of_positive([0.9, 0.9, 0.9, 0.9])
    chosen = most_confident(probabilities, np.array([-1, 0, 0, 0]), 0, list("abcd"), number=2)
    assert chosen["true positives"].tolist() == [1, 2]
    assert all(len(chosen[kind]) == 0 for kind in KINDS[1:])


def test_threshold_decides_what_is_called_positive() -> None:
    chosen = most_confident(of_positive([0.3, 0.1]), np.array([0, 0]), 0, ["a", "b"], number=4, threshold=0.2)
    assert chosen["true positives"].tolist() == [0]
    assert chosen["false negatives"].tolist() == [1]


def test_spread_takes_every_patient_once_before_any_twice() -> None:
    groups = ["a"] * 50 + ["b", "c", "d"]
    rows = spread_over_patients(np.arange(53), groups, number=5)
    assert {groups[row] for row in rows} == set("abcd")
    assert len(set(rows.tolist())) == 5
    np.testing.assert_array_equal(rows, np.sort(rows))
    np.testing.assert_array_equal(rows, spread_over_patients(np.arange(53), groups, number=5))
    assert spread_over_patients(np.array([7, 9]), groups, number=5).tolist() == [7, 9]
    assert len(spread_over_patients(np.array([], np.int64), groups, number=5)) == 0


def test_without_labels_the_surest_of_either_answer_come_first() -> None:
    probabilities = of_positive([0.6, 0.9, 0.7, 0.1, 0.4])
    chosen = most_confident_without_label(probabilities, 0, list("abcde"), number=2)
    assert {kind: rows.tolist() for kind, rows in chosen.items()} == {
        "called positive": [1, 2],
        "called negative": [3, 4],
    }
    assert len(most_confident_without_label(probabilities[:3], 0, list("abc"), number=2)["called negative"]) == 0
