from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.calibration.calibration import METHODS, Calibration, fit_calibration

TWO = ("covid", "other")
THREE = ("covid", "other pneumonia", "normal")


def drawn(num_images: int, num_classes: int, sharpened: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn as the true probabilities say, and those probabilities with their logits multiplied."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(num_images, num_classes)) * 1.5
    cumulated = softmax(logits, axis=1).cumsum(axis=1)
    labels = (generator.random((num_images, 1)) > cumulated).sum(axis=1).clip(0, num_classes - 1)
    return softmax(sharpened * logits, axis=1).astype(np.float32), labels.astype(np.int64)


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities.astype(float)[np.arange(len(labels)), labels]).mean())


@pytest.mark.parametrize("classes", [TWO, THREE])
@pytest.mark.parametrize("sharpened", [3.0, 1.0, 0.4])
def test_temperature_undoes_a_sharpening(classes: tuple[str, ...], sharpened: float) -> None:
    probabilities, labels = drawn(20_000, len(classes), sharpened)
    calibration = fit_calibration(probabilities, labels, classes, method="temperature")
    assert calibration.temperature == pytest.approx(sharpened, rel=0.06)
    true = drawn(20_000, len(classes), 1.0)[0]
    np.testing.assert_allclose(calibration.apply(probabilities), true, atol=0.02)


def test_temperature_is_the_one_of_the_highest_likelihood() -> None:
    probabilities, labels = drawn(300, 3, 2.0, seed=3)

    def loss(temperature: float) -> float:
        powers = probabilities.astype(float) ** (1 / temperature)
        return log_loss(powers / powers.sum(axis=1, keepdims=True), labels)

    best = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}).x
    assert fit_calibration(probabilities, labels, THREE, method="temperature").temperature == pytest.approx(best, 1e-5)


def test_temperature_keeps_the_answers_and_their_order() -> None:
    probabilities, labels = drawn(2000, 2, 3.0)
    calibrated = fit_calibration(probabilities, labels, TWO, method="temperature").apply(probabilities)
    # Where float32 says 1.0 to several images, their other probability still tells them apart.
    order = np.lexsort((-probabilities[:, 1], probabilities[:, 0]))
    assert (np.diff(calibrated[order, 0]) >= 0).all()
    assert ((calibrated > 0.5) == (probabilities > 0.5)).all()
    many, labels = drawn(2000, 3, 3.0)
    calibrated = fit_calibration(many, labels, THREE, method="temperature").apply(many)
    assert (calibrated.argmax(axis=1) == many.argmax(axis=1)).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [TWO, THREE])
def test_calibrated_probabilities_are_probabilities_also_at_the_ends(method: str, classes: tuple[str, ...]) -> None:
    probabilities, labels = drawn(400, len(classes), 30.0)
    assert probabilities.max() == 1.0
    calibration = fit_calibration(probabilities, labels, classes, method=method)
    ends = np.eye(len(classes), dtype=np.float32)
    for table in (probabilities, ends, np.zeros((0, len(classes)), dtype=np.float32)):
        calibrated = calibration.apply(table)
        assert calibrated.dtype == np.float32
        assert calibrated.shape == table.shape
        assert np.isfinite(calibrated).all()
        assert (calibrated >= 0).all()
        np.testing.assert_allclose(calibrated.sum(axis=1), 1.0, atol=1e-6)


def test_none_changes_nothing() -> None:
    probabilities, labels = drawn(50, 3, 2.0)
    calibration = fit_calibration(probabilities, labels, THREE, method="none")
    np.testing.assert_array_equal(calibration.apply(probabilities), probabilities)


def test_platt_is_the_logistic_regression_of_smoothed_targets() -> None:
    probabilities, labels = drawn(200, 2, 3.0)
    odds = -np.diff(np.log(probabilities.astype(float)), axis=1)
    positives = int((labels == 0).sum())
    share = np.where(labels == 0, (positives + 1) / (positives + 2), 1 / (200 - positives + 2))
    # Each image once on either side, weighted by its target.
    other = LogisticRegression(C=1e12, tol=1e-10, solver="newton-cholesky").fit(
        np.concatenate([odds, odds]), np.repeat([1, 0], 200), sample_weight=np.concatenate([share, 1 - share])
    )
    calibration = fit_calibration(probabilities, labels, TWO, method="platt")
    assert calibration.slopes == pytest.approx([other.coef_[0, 0]] * 2, rel=1e-4)
    assert calibration.intercepts == pytest.approx([other.intercept_[0], -other.intercept_[0]], abs=1e-4)
    np.testing.assert_allclose(
        calibration.apply(probabilities)[:, 0], expit(odds[:, 0] * other.coef_ + other.intercept_)[0], atol=1e-4
    )


def test_platt_also_takes_off_a_constant_bias() -> None:
    probabilities, labels = drawn(20_000, 2, 1.0)
    biased = expit(logit(probabilities.astype(float)) + np.array([1.0, -1.0])).astype(np.float32)
    calibrated = fit_calibration(biased, labels, TWO, method="platt").apply(biased)
    np.testing.assert_allclose(calibrated, probabilities, atol=0.02)


def test_isotonic_agrees_with_another_implementation() -> None:
    probabilities, labels = drawn(500, 2, 2.0)
    probabilities = np.round(probabilities, 2)  # ties
    other = IsotonicRegression(out_of_bounds="clip").fit(probabilities[:, 0].astype(float), labels == 0)
    fresh = np.random.default_rng(1).random(300).astype(np.float32)
    calibration = fit_calibration(probabilities, labels, TWO, method="isotonic")
    np.testing.assert_allclose(
        calibration.apply(np.stack([fresh, 1 - fresh], axis=1))[:, 0], other.predict(fresh), atol=1e-5
    )
    assert "500 images" in calibration.notes[0]


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_calibration_lowers_the_loss_of_other_images(method: str) -> None:
    calibration = fit_calibration(*drawn(5000, 3, 3.0, seed=1), THREE, method=method)
    probabilities, labels = drawn(5000, 3, 3.0, seed=2)
    calibrated = calibration.apply(probabilities).clip(1e-3, 1)
    assert log_loss(calibrated, labels) < log_loss(probabilities.clip(1e-3, 1), labels) - 0.1


def test_images_that_are_all_answered_right_give_no_certainty() -> None:
    scores = np.array([0.9] * 8 + [0.2] * 8, dtype=np.float32)
    labels = np.array([0] * 8 + [1] * 8)
    probabilities = np.stack([scores, 1 - scores], axis=1)
    calibration = fit_calibration(probabilities, labels, TWO, method="temperature")
    assert "answered right" in calibration.notes[0]
    # Eight of eight: Platt's estimate is nine of ten, on average over the two sides.
    calibrated = calibration.apply(probabilities)
    right = calibrated[np.arange(16), labels]
    assert 0.8 < right.min() < right.max() < 0.95


@pytest.mark.parametrize(
    ("right", "temperature", "note"), [(0.3, 20.0, "tell no more than chance"), (0.999, 0.05, "still lower")]
)
def test_temperature_stops_at_its_bounds_and_says_so(right: float, temperature: float, note: str) -> None:
    labels = np.array([0, 1] * 500)
    answers = np.where(np.random.default_rng(0).random(1000) < right, labels, 1 - labels)
    probabilities = np.where(np.arange(2) == answers[:, None], 0.51, 0.49).astype(np.float32)
    calibration = fit_calibration(probabilities, labels, TWO, method="temperature")
    assert calibration.temperature == temperature
    assert note in calibration.notes[-1]


def test_platt_says_when_it_turns_the_order_round() -> None:
    probabilities, labels = drawn(500, 2, 1.0)
    assert "covid, other" in fit_calibration(probabilities, 1 - labels, TWO, method="platt").notes[0]


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"calibration=tmperature: one of none, temperature"):
        fit_calibration(*drawn(10, 2, 1.0), TWO, method="tmperature")


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_images_of_one_class_cannot_be_fitted_to(method: str) -> None:
    probabilities, _ = drawn(10, 2, 1.0)
    with pytest.raises(DataError, match=rf"calibration={method}: no image of class other .*calibration=none"):
        fit_calibration(probabilities, np.zeros(10, dtype=np.int64), TWO, method=method)


def test_an_absent_third_class_leaves_the_temperature() -> None:
    probabilities, labels = drawn(300, 3, 2.0)
    kept = labels < 2
    assert fit_calibration(probabilities[kept], labels[kept], THREE, method="temperature").temperature is not None
    with pytest.raises(DataError, match=r"no image of class normal .*calibration=temperature"):
        fit_calibration(probabilities[kept], labels[kept], THREE, method="platt")


def test_equal_probabilities_have_no_platt_line() -> None:
    with pytest.raises(DataError, match="same probability"):
        fit_calibration(np.full((4, 2), 0.5, dtype=np.float32), np.array([0, 1, 0, 1]), TWO, method="platt")


@pytest.mark.parametrize("broken", [[[2.0, -1.0]], [[np.nan, 0.5]], [[0.2, 0.2]], [[0.2, 0.3, 0.5]]])
def test_what_is_no_probability_is_refused(broken: list[list[float]]) -> None:
    table = np.array(broken, dtype=np.float32)
    with pytest.raises(DataError, match="calibration: "):
        fit_calibration(table, np.array([0]), TWO, method="temperature")
    with pytest.raises(DataError, match="calibration: "):
        Calibration("none", TWO).apply(table)


def test_labels_that_do_not_fit_are_refused() -> None:
    probabilities, _ = drawn(3, 2, 1.0)
    for labels in ([0, 1], [0, 1, 2], [0, 1, -1]):
        with pytest.raises(DataError, match="labels"):
            fit_calibration(probabilities, np.array(labels), TWO, method="temperature")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [TWO, THREE])
def test_a_calibration_survives_json_unchanged(method: str, classes: tuple[str, ...]) -> None:
    probabilities, labels = drawn(300, len(classes), 3.0)
    calibration = fit_calibration(probabilities, labels, classes, method=method)
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict(), allow_nan=False)))
    assert again == calibration
    np.testing.assert_array_equal(again.apply(probabilities), calibration.apply(probabilities))


GOOD: dict[str, dict[str, Any]] = {
    "temperature": {"method": "temperature", "classes": list(TWO), "temperature": 1.5, "notes": []},
    "platt": {"method": "platt", "classes": list(TWO), "slopes": [1, 1], "intercepts": [0, 0], "notes": []},
    "isotonic": {
        "method": "isotonic", "classes": list(TWO), "scores": [[0, 1]] * 2, "values": [[0, 1]] * 2, "notes": [],
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("temperature", {"method": "magic"}),
        ("temperature", {"method": ["temperature"]}),
        ("temperature", {"temperature": "1.5"}),
        ("temperature", {"temperature": True}),
        ("temperature", {"temperature": float("nan")}),
        ("temperature", {"temperature": 0}),
        ("temperature", {"temperature": 1e9}),
        ("temperature", {"slopes": [1, 1]}),
        ("temperature", {"classes": "covid"}),
        ("temperature", {"classes": ["covid"]}),
        ("temperature", {"classes": ["covid", "covid"]}),
        ("temperature", {"classes": ["covid", 3]}),
        ("temperature", {"notes": "none"}),
        ("platt", {"slopes": [1]}),
        ("platt", {"slopes": 1}),
        ("platt", {"intercepts": [0, float("inf")]}),
        ("platt", {"intercepts": [0, None]}),
        ("isotonic", {"scores": [[0, 1]]}),
        ("isotonic", {"scores": [[1, 0]] * 2}),
        ("isotonic", {"scores": [[0, 0]] * 2}),
        ("isotonic", {"values": [[1, 0]] * 2}),
        ("isotonic", {"values": [[0, 2]] * 2}),
        ("isotonic", {"values": [[0]] * 2}),
        ("isotonic", {"scores": [[]] * 2, "values": [[]] * 2}),
        ("isotonic", {"scores": ["01"] * 2}),
    ],
)
def test_strange_parameters_are_refused(method: str, change: dict[str, Any]) -> None:
    assert Calibration.from_dict(GOOD[method]).method == method
    with pytest.raises(DataError, match="calibration: "):
        Calibration.from_dict(GOOD[method] | change)


@pytest.mark.parametrize("content", [None, [], "temperature", {}, {"method": "temperature"}])
def test_what_is_no_calibration_at_all_is_refused(content: object) -> None:
    with pytest.raises(DataError, match="calibration: "):
        Calibration.from_dict(content)
