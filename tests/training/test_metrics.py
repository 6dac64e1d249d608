from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchmetrics.functional import classification as reference

from cxr.errors import DataError
from cxr.training.metrics import classification_metrics, confusion_matrix, predicted_classes

TWO = ["covid", "other"]
THREE = ["normal", "covid", "bacterial"]


def _random(num: int, classes: int, *, ties: bool = False) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    generator = np.random.default_rng(3)
    scores = generator.random((num, classes))
    if ties:
        scores = np.round(scores, 1) + 0.1
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), generator.integers(0, classes, num)


@pytest.mark.parametrize(("class_names", "positive"), [(TWO, "covid"), (TWO, "other"), (THREE, "covid")])
@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_torchmetrics(class_names: list[str], positive: str, ties: bool) -> None:
    probabilities, labels = _random(200, len(class_names), ties=ties)
    ours = classification_metrics(probabilities, labels, class_names, positive)
    column = class_names.index(positive)
    scores = torch.from_numpy(probabilities[:, column])
    target = torch.from_numpy((labels == column).astype(np.int64))
    called = torch.from_numpy((predicted_classes(probabilities, column) == column).astype(np.int64))
    expected = {
        "auroc": reference.binary_auroc(scores, target),
        "average_precision": reference.binary_average_precision(scores, target),
        "sensitivity": reference.binary_recall(called, target),
        "specificity": reference.binary_specificity(called, target),
        "ppv": reference.binary_precision(called, target),
        "npv": reference.binary_negative_predictive_value(called, target),
        "f1": reference.binary_f1_score(called, target),
        "mcc": reference.binary_matthews_corrcoef(called, target),
    }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(float(value), abs=2e-6), name
    matrix = confusion_matrix(predicted_classes(probabilities, column), labels, len(class_names))
    assert ours["accuracy"] == pytest.approx(np.trace(matrix) / 200)
    assert ours["balanced_accuracy"] == pytest.approx((np.diag(matrix) / matrix.sum(axis=1)).mean())
    assert ours["log_loss"] == pytest.approx(
        float(torch.nn.functional.nll_loss(torch.from_numpy(probabilities).log(), torch.from_numpy(labels))), rel=1e-5
    )
    assert ours.undefined == {}
    if len(class_names) == 3:
        macro = reference.multiclass_auroc(torch.from_numpy(probabilities), torch.from_numpy(labels), 3)
        assert ours["macro_auroc"] == pytest.approx(float(macro), abs=2e-6)
    else:
        assert "macro_auroc" not in ours


def test_a_perfect_order_is_exactly_one() -> None:
    labels = np.array([0, 1] * 10 + [1])
    scores = np.where(labels == 0, 0.51, 0.5).astype(np.float32)
    metrics = classification_metrics(np.stack([scores, 1 - scores], axis=1), labels, TWO, "covid")
    assert metrics["auroc"] == 1.0
    assert metrics["average_precision"] == 1.0


def test_the_positive_class_is_the_named_one() -> None:
    # Two covid (one found), three other (all found): worked out by hand.
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.1, 0.9]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    covid = classification_metrics(probabilities, labels, TWO, "covid")
    assert (covid["sensitivity"], covid["specificity"], covid["ppv"]) == (0.5, 1.0, 1.0)
    assert covid["npv"] == pytest.approx(3 / 4)
    other = classification_metrics(probabilities, labels, TWO, "other")
    assert (other["sensitivity"], other["specificity"]) == (1.0, 0.5)
    assert covid["auroc"] == other["auroc"] == 1.0


def test_a_threshold_moves_only_what_is_called_positive() -> None:
    probabilities = np.array([[0.3, 0.6, 0.1], [0.3, 0.1, 0.6], [0.1, 0.5, 0.4]], dtype=np.float32)
    labels = np.array([0, 2, 1])
    assert predicted_classes(probabilities, 0).tolist() == [1, 2, 1]
    assert predicted_classes(probabilities, 0, threshold=0.3).tolist() == [0, 0, 1]
    strict = classification_metrics(probabilities, labels, THREE, "normal", threshold=0.3)
    assert strict["sensitivity"] == 1.0
    assert strict["specificity"] == 0.5
    assert strict["auroc"] == classification_metrics(probabilities, labels, THREE, "normal")["auroc"]


@pytest.mark.parametrize(
    ("labels", "undefined"),
    [
        ([1, 1, 1], {"auroc", "average_precision", "sensitivity", "balanced_accuracy", "mcc"}),
        ([0, 0, 0], {"auroc", "average_precision", "specificity", "balanced_accuracy", "mcc"}),
    ],
)
def test_an_absent_class_gives_none_and_a_reason_never_zero(labels: list[int], undefined: set[str]) -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], dtype=np.float32)
    metrics = classification_metrics(probabilities, np.array(labels), TWO, "covid")
    assert {name for name, value in metrics.items() if value is None} == undefined
    assert set(metrics.undefined) == undefined
    assert all("covid" in reason or "other" in reason for reason in metrics.undefined.values())
    assert metrics["accuracy"] is not None


def test_nobody_called_positive_leaves_ppv_undefined_and_f1_zero() -> None:
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8]], dtype=np.float32)
    metrics = classification_metrics(probabilities, np.array([0, 1]), TWO, "covid")
    assert metrics["ppv"] is None
    assert metrics["mcc"] is None
    assert metrics["f1"] == 0.0
    assert metrics.undefined["ppv"] == "no image was called covid"


def test_no_image_at_all_leaves_everything_undefined() -> None:
    metrics = classification_metrics(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), TWO, "covid")
    assert set(metrics.values()) == {None}
    assert set(metrics.undefined) == set(metrics)


def test_a_sure_mistake_costs_much_but_not_infinitely() -> None:
    metrics = classification_metrics(np.array([[1.0, 0.0]], np.float32), np.array([1]), TWO, "covid")
    assert metrics["log_loss"] is not None
    assert 10 < metrics["log_loss"] < 20
    assert metrics["brier"] == 1.0


@pytest.mark.parametrize(
    ("probabilities", "labels", "says"),
    [
        ([[float("nan"), 0.5]], [0], "not finite"),
        ([[-2.0, 3.0]], [0], "logits"),
        ([[0.2, 0.2]], [0], "sum to 1"),
        ([[0.5, 0.5]], [-1], "labels from -1"),
        ([[0.5, 0.5]], [2], "labels from 2"),
        ([[0.5, 0.3, 0.2]], [0], "shape"),
        ([[0.5, 0.5]], [0, 1], "shape"),
    ],
)
def test_what_is_no_probability_or_label_is_refused(
    probabilities: list[list[float]], labels: list[int], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        classification_metrics(np.array(probabilities, np.float32), np.array(labels), TWO, "covid")


def test_an_unknown_positive_class_is_refused() -> None:
    with pytest.raises(DataError, match="covid, other"):
        classification_metrics(np.array([[0.5, 0.5]], np.float32), np.array([0]), TWO, "sars")


def test_tensors_are_taken_too() -> None:
    probabilities, labels = _random(20, 2)
    from_tensors = classification_metrics(torch.from_numpy(probabilities), torch.from_numpy(labels), TWO, "covid")
    assert from_tensors == classification_metrics(probabilities, labels, TWO, "covid")
