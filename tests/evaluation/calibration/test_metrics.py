from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from cxr.evaluation.calibration.calibration import Calibration, fit_calibration
from cxr.evaluation.calibration.metrics import (
    brier_parts,
    calibration_error,
    equal_mass_bins,
    equal_width_bins,
    measure_calibration,
    reliability_bins,
)

NONE = Calibration("none", ("covid", "other"))
METRICS = {"ece_equal_mass", "ece_equal_width", "brier", "slope", "intercept", "bias"}


def drawn(num_images: int, *, slope: float = 1.0, intercept: float = 0.0, seed: int = 0) -> tuple[Any, Any]:
    """Probabilities whose truths have log-odds `slope` times theirs plus `intercept`."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(-0.5, 1.5, num_images)
    is_positive = generator.random(num_images) < expit(slope * odds + intercept)
    return expit(odds).astype(np.float32), is_positive


def alone(num_images: int) -> list[str]:
    return [f"patient {number}" for number in range(num_images)]


def measured(predicted: np.ndarray, is_positive: np.ndarray, groups: list[str] | None = None, **given: Any) -> Any:
    probabilities = np.stack([predicted, 1 - predicted], axis=1)
    labels = np.where(is_positive, 0, 1)
    groups = alone(len(labels)) if groups is None else groups
    return measure_calibration(probabilities, probabilities, labels, groups, 0, NONE, **given)["before"]


def test_predictions_that_hold_have_the_small_error_that_chance_gives() -> None:
    entry = measured(*drawn(8000), num_resamples=200)
    for name in ("ece_equal_mass", "ece_equal_width"):
        # The mean of |a normal| is .8 of its deviation: .8 * sqrt(.16 / 800) in each of ten bins, if p is about .2.
        assert 0.005 < entry[name]["expected"] < 0.015
        assert entry[name]["value"] == pytest.approx(entry[name]["expected"], abs=0.008)
        assert entry[name]["low"] == 0.0
    assert entry["slope"]["value"] == pytest.approx(1.0, abs=0.06)
    assert entry["intercept"]["value"] == pytest.approx(0.0, abs=0.08)
    for name in ("slope", "intercept", "bias", "brier"):
        assert entry[name]["low"] < entry[name]["expected"] < entry[name]["high"]


@pytest.mark.parametrize("kind", [equal_width_bins, equal_mass_bins])
def test_error_of_a_constant_bias_is_the_bias(kind: Any) -> None:
    # Of ten images at each prediction exactly that many and one more are positive.
    predicted = np.repeat(np.arange(1, 9) / 10 + 0.02, 10)
    is_positive = np.concatenate([np.arange(10) < right + 1 for right in range(1, 9)])
    assert calibration_error(predicted, is_positive, kind(predicted)) == pytest.approx(0.08)


@pytest.mark.parametrize(("slope", "intercept"), [(1 / 3, 0.0), (2.0, 0.0), (1.0, -0.7), (0.5, 1.0)])
def test_slope_and_intercept_are_those_that_were_planted(slope: float, intercept: float) -> None:
    predicted, is_positive = drawn(10_000, slope=slope, intercept=intercept)
    entry = measured(predicted, is_positive, num_resamples=100)
    assert entry["slope"]["value"] == pytest.approx(slope, rel=0.08)
    assert entry["intercept"]["value"] == pytest.approx(intercept, abs=0.08)
    assert entry["ece_equal_mass"]["low"] > 0.02
    other = LogisticRegression(C=1e12, tol=1e-10, solver="newton-cholesky")
    other.fit(logit(predicted.astype(float))[:, None], is_positive)
    assert entry["slope"]["value"] == pytest.approx(other.coef_[0, 0], rel=1e-4)
    assert entry["intercept"]["value"] == pytest.approx(other.intercept_[0], abs=1e-4)


def test_limits_of_the_line_are_those_of_likelihood_theory() -> None:
    predicted, is_positive = drawn(2000)
    entry = measured(predicted, is_positive)
    odds = logit(predicted.astype(float))
    design = np.stack([np.ones_like(odds), odds], axis=1)
    mean = expit(entry["intercept"]["value"] + entry["slope"]["value"] * odds)
    errors = np.sqrt(np.diag(np.linalg.inv((design.T * (mean * (1 - mean))) @ design)))
    for name, error in zip(("intercept", "slope"), errors, strict=True):
        assert (entry[name]["high"] - entry[name]["low"]) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.12)


def test_images_of_one_patient_widen_every_interval() -> None:
    predicted, is_positive = drawn(250)
    repeated = np.repeat(predicted, 4), np.repeat(is_positive, 4)
    patients = [name for name in alone(250) for _ in range(4)]
    clustered = measured(*repeated, patients)
    independent = measured(*repeated)
    for name in METRICS:
        widths = [entry[name]["high"] - entry[name]["low"] for entry in (clustered, independent)]
        assert widths[0] > 1.4 * widths[1]


def test_error_interval_covers_no_error_where_there_is_none() -> None:
    entries = [measured(*drawn(150, seed=seed), num_resamples=100) for seed in range(40)]
    assert sum(entry["ece_equal_width"]["low"] == 0.0 for entry in entries) >= 35
    # The percentiles of the plain bootstrap would leave 0 out every time.
    assert all(entry["ece_equal_width"]["value"] > 0.02 for entry in entries)


@pytest.mark.parametrize(
    ("num_images", "slope", "intercept"),
    [(30, 1.0, 0.0), (30, 2.0, 0.0), (60, 1.0, 0.3), (60, 2.0, 0.0), (150, 1.0, 0.3), (150, 2.0, 0.0), (60, 1.0, 1.0)],
)
def test_error_interval_holds_the_truth_in_small_biased_sets_too(
    num_images: int, slope: float, intercept: float
) -> None:
    odds = np.random.default_rng(99).normal(-0.5, 1.5, 400_000)
    truth = np.abs(expit(odds) - expit(slope * odds + intercept)).mean()
    repetitions, held = 150, 0
    for seed in range(repetitions):
        entry = measured(*drawn(num_images, slope=slope, intercept=intercept, seed=seed), num_resamples=200)
        held += entry["ece_equal_mass"]["low"] <= truth <= entry["ece_equal_mass"]["high"]
    # Of 95 % in 150 repetitions one standard error is 1.8 %.
    assert held / repetitions >= 0.93


def test_error_interval_leaves_no_error_out_where_there_is_much() -> None:
    entries = [measured(*drawn(400, slope=3.0, intercept=1.0, seed=seed), num_resamples=100) for seed in range(20)]
    assert all(entry["ece_equal_mass"]["low"] > 0.03 for entry in entries)


@pytest.mark.parametrize("kind", [equal_width_bins, equal_mass_bins])
def test_parts_of_the_brier_score_add_up(kind: Any) -> None:
    predicted, is_positive = drawn(777, slope=0.5)
    parts = brier_parts(predicted, is_positive, kind(predicted))
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    total += parts["within_bin_variance"] - parts["within_bin_covariance"]
    assert total == pytest.approx(brier_score_loss(is_positive, predicted), abs=1e-7)
    assert parts["uncertainty"] == pytest.approx(is_positive.mean() * (1 - is_positive.mean()))


def test_where_predictions_are_few_values_murphys_three_terms_are_enough() -> None:
    generator = np.random.default_rng(0)
    predicted = generator.choice([0.1, 0.4, 0.8], 600)
    is_positive = generator.random(600) < predicted
    parts = brier_parts(predicted, is_positive, equal_width_bins(predicted))
    assert parts["within_bin_variance"] == pytest.approx(0, abs=1e-12)
    three = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    assert three == pytest.approx(brier_score_loss(is_positive, predicted))


def test_bins_agree_with_another_implementation() -> None:
    predicted, is_positive = drawn(1000)
    found = reliability_bins(predicted, is_positive, alone(1000), equal_width_bins(predicted))
    observed, mean = calibration_curve(is_positive, predicted, n_bins=10)
    assert [row["observed"] for row in found] == pytest.approx(observed.tolist())
    assert [row["mean_predicted"] for row in found] == pytest.approx(mean.tolist())
    assert sum(row["n"] for row in found) == 1000


def test_bins_of_equal_mass_are_equal_and_never_divide_ties() -> None:
    predicted = np.random.default_rng(0).random(1003).astype(np.float32)
    counts = np.bincount(equal_mass_bins(predicted).place)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 1
    tied = np.round(predicted, 1)
    bins = equal_mass_bins(tied)
    assert all(len(set(bins.place[tied == value])) == 1 for value in np.unique(tied))
    assert (np.diff(bins.edges) > 0).all()
    assert equal_mass_bins(np.full(50, 0.3)).num_bins == 1
    assert equal_mass_bins(np.array([0.0] * 90 + [1.0] * 10)).num_bins == 2


def test_few_images_make_few_bins_of_equal_mass() -> None:
    predicted, is_positive = drawn(30)
    found = reliability_bins(predicted, is_positive, alone(30), equal_mass_bins(predicted))
    assert [row["n"] for row in found] == [5] * 6


def test_limits_of_a_bin_are_those_of_wilson() -> None:
    # Ten of twelve: 0.552 to 0.953 (Newcombe 1998).
    predicted, is_positive = np.full(12, 0.8), np.arange(12) < 10
    row = reliability_bins(predicted, is_positive, alone(12), equal_mass_bins(predicted))[0]
    assert (row["observed_low"], row["observed_high"]) == pytest.approx((0.552, 0.953), abs=5e-4)
    pairs = [name for name in alone(6) for _ in range(2)]
    clustered = reliability_bins(predicted, is_positive, pairs, equal_mass_bins(predicted))[0]
    assert clustered["observed_high"] - clustered["observed_low"] > row["observed_high"] - row["observed_low"]
    same = reliability_bins(predicted, is_positive, ["one"] * 12, equal_mass_bins(predicted))[0]
    assert same["observed_low"] is None


def test_entry_holds_both_stages_and_goes_into_json() -> None:
    predicted, is_positive = drawn(1500, slope=0.4)
    before = np.stack([1 - predicted, predicted], axis=1)
    labels = is_positive.astype(np.int64)
    calibration = fit_calibration(before, labels, ("other", "covid"), method="temperature")
    entry = measure_calibration(before, calibration.apply(before), labels, alone(1500), 1, calibration)
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert (entry["method"], entry["fitted_on"]) == ("temperature", "val")
    assert entry["temperature"] == calibration.temperature
    for stage in ("before", "after"):
        assert set(entry[stage]) == METRICS
        for metric in entry[stage].values():
            assert metric["n"] == 1500
            assert metric["low"] <= metric["value"] <= metric["high"]
            assert metric["method"] == "patient bootstrap, 1,000 resamples"
    assert entry["before"]["ece_equal_mass"]["low"] > entry["after"]["ece_equal_mass"]["high"]
    assert entry["before"]["slope"]["value"] == pytest.approx(0.4, abs=0.06)
    # Logits that are divided by T have a slope T times as large.
    assert entry["after"]["slope"]["value"] == pytest.approx(
        entry["before"]["slope"]["value"] * calibration.temperature, rel=1e-3
    )
    for name, stage in (("", "after"), ("_before", "before")):
        parts = entry[f"brier_parts{name}"]
        assert parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bin_variance"] - parts[
            "within_bin_covariance"
        ] == pytest.approx(entry[stage]["brier"]["value"])
        assert sum(row["n"] for row in entry[f"bins{name}"]) == 1500


def test_the_same_seed_gives_the_same_numbers() -> None:
    assert measured(*drawn(200), seed=0, num_resamples=100) == measured(*drawn(200), seed=0, num_resamples=100)
    assert measured(*drawn(200), seed=0, num_resamples=100) != measured(*drawn(200), seed=1, num_resamples=100)


@pytest.mark.parametrize(
    ("predicted", "is_positive", "reason"),
    [
        ([0.1, 0.2, 0.3, 0.8, 0.9, 0.7], [False] * 3 + [True] * 3, "do not overlap"),
        ([0.1, 0.2, 0.3, 0.3, 0.9, 0.7], [False] * 3 + [True] * 3, "do not overlap"),
        ([0.9, 0.7, 0.8, 0.1, 0.2, 0.3], [False] * 3 + [True] * 3, "do not overlap"),
        ([0.1, 0.2, 0.3, 0.8, 0.9, 0.7], [True] * 6, "one side"),
        ([0.4] * 6, [False] * 3 + [True] * 3, "same probability"),
    ],
)
def test_a_slope_that_does_not_exist_is_null_with_its_reason(
    predicted: list[float], is_positive: list[bool], reason: str
) -> None:
    entry = measured(np.array(predicted, dtype=np.float32), np.array(is_positive), num_resamples=100)
    for name in ("slope", "intercept"):
        assert entry[name]["value"] is None
        assert reason in entry[name]["reason"]
    assert entry["brier"]["low"] is not None


def test_a_slope_that_many_resamples_leave_open_has_no_limits() -> None:
    # One image of each side lies on the wrong one: more than half of the resamples lack at least one of them.
    predicted = np.concatenate([np.linspace(0.1, 0.4, 20), np.linspace(0.6, 0.9, 20)]).astype(np.float32)
    is_positive = predicted > 0.5
    is_positive[[19, 20]] = [True, False]
    entry = measured(predicted, is_positive)
    assert entry["slope"]["value"] > 1
    assert entry["slope"]["low"] is entry["slope"]["high"] is None
    assert "do not overlap" in entry["slope"]["reason"]


def test_too_few_patients_give_no_limits() -> None:
    entry = measured(*drawn(60), [f"patient {n % 4}" for n in range(60)])
    for metric in entry.values():
        assert metric["value"] is not None
        assert metric["low"] is metric["high"] is metric["method"] is None
        assert metric["reason"].startswith("4 patients")


def test_certain_answers_do_not_break_the_line() -> None:
    predicted, is_positive = drawn(400)
    predicted[:10], predicted[10:20] = 0.0, 1.0
    entry = measured(predicted, is_positive, num_resamples=100)
    assert all(np.isfinite([entry[name]["value"], entry[name]["low"], entry[name]["high"]]).all() for name in METRICS)
