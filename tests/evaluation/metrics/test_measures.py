from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cxr.evaluation.metrics.measures import METRICS, measure
from cxr.training.metrics import classification_metrics

NAMES = ["covid", "other"]


def answers(*groups: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Certain answers: (label, answer, how often) each."""
    labels = np.concatenate([np.full(n, label) for label, _, n in groups])
    predicted = np.concatenate([np.full(n, answer) for _, answer, n in groups])
    return np.where(predicted[:, None] == np.arange(2), 0.9, 0.1).astype(np.float32), labels


def own(labels: np.ndarray) -> list[str]:
    """Each image of a patient of its own."""
    return [f"p{place}" for place in range(len(labels))]


def binormal(
    generator: np.random.Generator, positives: int, negatives: int, shift: float, images: int, correlation: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal scores whose mean differs by `shift`, as probabilities of "covid"; 1 to `images` images of each patient.

    Scores of one patient correlate. Half of all images of each class lie beyond a probability of one half by the same
    margin, so that sensitivity, specificity and accuracy are all Phi(shift / 2), and AUROC is Phi(shift / sqrt(2)).
    """
    sizes = generator.integers(1, images + 1, positives + negatives)
    patient = np.repeat(np.arange(positives + negatives), sizes)
    labels = (patient >= positives).astype(np.int64)
    own_part = generator.normal(0, np.sqrt(1 - correlation), len(patient))
    scores = generator.normal(0, np.sqrt(correlation), positives + negatives)[patient] + own_part + shift * (1 - labels)
    chance = stats.norm.cdf(scores - shift / 2).astype(np.float32)
    return np.stack([chance, 1 - chance], axis=1), labels, patient


def limits(metric: dict[str, Any]) -> tuple[float, float]:
    return metric["low"], metric["high"]


def test_counts_of_the_original_work_stand_beside_its_baseline_with_their_intervals() -> None:
    # TP 4, FN 0, FP 3, TN 71: 75 of 78 right, where always answering "other" gives 74 of 78.
    probabilities, labels = answers((0, 0, 4), (1, 0, 3), (1, 1, 71))
    entry = measure(probabilities, labels, own(labels), NAMES, "covid", "other")

    assert entry["accuracy"] == {
        "value": pytest.approx(75 / 78),
        "low": pytest.approx(0.893, abs=5e-4),
        "high": pytest.approx(0.987, abs=5e-4),
        "method": "Wilson",
        "n": 78,
        "n_patients": 78,
        "baseline": pytest.approx(74 / 78),
    }
    shown = {
        name: (entry[name]["value"], entry[name]["n"], entry[name]["baseline"]) for name in METRICS if name in entry
    }
    assert shown["sensitivity"] == (1.0, 4, 0.0)
    assert shown["specificity"] == (pytest.approx(71 / 74), 74, 1.0)
    assert shown["ppv"] == (pytest.approx(4 / 7), 7, None)
    assert shown["npv"] == (1.0, 71, pytest.approx(74 / 78))
    assert entry["auroc"]["baseline"] == entry["balanced_accuracy"]["baseline"] == 0.5
    assert entry["average_precision"]["baseline"] == pytest.approx(4 / 78)
    assert entry["f1"]["baseline"] == entry["mcc"]["baseline"] == 0.0
    assert entry["confusion_matrix"]["counts"] == [[4, 0], [3, 71]]
    for name, (found, total) in {
        "sensitivity": (4, 4),
        "specificity": (71, 74),
        "ppv": (4, 7),
        "npv": (71, 71),
    }.items():
        theirs = stats.binomtest(found, total).proportion_ci(method="wilson")
        assert limits(entry[name]) == pytest.approx((theirs.low, theirs.high)), name
    assert "macro_auroc" not in entry


def test_the_baseline_answers_the_majority_of_the_training_not_of_the_split() -> None:
    probabilities, labels = answers((0, 0, 9), (1, 1, 1))
    entry = measure(probabilities, labels, own(labels), NAMES, "covid", "other")
    assert entry["accuracy"]["baseline"] == pytest.approx(0.1)


def test_scores_of_the_probabilities_stand_beside_those_of_the_training_prevalences() -> None:
    probabilities, labels = answers((0, 0, 10), (1, 1, 30))
    without = measure(probabilities, labels, own(labels), NAMES, "covid", "other")
    entry = measure(probabilities, labels, own(labels), NAMES, "covid", "other", prevalences=[0.2, 0.8])
    assert entry["brier"]["baseline"] == pytest.approx((10 * 0.8**2 + 30 * 0.2**2) / 40)
    assert entry["log_loss"]["baseline"] == pytest.approx(-(10 * np.log(0.2) + 30 * np.log(0.8)) / 40)
    assert without["brier"]["baseline"] is without["log_loss"]["baseline"] is None
    assert without["brier"]["value"] == entry["brier"]["value"] == pytest.approx(0.01)


def test_the_positive_class_is_found_by_name() -> None:
    probabilities, labels = answers((0, 0, 4), (1, 0, 3), (1, 1, 71))
    entry = measure(probabilities, labels, own(labels), NAMES, "other", "other")
    assert entry["sensitivity"]["n"] == 74
    assert entry["sensitivity"]["value"] == pytest.approx(71 / 74)


def test_a_threshold_moves_the_calls_and_their_intervals_and_leaves_the_order_alone() -> None:
    probabilities, labels, groups = binormal(np.random.default_rng(0), 50, 60, 1.2, 2, 0.3)
    likeliest = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=100)
    strict = measure(probabilities, labels, groups, NAMES, "covid", "other", threshold=0.8, num_resamples=100)
    assert strict["sensitivity"]["high"] < likeliest["sensitivity"]["low"]
    assert strict["mcc"]["low"] != likeliest["mcc"]["low"]
    assert strict["auroc"] == likeliest["auroc"]
    assert strict["sensitivity"]["value"] == pytest.approx((probabilities[labels == 0, 0] >= 0.8).mean())
    assert strict["confusion_matrix"]["counts"][0][0] == (probabilities[labels == 0, 0] >= 0.8).sum()


def test_patients_are_counted_among_the_images_that_a_metric_is_about() -> None:
    probabilities, labels = answers((0, 0, 4), (0, 1, 2), (1, 1, 6))
    entry = measure(probabilities, labels, ["a", "a", "b", "b", "b", "c", *"ccdddd"], NAMES, "covid", "other")
    found = {
        name: (entry[name]["n"], entry[name]["n_patients"])
        for name in ("accuracy", "sensitivity", "specificity", "ppv")
    }
    assert found == {"accuracy": (12, 4), "sensitivity": (6, 3), "specificity": (6, 2), "ppv": (4, 2)}


def test_an_absent_class_gives_null_and_the_reason_never_zero() -> None:
    probabilities, labels = answers((1, 0, 2), (1, 1, 5))
    entry = measure(probabilities, labels, own(labels), NAMES, "covid", "other")
    for name in ("auroc", "average_precision", "balanced_accuracy", "sensitivity", "mcc"):
        assert entry[name]["value"] is entry[name]["low"] is entry[name]["high"] is entry[name]["method"] is None
        assert "covid" in entry[name]["reason"]
        assert "reason_interval" not in entry[name]
    assert (entry["sensitivity"]["n"], entry["sensitivity"]["n_patients"]) == (0, 0)
    assert "reason" not in entry["specificity"]
    assert entry["specificity"]["low"] is not None
    json.dumps(entry, allow_nan=False)


def test_images_of_one_patient_have_values_without_intervals_and_that_is_said() -> None:
    probabilities, labels = answers((0, 0, 4), (0, 1, 2), (1, 1, 6))
    entry = measure(probabilities, labels, ["a"] * 12, NAMES, "covid", "other")
    for name in METRICS[:1] + METRICS[2:]:
        assert entry[name]["value"] is not None
        assert entry[name]["low"] is entry[name]["high"] is entry[name]["method"] is None
        assert "one patient" in entry[name]["reason_interval"]
    json.dumps(entry, allow_nan=False)


def test_a_class_of_one_patient_leaves_the_other_rates_their_intervals() -> None:
    probabilities, labels = answers((0, 0, 3), (0, 1, 1), (1, 1, 40))
    entry = measure(probabilities, labels, [*"aaaa", *own(np.arange(40))], NAMES, "covid", "other")
    for name in ("sensitivity", "balanced_accuracy", "mcc"):
        assert "one patient" in entry[name]["reason_interval"]
    assert entry["specificity"]["low"] is not None


@pytest.mark.parametrize("number", [7, 49])  # whose fractions do not add up to exactly 1
@pytest.mark.parametrize("images", [1, 3])
def test_perfect_answers_have_intervals_that_are_open_on_one_side_and_shrink_with_the_patients(
    number: int, images: int
) -> None:
    labels = np.repeat([0, 1], number * images)
    probabilities = np.where(labels[:, None] == np.arange(2), 1.0, 0.0).astype(np.float32)
    entry = measure(probabilities, labels, np.repeat(np.arange(2 * number), images), NAMES, "covid", "other")
    for name in METRICS[:1] + METRICS[2:-2]:
        assert entry[name]["value"] == entry[name]["high"] == pytest.approx(1.0), name
        assert entry[name]["low"] < 1.0 - 1 / (4 * number), name  # more than a quarter of a patient can be wrong
        assert entry[name]["low"] > 1.0 - 5.1 / number, name
    assert entry["brier"]["value"] == entry["brier"]["low"] == 0.0
    assert 1 / (4 * number) < entry["brier"]["high"] < 5 / number
    assert "no resample differs" in entry["log_loss"]["reason_interval"]


def test_a_class_of_few_patients_keeps_its_intervals_and_no_bootstrap_is_made_of_them() -> None:
    generator = np.random.default_rng(1)
    probabilities, labels, groups = binormal(generator, 3, 200, 1.5, 1, 0.0)
    entry = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=200)
    for name in ("auroc", "average_precision", "balanced_accuracy", "mcc"):
        assert entry[name]["low"] < entry[name]["value"] < entry[name]["high"]
        assert "bootstrap" not in entry[name]["method"]
    assert "bootstrap" in entry["brier"]["method"]


def test_three_classes_have_a_mean_over_classes() -> None:
    labels = np.arange(30) % 3
    probabilities = np.full((30, 3), 0.2, dtype=np.float32)
    probabilities[np.arange(30), labels] = 0.6
    entry = measure(probabilities, labels, own(labels), ["a", "b", "c"], "b", "a")
    assert {key: entry["macro_auroc"][key] for key in ("value", "n", "baseline")} == {
        "value": 1.0,
        "n": 30,
        "baseline": 0.5,
    }
    assert 0.7 < entry["macro_auroc"]["low"] < entry["macro_auroc"]["high"] == 1.0
    assert entry["balanced_accuracy"]["baseline"] == pytest.approx(1 / 3)
    assert 0.6 < entry["balanced_accuracy"]["low"] < entry["balanced_accuracy"]["high"] == 1.0


def test_every_interval_holds_its_value_and_stays_within_the_range_of_the_metric() -> None:
    generator = np.random.default_rng(2)
    for positives, negatives in ((2, 5), (8, 40), (30, 30)):
        for shift in (-0.5, 0.0, 1.0, 4.0):
            probabilities, labels, groups = binormal(generator, positives, negatives, shift, 3, 0.5)
            entry = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=60)
            for name in METRICS:
                metric = entry.get(name, {"low": None})
                if metric["low"] is not None:
                    low, high = (-1.0 if name == "mcc" else 0.0), (np.inf if name == "log_loss" else 1.0)
                    ends = [low, metric["low"], metric["value"], metric["high"], high]
                    assert np.diff(ends).min() > -1e-9, (name, positives, shift)
            json.dumps(entry, allow_nan=False)


def test_images_of_the_same_patients_give_wider_intervals_than_as_many_patients() -> None:
    probabilities, labels, groups = binormal(np.random.default_rng(3), 60, 80, 1.0, 8, 0.8)
    grouped = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=400)
    ungrouped = measure(probabilities, labels, own(labels), NAMES, "covid", "other", num_resamples=400)
    for name in METRICS[:1] + METRICS[2:]:
        assert grouped[name]["value"] == ungrouped[name]["value"]
        widths = [entry[name]["high"] - entry[name]["low"] for entry in (grouped, ungrouped)]
        assert widths[0] > 1.3 * widths[1], name


def test_the_order_of_the_images_does_not_matter() -> None:
    probabilities, labels, groups = binormal(np.random.default_rng(4), 30, 40, 1.0, 3, 0.5)
    order = np.random.default_rng(5).permutation(len(labels))
    there = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=100)
    shuffled = measure(probabilities[order], labels[order], groups[order], NAMES, "covid", "other", num_resamples=100)
    for name in METRICS[:1] + METRICS[2:]:
        assert limits(shuffled[name]) == pytest.approx(limits(there[name]), abs=1e-9), name


def test_delong_takes_the_place_of_the_bootstrap_of_the_area_alone() -> None:
    probabilities, labels, groups = binormal(np.random.default_rng(9), 40, 60, 1.0, 4, 0.5)
    settings: dict[str, Any] = {"num_resamples": 1000}
    usual = measure(probabilities, labels, groups, NAMES, "covid", "other", **settings)
    chosen = measure(probabilities, labels, groups, NAMES, "covid", "other", auroc_interval="delong", **settings)
    assert "DeLong" in chosen["auroc"]["method"]
    assert "one cluster" in chosen["auroc"]["method"], "patients have several images"
    # Limits of 1,000 resamples are off by some hundredths of the width.
    width = usual["auroc"]["high"] - usual["auroc"]["low"]
    assert limits(chosen["auroc"]) == pytest.approx(limits(usual["auroc"]), abs=0.1 * width)
    assert {name: chosen[name] for name in METRICS[2:]} == {name: usual[name] for name in METRICS[2:]}

    few = groups < 45  # 5 negative patients are left
    scarce = probabilities[few], labels[few], groups[few]
    by_delong = measure(*scarce, NAMES, "covid", "other", auroc_interval="delong", **settings)["auroc"]
    assert by_delong == measure(*scarce, NAMES, "covid", "other", **settings)["auroc"]
    assert "DeLong" not in by_delong["method"], "too few patients for its variance"


def test_the_spread_of_the_resamples_is_that_of_a_plain_loop_over_patients() -> None:
    probabilities, labels, groups = binormal(np.random.default_rng(6), 40, 50, 1.0, 4, 0.5)
    entry = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=1200)
    generator, rows = np.random.default_rng(7), [np.flatnonzero(groups == patient) for patient in range(90)]
    names = ("auroc", "average_precision", "balanced_accuracy", "mcc", "brier")
    values: dict[str, list[float]] = {name: [] for name in (*names, "mann-whitney")}
    for _ in range(1200):
        drawn = np.concatenate([rows[patient] for patient in generator.integers(90, size=90)])
        again = classification_metrics(probabilities[drawn], labels[drawn], NAMES, "covid")
        for name in names:
            values[name].append(again[name] or 0.0)
        positives, negatives = (probabilities[drawn[labels[drawn] == label], 0] for label in (0, 1))
        won = (positives[:, None] > negatives).sum() + 0.5 * (positives[:, None] == negatives).sum()
        values["mann-whitney"].append(won / (len(positives) * len(negatives)))
    assert values["auroc"] == pytest.approx(values["mann-whitney"])
    for name in names:
        lowest = -1.0 if name == "mcc" else 0.0
        share = (entry[name]["value"] - lowest) / (1 - lowest)
        spread = np.std(values[name], ddof=1) / ((1 - lowest) * share * (1 - share))
        found = [stats.logistic.ppf((end - lowest) / (1 - lowest)) for end in limits(entry[name])]
        # Two spreads of 1,200 resamples differ by 3 % (one standard deviation).
        assert found[1] - found[0] == pytest.approx(2 * stats.norm.ppf(0.975) * spread, rel=0.09), name


@pytest.mark.parametrize(
    ("positives", "negatives", "images", "correlation"),
    [(60, 90, 1, 0.0), (60, 90, 3, 0.5)],
    ids=["plain", "clustered"],
)
def test_19_of_20_intervals_hold_the_truth(positives: int, negatives: int, images: int, correlation: float) -> None:
    shift, repetitions = 1.4, 800
    rate = stats.norm.cdf(shift / 2)
    truth = {
        "auroc": stats.norm.cdf(shift / np.sqrt(2)),
        "accuracy": rate,
        "balanced_accuracy": rate,
        "sensitivity": rate,
        "specificity": rate,
    }
    held: Counter[str] = Counter()
    generator = np.random.default_rng(8)
    for repetition in range(repetitions):
        probabilities, labels, groups = binormal(generator, positives, negatives, shift, images, correlation)
        entry = measure(probabilities, labels, groups, NAMES, "covid", "other", num_resamples=100, seed=repetition)
        held.update(name for name, value in truth.items() if entry[name]["low"] <= value <= entry[name]["high"])
    coverage = {name: held[name] / repetitions for name in truth}
    assert all(0.93 <= share <= 0.97 for share in coverage.values()), coverage
