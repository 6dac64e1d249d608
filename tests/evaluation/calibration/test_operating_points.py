from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.calibration.abstention import AbstainBand, choose_band, parse_abstain
from cxr.evaluation.calibration.operating_point_metrics import measure_operating_points
from cxr.evaluation.calibration.operating_points import OperatingPoint, choose_operating_points, parse_rule
from cxr.statistics.intervals import wilson


def drawn(num_images: int, seed: int = 0, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 2) and labels; class 1 is positive. Few digits make ties."""
    generator = np.random.default_rng(seed)
    is_positive = generator.random(num_images) < 0.3
    scores = np.round(1 / (1 + np.exp(-generator.normal(2.0 * is_positive - 1, 1.2))), digits).astype(np.float32)
    return np.stack([1 - scores, scores], axis=1), is_positive.astype(np.int64)


def rates(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> tuple[float, float]:
    called = probabilities[:, 1] >= threshold
    return float(called[labels == 1].mean()), float((~called[labels == 0]).mean())


def fixed(threshold: float, abstain: AbstainBand | None = None) -> OperatingPoint:
    return OperatingPoint("t", "fixed", threshold, "val", None, None, abstain)


def answered(*groups: tuple[int, float, int]) -> tuple[np.ndarray, np.ndarray]:
    """(label, probability of class 1, how often) each."""
    scores = np.concatenate([np.full(n, score, dtype=np.float32) for _, score, n in groups])
    return np.stack([1 - scores, scores], axis=1), np.concatenate([np.full(n, label) for label, _, n in groups])


def alone(num_images: int) -> list[str]:
    return [f"p{number}" for number in range(num_images)]


@pytest.mark.parametrize("digits", [9, 2, 1])
@pytest.mark.parametrize("target", [0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_targets_are_reached_and_not_by_more_than_needed(digits: int, target: float, seed: int) -> None:
    probabilities, labels = drawn(150, seed, digits)
    every = [*np.unique(probabilities[:, 1]), 2.0]
    reached = [rates(probabilities, labels, threshold) for threshold in every]
    strictest = [pair for pair in reached if pair[0] >= target][-1]
    laxest = next(pair for pair in reached if pair[1] >= target)
    rules = [f"sensitivity={target}", f"specificity={target}"]
    for point, best in zip(choose_operating_points(probabilities, labels, 1, rules), (strictest, laxest), strict=True):
        assert rates(probabilities, labels, point.threshold) == best
        assert (point.sensitivity, point.specificity) == best


@pytest.mark.parametrize("digits", [9, 2, 1])
def test_youden_is_the_largest_distance_from_chance(digits: int) -> None:
    probabilities, labels = drawn(300, digits=digits)
    (point,) = choose_operating_points(probabilities, labels, 1, ["youden"])
    false_positive_rate, sensitivity, _ = roc_curve(labels, probabilities[:, 1], drop_intermediate=False)
    assert point.sensitivity is not None
    assert point.specificity is not None
    assert point.sensitivity + point.specificity - 1 == pytest.approx((sensitivity - false_positive_rate).max())


def test_threshold_lies_halfway_so_that_rounding_moves_no_image() -> None:
    probabilities, labels = answered((1, 0.9, 5), (1, 0.7, 5), (0, 0.3, 10))
    (point,) = choose_operating_points(probabilities, labels, 1, ["sensitivity=1.0"])
    assert point.threshold == pytest.approx(0.5)
    neighbours = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], dtype=np.float32)
    probabilities, labels = np.stack([1 - neighbours, neighbours], axis=1), np.array([0, 1])
    (point,) = choose_operating_points(probabilities, labels, 1, ["youden"])
    assert rates(probabilities, labels, point.threshold) == (1.0, 1.0)


def test_fixed_is_taken_as_it_is_also_where_one_side_is_missing() -> None:
    probabilities, labels = answered((1, 0.9, 3), (1, 0.2, 1))
    (point,) = choose_operating_points(probabilities, labels, 1, ["fixed=0.5"])
    assert (point.threshold, point.sensitivity, point.specificity) == (0.5, 0.75, None)
    with pytest.raises(DataError, match=r"operating_points=youden: .* one side.*fixed=0\.5"):
        choose_operating_points(probabilities, labels, 1, ["youden"])


def test_targets_that_only_a_useless_threshold_reaches_are_said() -> None:
    probabilities, labels = answered((0, 1.0, 5), (1, 0.1, 5), (1, 0.6, 5))
    points = choose_operating_points(probabilities, labels, 1, ["sensitivity=0.95", "specificity=0.95", "youden"])
    assert rates(probabilities, labels, points[0].threshold) == (1.0, 0.0)
    assert "specificity of 0" in points[0].notes[0]
    assert rates(probabilities, labels, points[1].threshold) == (0.0, 1.0)
    assert "sensitivity of 0" in points[1].notes[0]
    assert "chance" in points[2].notes[0]


def test_probabilities_of_zero_can_be_called_too() -> None:
    probabilities, labels = answered((1, 0.0, 5), (0, 0.0, 1), (0, 0.5, 4))
    (point,) = choose_operating_points(probabilities, labels, 1, ["sensitivity=0.95"])
    assert rates(probabilities, labels, point.threshold)[0] == 1.0


def test_the_positive_class_stands_against_all_others() -> None:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1], 200).astype(np.float32)
    labels = generator.integers(3, size=200)
    two = np.stack([1 - probabilities[:, 2], probabilities[:, 2]], axis=1)
    (many,) = choose_operating_points(probabilities, labels, 2, ["sensitivity=0.9"])
    (binary,) = choose_operating_points(two, (labels == 2).astype(int), 1, ["sensitivity=0.9"])
    assert many == binary


@pytest.mark.parametrize(
    "rule", ["", "yuden", "youden=0.5", "sensitivity", "sensitivity=", "sensitivity=high", "sensitivity=0",
             "specificity=1.2", "fixed=-0.1", "fixed=nan", "fixed=inf", "0.5"],
)  # fmt: skip
def test_rules_that_are_none_are_refused_in_one_line(rule: str) -> None:
    with pytest.raises(ConfigurationError, match="operating_points=") as caught:
        parse_rule(rule)
    assert "\n" not in str(caught.value)


def test_a_rule_that_comes_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        choose_operating_points(*drawn(50), 1, ["youden", "fixed=0.5", "youden"])


def test_rates_elsewhere_are_those_of_the_counts_with_wilsons_limits() -> None:
    probabilities, labels = answered((1, 0.8, 18), (1, 0.2, 2), (0, 0.8, 10), (0, 0.2, 70))
    (entry,) = measure_operating_points([fixed(0.5)], probabilities, labels, alone(100), 1)
    for name, hits, total in (("sensitivity", 18, 20), ("specificity", 70, 80), ("ppv", 18, 28), ("npv", 70, 72)):
        limits = wilson(hits, total)
        assert entry[name] == {
            "value": pytest.approx(hits / total), "low": limits.low, "high": limits.high, "n": total,
            "method": "Wilson",
        }  # fmt: skip
    assert entry["prevalence"] is None
    assert "ppv_at_prevalence" not in entry


def test_predictive_values_follow_the_stated_prevalence() -> None:
    probabilities, labels = answered((1, 0.8, 90), (1, 0.2, 10), (0, 0.8, 20), (0, 0.2, 80))
    # Sensitivity .9 and specificity .8: of 1,000 with 1 in 100 ill, 9 are found and 198 called in vain.
    (entry,) = measure_operating_points([fixed(0.5)], probabilities, labels, alone(200), 1, prevalence=0.01)
    assert entry["ppv_at_prevalence"]["value"] == pytest.approx(9 / (9 + 198))
    assert entry["npv_at_prevalence"]["value"] == pytest.approx(792 / (792 + 1))
    # On the log scale, LR+ = .9 / .2 errs by sqrt(.1 / 90 + .8 / 20) = .2028 (Simel, Samsa & Matchar 1991).
    for limit, sign in (("low", -1), ("high", 1)):
        ratio = 0.9 / 0.2 * np.exp(sign * 1.96 * np.sqrt(0.1 / 90 + 0.8 / 20)) * 0.01 / 0.99
        assert entry["ppv_at_prevalence"][limit] == pytest.approx(ratio / (1 + ratio), rel=0.08)


def test_a_perfect_specificity_leaves_the_predictive_value_open_below() -> None:
    probabilities, labels = answered((1, 0.8, 20), (0, 0.2, 30))
    pairs = [f"p{number // 2}" for number in range(50)]
    for groups in (alone(50), pairs):
        (entry,) = measure_operating_points([fixed(0.5)], probabilities, labels, groups, 1, prevalence=0.02)
        assert entry["ppv_at_prevalence"]["value"] == entry["ppv_at_prevalence"]["high"] == 1.0
        assert entry["ppv_at_prevalence"]["low"] < 0.5


def test_images_of_one_patient_widen_the_limits() -> None:
    probabilities, labels = drawn(100)
    fourfold = np.repeat(probabilities, 4, axis=0), np.repeat(labels, 4)
    widths = []
    for groups in (alone(400), np.repeat(alone(100), 4).tolist()):
        (entry,) = measure_operating_points([fixed(0.5)], *fourfold, groups, 1, prevalence=0.02)
        names = ("sensitivity", "specificity", "ppv", "npv", "ppv_at_prevalence", "npv_at_prevalence")
        widths.append([entry[name]["high"] - entry[name]["low"] for name in names])
    assert (np.array(widths[1]) > 1.5 * np.array(widths[0])).all()


def test_rates_without_images_are_null_with_their_reason() -> None:
    probabilities, labels = answered((1, 0.2, 4))
    (entry,) = measure_operating_points([fixed(0.5)], probabilities, labels, alone(4), 1, prevalence=0.1)
    for name in ("specificity", "ppv", "ppv_at_prevalence", "npv_at_prevalence"):
        assert entry[name]["value"] is None
        assert entry[name]["reason"]
    assert entry["sensitivity"]["value"] == 0.0
    json.dumps(entry, allow_nan=False)


def test_no_points_are_no_entries() -> None:
    assert measure_operating_points([], *drawn(20), ["one"] * 20, 1, prevalence=0.1) == []


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -1, 2])
def test_a_prevalence_out_of_range_is_refused(prevalence: float) -> None:
    with pytest.raises(ConfigurationError, match="prevalence="):
        measure_operating_points([fixed(0.5)], *drawn(20), alone(20), 1, prevalence=prevalence)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("digits", [9, 2])
def test_the_abstaining_share_is_the_largest_allowed(share: float, digits: int) -> None:
    probabilities, labels = drawn(400, digits=digits)
    scores = probabilities[:, 1]
    (point,) = choose_operating_points(probabilities, labels, 1, ["youden"], abstain=f"share={share}")
    assert point.abstain is not None
    held = point.abstain.holds(scores)
    assert held.mean() <= share
    largest_tie = np.unique(scores, return_counts=True)[1].max()
    assert held.sum() > share * 400 - 1 - 2 * largest_tie
    assert point.abstain.low < point.threshold < point.abstain.high


def test_the_band_reaches_as_far_as_both_rates_need() -> None:
    probabilities, labels = drawn(600)
    (point,) = choose_operating_points(probabilities, labels, 1, ["youden"], abstain="both=0.95")
    assert point.abstain is not None
    left = ~point.abstain.holds(probabilities[:, 1])
    assert min(rates(probabilities[left], labels[left], point.threshold)) >= 0.95
    # Without the image of the band that lies farthest from the threshold, it would not.
    odds = np.log(probabilities[:, 1]) - np.log1p(-probabilities[:, 1])
    distance = np.abs(odds - np.log(point.threshold / (1 - point.threshold)))
    left[np.argmax(np.where(left, -1, distance))] = True
    assert min(rates(probabilities[left], labels[left], point.threshold)) < 0.95


def test_a_band_is_measured_on_those_who_are_left() -> None:
    probabilities, labels = answered((1, 0.9, 9), (1, 0.55, 4), (0, 0.45, 6), (1, 0.1, 1), (0, 0.1, 19), (0, 0.9, 1))
    point = fixed(0.5, AbstainBand("between=0.4:0.6", 0.4, 0.6))
    (entry,) = measure_operating_points([point], probabilities, labels, alone(40), 1)
    assert entry["abstain"]["left"] == 30
    assert entry["abstain"]["abstained"]["value"] == pytest.approx(10 / 40)
    assert entry["abstain"]["sensitivity"]["value"] == pytest.approx(9 / 10)
    assert entry["abstain"]["specificity"]["value"] == pytest.approx(19 / 20)
    assert entry["abstain"]["accuracy"] == {
        "value": pytest.approx(28 / 30), "low": wilson(28, 30).low, "high": wilson(28, 30).high, "n": 30,
        "method": "Wilson",
    }  # fmt: skip
    assert entry["sensitivity"]["value"] == pytest.approx(13 / 14)


def test_bands_that_cannot_be_had_are_said() -> None:
    probabilities, labels = answered((1, 0.9, 5), (0, 0.9, 5), (0, 0.1, 5))
    for rule, reason in (
        ("both=0.9", "no band"), ("share=0.1", "more than this share"), ("between=0.6:0.7", "lies outside"),
    ):  # fmt: skip
        (point,) = choose_operating_points(probabilities, labels, 1, ["fixed=0.5"], abstain=rule)
        assert point.abstain is None
        assert reason in point.notes[-1]
    apart, labels = answered((1, 0.9, 5), (0, 0.1, 5))
    assert choose_band("both=0.9", apart[:, 1], labels == 1, 0.5) == "abstain=both=0.9: reached without abstaining"


@pytest.mark.parametrize(
    "rule", ["", "0.1", "share", "share=0", "share=1", "share=nan", "both=1.0", "share=0.1:0.2", "between=0.3",
             "between=0.7:0.3", "between=0:2", "half=0.1"],
)  # fmt: skip
def test_abstain_rules_that_are_none_are_refused(rule: str) -> None:
    with pytest.raises(ConfigurationError, match="abstain="):
        parse_abstain(rule)


def test_nothing_of_a_point_changes_where_it_is_applied() -> None:
    points = choose_operating_points(*drawn(200), 1, ["youden", "sensitivity=0.9"], abstain="share=0.1")
    again = [OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict()))) for point in points]
    assert again == points
    entries = measure_operating_points(points, *drawn(300, seed=5), alone(300), 1)
    assert [entry["threshold"] for entry in entries] == [point.threshold for point in points]
    assert [entry["on_choice"]["sensitivity"] for entry in entries] == [point.sensitivity for point in points]
    assert again == points


GOOD: dict[str, Any] = {
    "name": "n", "rule": "youden", "threshold": 0.5, "chosen_on": "val", "sensitivity": 0.9, "specificity": None,
    "abstain": {"rule": "share=0.1", "low": 0.4, "high": 0.6}, "notes": ["a"],
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "0.5"}, {"threshold": True}, {"threshold": float("nan")}, {"threshold": -0.1},
        {"threshold": 1.5}, {"threshold": 0.7}, {"sensitivity": 2}, {"sensitivity": "high"}, {"notes": "a"},
        {"notes": [1]}, {"name": None}, {"chosen_on": 3}, {"extra": 1}, {"abstain": []}, {"abstain": {"low": 0}},
        {"abstain": {"rule": "x", "low": 0.6, "high": 0.4}}, {"abstain": {"rule": "x", "low": None, "high": 0.6}},
        {"abstain": {"rule": 3, "low": 0.4, "high": 0.6}},
        {"abstain": {"rule": "x", "low": 0.4, "high": float("inf")}},
    ],
)  # fmt: skip
def test_strange_points_are_refused(change: dict[str, Any]) -> None:
    assert OperatingPoint.from_dict(GOOD).threshold == 0.5
    with pytest.raises(DataError, match=r"operating point|abstain"):
        OperatingPoint.from_dict(GOOD | change)
