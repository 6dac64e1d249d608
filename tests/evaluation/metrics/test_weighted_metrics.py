from __future__ import annotations

import numpy as np
import pytest

from cxr.evaluation.metrics.weighted_metrics import weighted_metrics
from cxr.training.metrics import classification_metrics


def answers(seed: int, num_images: int, num_classes: int, decimals: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of some skill; few decimals make many equal scores."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, num_images)
    raw = generator.random((num_images, num_classes)) + 0.6 * (labels[:, None] == np.arange(num_classes))
    raw = np.round(raw, decimals) + 0.1
    return (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("threshold", [None, 0.3])
def test_weights_of_one_give_the_metrics_themselves(num_classes: int, decimals: int, threshold: float | None) -> None:
    probabilities, labels = answers(0, 150, num_classes, decimals)
    names = ["a", "b", "c", "d"][:num_classes]
    weighted = weighted_metrics(probabilities, labels, names, "b", np.ones((2, 150), np.uint16), threshold=threshold)
    plain = classification_metrics(probabilities, labels, names, "b", threshold=threshold)
    assert weighted.keys() == plain.keys()
    for name, value in plain.items():
        assert weighted[name] == pytest.approx([value, value], abs=1e-12), name


@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_whole_weights_are_repeated_images(num_classes: int, decimals: int) -> None:
    probabilities, labels = answers(1, 90, num_classes, decimals)
    names = ["a", "b", "c"][:num_classes]
    weights = np.random.default_rng(2).integers(0, 4, (5, 90)).astype(np.uint16)
    weighted = weighted_metrics(probabilities, labels, names, "a", weights)
    for row, counts in enumerate(weights):
        repeated = classification_metrics(probabilities.repeat(counts, axis=0), labels.repeat(counts), names, "a")
        for name, value in repeated.items():
            assert weighted[name][row] == pytest.approx(value, abs=1e-12), name


def test_only_the_ratio_of_weights_counts() -> None:
    probabilities, labels = answers(3, 60, 3)
    weights = np.random.default_rng(4).random((3, 60))
    one = weighted_metrics(probabilities, labels, ["a", "b", "c"], "a", weights)
    other = weighted_metrics(probabilities, labels, ["a", "b", "c"], "a", 7.5 * weights)
    for name, values in one.items():
        assert other[name] == pytest.approx(values), name


def test_what_the_weights_leave_undefined_is_nan_where_the_metrics_are_none() -> None:
    probabilities, labels = answers(5, 40, 3)
    called = probabilities.argmax(axis=1)
    rows = np.stack([labels != 0, labels == 0, labels != 2, called != 0, called == 0, np.zeros(40, dtype=bool)])
    weighted = weighted_metrics(probabilities, labels, ["a", "b", "c"], "a", rows.astype(np.uint16))
    for row, kept in enumerate(rows):
        plain = classification_metrics(probabilities[kept], labels[kept], ["a", "b", "c"], "a")
        for name, value in plain.items():
            assert np.isnan(weighted[name][row]) == (value is None), (row, name)


def test_many_rows_of_many_images_are_worked_on_in_pieces_with_the_same_result() -> None:
    probabilities, labels = answers(6, 30_000, 2)
    weights = np.random.default_rng(7).integers(0, 3, (70, 30_000)).astype(np.uint16)
    together = weighted_metrics(probabilities, labels, ["a", "b"], "a", weights)
    last = weighted_metrics(probabilities, labels, ["a", "b"], "a", weights[-1:])
    for name, values in together.items():
        assert values.shape == (70,)
        assert values[-1] == pytest.approx(last[name][0]), name


def test_weights_of_another_number_of_images_are_refused() -> None:
    probabilities, labels = answers(8, 10, 2)
    with pytest.raises(ValueError, match="weights"):
        weighted_metrics(probabilities, labels, ["a", "b"], "a", np.ones((2, 9)))
