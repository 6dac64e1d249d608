from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cxr.errors import ConfigurationError
from cxr.evaluation.metrics.weighted_metrics import weighted_metrics
from cxr.evaluation.subgroups.bands import COLUMNS
from cxr.evaluation.subgroups.subgroups import METRICS, subgroup_table, subgroup_verdict
from cxr.statistics.resampling import patient_resamples, percentile_interval
from cxr.training.metrics import classification_metrics

CLASSES = ["covid", "other"]


class Answers:
    """Images of patients of whom much is known, and what a network says of them."""

    def __init__(self, seed: int, num_patients: int = 400, images_per_patient: int = 1, signal: float = 1.5) -> None:
        generator = np.random.default_rng(seed)
        patients = np.repeat(np.arange(num_patients), images_per_patient)
        self.labels = (generator.random(num_patients) > 0.4).astype(np.int64)[patients]
        self.records = pd.DataFrame(
            {
                "group": [f"p{patient}" for patient in patients],
                "sex": np.array(["F", "M"])[generator.integers(2, size=num_patients)][patients],
                "age": np.round(generator.uniform(0, 95, num_patients))[patients],
                "view": np.array(["PA", "AP"])[generator.integers(2, size=num_patients)][patients],
                "source": "phantom",
                "country": None,
            },
            index=np.arange(len(patients)) * 3 + 7,  # records of a split keep the index of the manifest
        )
        self.scores = signal * (self.labels == 0) + generator.normal(size=num_patients)[patients]
        if images_per_patient > 1:
            self.scores += 0.2 * generator.normal(size=len(patients))
        self.threshold = 0.5
        self.middle = signal / 2

    def rows(self, **options: Any) -> list[dict[str, Any]]:
        settings = {"threshold": self.threshold, "num_resamples": 300} | options
        return subgroup_table(self.records, self.probabilities, self.labels, CLASSES, "covid", **settings)

    @property
    def probabilities(self) -> np.ndarray:
        of_positive = 1 / (1 + np.exp(self.middle - self.scores))
        return np.column_stack([of_positive, 1 - of_positive]).astype(np.float32)


def pick(rows: list[dict[str, Any]], column: str, value: str | None, metric: str | None) -> dict[str, Any]:
    (row,) = (row for row in rows if (row["column"], row["value"], row["metric"]) == (column, value, metric))
    return row


def test_rows_hold_counts_and_the_metrics_of_their_images() -> None:
    answers = Answers(0, images_per_patient=2)
    rows = answers.rows(columns=["sex"])
    assert [(row["value"], row["metric"]) for row in rows] == [
        (value, metric) for value in rows[0]["value"] + rows[-1]["value"] for metric in METRICS
    ]
    for row in rows:
        images = (answers.records["sex"] == row["value"]).to_numpy()
        expected = classification_metrics(
            answers.probabilities[images], answers.labels[images], CLASSES, "covid", threshold=0.5
        )
        assert row["estimate"]["value"] == expected[row["metric"]]
        assert row["estimate"]["low"] < row["estimate"]["value"] < row["estimate"]["high"]
        assert row["n"] == images.sum() == 2 * row["patients"]
        assert row["positives"] == (answers.labels[images] == 0).sum()
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("digits", [6, 1])  # one digit: most scores are ties
def test_differences_are_those_within_the_same_resamples(digits: int) -> None:
    answers = Answers(1, num_patients=5000)
    answers.scores = np.round(answers.scores, digits)
    rows = answers.rows(columns=["view"], seed=4)

    resamples = patient_resamples(list(answers.records["group"]), answers.labels, num_resamples=300, seed=4)
    is_pa = (answers.records["view"] == "PA").to_numpy()
    own, rest = (
        weighted_metrics(answers.probabilities, answers.labels, CLASSES, "covid", resamples * mask, threshold=0.5)
        for mask in (is_pa, ~is_pa)
    )
    for metric in METRICS:
        difference = pick(rows, "view", "PA", metric)["difference"]
        low, high = percentile_interval(own[metric] - rest[metric]) or (np.nan, np.nan)
        # They may be stretched, where the pooled value varies more, but in this many images only by a little.
        assert difference["low"] == pytest.approx(low, abs=0.004)
        assert difference["high"] == pytest.approx(high, abs=0.004)
        assert difference["low"] <= low + 1e-12
        assert difference["high"] >= high - 1e-12
    area = pick(rows, "view", "PA", "auroc")["estimate"]
    assert (area["low"], area["high"]) == pytest.approx(percentile_interval(own["auroc"]))


def test_a_subgroup_that_does_worse_is_found() -> None:
    found = 0
    for seed in range(3):
        answers = Answers(seed, num_patients=900)
        old = (answers.records["age"] >= 80).to_numpy()
        answers.scores[old & (answers.labels == 0)] -= 1.8
        rows = answers.rows()
        for metric in ("auroc", "sensitivity"):
            row = pick(rows, "age", "80 and over", metric)
            found += row["difference"]["remains"]
            assert row["difference"]["high"] < 0
        assert not pick(rows, "age", "80 and over", "specificity")["difference"]["remains"]
        verdict = subgroup_verdict(rows)
        assert "sensitivity of age 80 and over is lower: -0." in verdict
    assert found == 6


@pytest.mark.parametrize("images_per_patient", [1, 3])
def test_where_none_does_worse_none_is_called_so(images_per_patient: int) -> None:
    called = 0
    for seed in range(6):
        answers = Answers(10 + seed, num_patients=300, images_per_patient=images_per_patient)
        rows = answers.rows(num_resamples=200)
        called += any(row["difference"]["remains"] for row in rows)
        if not any(row["difference"]["remains"] for row in rows):
            assert "no difference shown" in subgroup_verdict(rows)
    # Each of six has a chance of one in twenty at most: two or more happen in 3 of 100 such tests.
    assert called <= 1


def test_a_small_subgroup_without_any_error_is_not_called_better() -> None:
    answers = Answers(2, num_patients=200)
    positives = np.flatnonzero(answers.labels == 0)
    answers.scores[positives] = 5.0
    answers.scores[positives[::8]] = -5.0  # an eighth of the positives is missed ...
    lucky = np.concatenate([np.setdiff1d(positives, positives[::8])[:11], np.flatnonzero(answers.labels == 1)[:15]])
    answers.records["view"] = "PA"
    answers.records.iloc[lucky, answers.records.columns.get_loc("view")] = "AP"  # ... but none of these eleven
    row = pick(answers.rows(columns=["view"]), "view", "AP", "sensitivity")
    assert row["estimate"]["value"] == 1.0
    # Wilson (1927): eleven of eleven, each of another patient.
    assert row["estimate"]["low"] == pytest.approx(11 / (11 + 1.959964**2), abs=1e-4)
    assert row["difference"]["low"] < 0 < row["difference"]["value"] < row["difference"]["high"]
    assert row["difference"]["p"] > 0.05


def test_a_network_without_any_error_still_has_intervals() -> None:
    answers = Answers(2)
    answers.scores = np.where(answers.labels == 0, 5.0, -5.0)
    rows = answers.rows(columns=["sex"])
    positives = {row["value"]: row["positives"] for row in rows}
    # Newcombe (1998), method 10: where nobody is missed on either side, only Wilson's lower limits are left of it.
    lows = {sex: number / (number + 1.959964**2) for sex, number in positives.items()}
    difference = pick(rows, "sex", "F", "sensitivity")["difference"]
    assert difference["value"] == 0.0
    assert difference["low"] == pytest.approx(lows["F"] - 1, abs=1e-6)
    assert difference["high"] == pytest.approx(1 - lows["M"], abs=1e-6)
    assert not any(row["difference"]["remains"] for row in rows)
    for row in rows:
        assert row["estimate"]["low"] < 1.0 == row["estimate"]["high"]


def test_each_comparison_counts_once_and_is_corrected_for_all() -> None:
    answers = Answers(3)
    rows = answers.rows(columns=["sex", "age"])
    differences = [row["difference"] for row in rows if row["difference"]["p"] is not None]
    # F against M is M against F; five bands of ages are five comparisons; three metrics each.
    assert {difference["comparisons"] for difference in differences} == {18}
    for metric in METRICS:
        first, second = (pick(rows, "sex", sex, metric)["difference"] for sex in "FM")
        assert first["value"] == -second["value"]
        assert first["p"] == second["p"]
    once = [row["difference"] for row in rows if row["difference"]["p"] is not None and row["value"] != "M"]
    # Holm (1979), written out: the k-th smallest of m values times m - k + 1, never below the one before.
    highest = 0.0
    for rank, difference in enumerate(sorted(once, key=lambda difference: difference["p"])):
        highest = max(highest, min(1.0, (18 - rank) * difference["p"]))
        assert difference["p_holm"] == pytest.approx(highest)
        assert difference["remains"] == (highest < 0.05)


def test_too_few_is_said_with_the_reason_and_without_a_number() -> None:
    answers = Answers(4)
    answers.records["view"] = "PA"
    place = answers.records.columns.get_loc("view")
    answers.records.iloc[:12, place] = "L"
    few = np.concatenate([np.flatnonzero(answers.labels == 0)[-4:], np.flatnonzero(answers.labels == 1)[-30:]])
    answers.records.iloc[few, place] = "AP"
    rows = answers.rows(columns=["view"])

    for metric in METRICS:
        row = pick(rows, "view", "L", metric)
        assert row["estimate"]["value"] is row["difference"]["p"] is row["estimate"]["low"] is None
        assert row["note"] == row["estimate"]["reason"] == "too few: 12 images (20 are needed)"
        assert row["n"] == 12
    assert pick(rows, "view", "AP", "sensitivity")["note"] == "too few: 4 patients with covid (10 are needed)"
    assert pick(rows, "view", "AP", "auroc")["note"] == "too few: 4 patients with covid (10 are needed)"
    assert pick(rows, "view", "AP", "specificity")["estimate"]["value"] is not None
    smaller = answers.rows(columns=["view"], min_images=10, min_patients=1)
    assert pick(smaller, "view", "L", "sensitivity")["note"] is None


def test_patients_count_not_images() -> None:
    answers = Answers(5, num_patients=40, images_per_patient=10)
    rows = answers.rows(columns=["sex"], min_patients=30)
    assert rows[0]["n"] > 100
    assert rows[0]["note"].startswith("too few: ")


def test_several_images_of_a_patient_widen_every_interval() -> None:
    answers = Answers(6, num_patients=150, images_per_patient=4)
    grouped = answers.rows(columns=["sex"])
    answers.records["group"] = [str(number) for number in range(len(answers.records))]
    alone = answers.rows(columns=["sex"])
    for row, other in zip(grouped, alone, strict=True):
        for part in ("estimate", "difference"):
            assert row[part]["value"] == other[part]["value"]
            width, of_other = (each[part]["high"] - each[part]["low"] for each in (row, other))
            assert width > 1.4 * of_other


def test_missing_is_a_row_and_stays_out_of_the_rest() -> None:
    answers = Answers(7, num_patients=600)
    unknown = np.arange(600) % 3 == 0
    answers.records.loc[unknown, "sex"] = None
    rows = answers.rows(columns=["sex"])
    missing = pick(rows, "sex", "missing", "auroc")
    assert missing["n"] == 200
    values = {
        name: pick(rows, "sex", name, "auroc")["estimate"]["value"] for name in ("F", "M")
    }  # the rest of F is M, not M and missing
    assert pick(rows, "sex", "F", "auroc")["difference"]["value"] == pytest.approx(values["F"] - values["M"])
    known = classification_metrics(
        answers.probabilities[~unknown], answers.labels[~unknown], CLASSES, "covid", threshold=0.5
    )
    expected = missing["estimate"]["value"] - known["auroc"]
    assert missing["difference"]["value"] == pytest.approx(expected)


def test_impossible_ages_are_noted_beside_the_missing_ones() -> None:
    answers = Answers(8)
    answers.records.iloc[:60, answers.records.columns.get_loc("age")] = 412.0
    row = pick(answers.rows(columns=["age"]), "age", "missing", "auroc")
    assert row["note"] == "ages outside 0 to 120 years, counted as missing: 60"


def test_a_column_that_says_nothing_has_a_line_of_its_own() -> None:
    answers = Answers(9)
    rows = answers.rows()
    unknown = pick(rows, "country", None, None)
    assert unknown["note"] == "country: not known for any image"
    assert unknown["n"] == 400
    assert {row["column"] for row in rows} == set(COLUMNS)
    same = pick(rows, "source", "phantom", "auroc")
    assert same["estimate"]["value"] is not None
    assert same["difference"]["reason"] == "there is no other image"


def test_any_column_of_the_manifest_can_be_asked_for() -> None:
    answers = Answers(10)
    answers.records["dose"] = np.random.default_rng(0).random(400)
    rows = answers.rows(columns=["dose"])
    assert len(rows) == 4 * len(METRICS)
    with pytest.raises(ConfigurationError, match="nearest: 'dose'"):
        answers.rows(columns=["doses"])


def test_three_classes_are_measured_as_the_named_one_against_the_rest() -> None:
    generator = np.random.default_rng(11)
    labels = generator.integers(3, size=300)
    table = generator.dirichlet(np.ones(3), size=300) + 1.5 * np.eye(3)[labels]
    probabilities = (table / table.sum(axis=1, keepdims=True)).astype(np.float32)
    records = pd.DataFrame({"group": np.arange(300).astype(str), "sex": np.where(np.arange(300) % 2, "F", "M")})
    rows = subgroup_table(records, probabilities, labels, ["a", "b", "c"], "c", columns=["sex"], num_resamples=100)
    images = np.arange(300) % 2 == 1
    expected = classification_metrics(probabilities[images], labels[images], ["a", "b", "c"], "c")
    for metric in METRICS:
        assert pick(rows, "sex", "F", metric)["estimate"]["value"] == expected[metric]


def test_the_same_seed_gives_the_same_rows_and_lengths_must_fit() -> None:
    answers = Answers(12)
    assert answers.rows(seed=3) == answers.rows(seed=3)
    with pytest.raises(ValueError, match="records"):
        subgroup_table(answers.records[:5], answers.probabilities, answers.labels, CLASSES, "covid")
