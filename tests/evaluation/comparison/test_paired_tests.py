"""Are the tests between networks right: known values, no false alarms, and real differences found?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.evaluation.written_runs import draw_records, draw_scores

from cxr.evaluation.comparison.paired_tests import Difference, SeedSpread, SharedResamples, compare, mcnemar
from cxr.evaluation.comparison.predictions import Predictions
from cxr.statistics.intervals import delong_difference
from cxr.statistics.many_comparisons import holm


def predictions(
    skill: float,
    seed: int,
    *,
    name: str = "",
    num_patients: int = 120,
    images_per_patient: int = 1,
    part: slice = slice(None),
) -> Predictions:
    records = draw_records(num_patients, images_per_patient=images_per_patient)
    scores = draw_scores(records, skill, seed=seed)[part]
    records = records.iloc[part]
    return Predictions(
        names=(name or f"{skill}/{seed}",),
        keys=records["sha256"].to_numpy(object),
        probabilities=scores,
        labels=(records["label"] == "other").to_numpy(np.int64),
        groups=records["group"].to_numpy(object),
        class_names=("covid", "other"),
        positive="covid",
        threshold=0.5,
    )


def test_holm_gives_the_values_of_the_procedure() -> None:
    # By the definition: ordered .005 .01 .03 .04 times 4 3 2 1, never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_out_what_was_not_tested_and_counts_what_could_have_been() -> None:
    assert holm([0.02, None, 0.5]) == [pytest.approx(0.04), None, pytest.approx(0.5)]
    # Three of ten possible comparisons: the smallest p counts ten times.
    assert holm([0.001, 0.5, 0.02], 10) == pytest.approx([0.01, 1.0, 0.18])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_images() -> None:
    right_a = np.array([True] * 20 + [True] * 12 + [False] * 3 + [False] * 5)
    right_b = np.array([True] * 20 + [False] * 12 + [True] * 3 + [False] * 5)
    difference, low, high, p = mcnemar(right_a, right_b)
    exact = 2 * sum(math.comb(15, k) for k in range(4)) / 2**15
    assert p == pytest.approx(exact)
    assert difference == pytest.approx(9 / 40)
    assert low < difference < high
    assert low > 0
    assert mcnemar(right_b, right_a)[0] == -difference


def test_mcnemar_of_two_surveys_of_the_same_persons() -> None:
    # Agresti, "Categorical Data Analysis" (2002), table 10.1: approval falls by .04, 95 % limits -0.06 to -0.02.
    right_a = np.repeat([True, True, False, False], [794, 86, 150, 570])
    right_b = np.repeat([True, False, True, False], [794, 86, 150, 570])
    difference, low, high, p = mcnemar(right_a, right_b)
    assert difference == pytest.approx(-0.04)
    assert (round(low, 2), round(high, 2)) == (-0.06, -0.02)
    assert p < 0.001


def test_networks_that_never_differ_are_not_different() -> None:
    right = np.array([True, False, True])
    difference, low, high, p = mcnemar(right, right)
    assert (difference, p) == (0, 1)
    assert low < 0 < high


def test_delong_is_used_where_each_patient_has_one_image_and_the_bootstrap_where_not() -> None:
    resamples = SharedResamples(400)
    a, b = predictions(2.0, 1), predictions(1.2, 2)
    found = compare([a], [b], "auroc", resamples)
    assert found.method == "DeLong"
    expected = delong_difference(a.probabilities[:, 0], b.probabilities[:, 0], a.labels == 0)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(expected)
    assert compare([a], [b], "accuracy", resamples).method == "McNemar, exact"
    assert compare([a], [b], "balanced_accuracy", resamples).method == "patient bootstrap, 400 resamples"

    several = [predictions(skill, seed, images_per_patient=3) for skill, seed in ((2.0, 1), (1.2, 2))]
    for metric in ("auroc", "accuracy"):
        found = compare([several[0]], [several[1]], metric, resamples)
        assert found.method == "patient bootstrap, 400 resamples"
        assert (found.num_images, found.num_patients) == (360, 120)


def test_the_bootstrap_agrees_with_delong_on_independent_images() -> None:
    a, b = predictions(2.0, 1, num_patients=300), predictions(1.2, 2, num_patients=300)
    by_delong = compare([a], [b], "auroc", SharedResamples(10))
    # A spread of zero changes nothing but the way.
    by_bootstrap = compare([a], [b], "auroc", SharedResamples(2000), SeedSpread(0.0, 5))
    assert by_bootstrap.method != by_delong.method
    assert by_bootstrap.value == pytest.approx(by_delong.value)
    assert by_delong.low is not None
    assert by_bootstrap.low == pytest.approx(by_delong.low, abs=0.012)
    assert by_bootstrap.high == pytest.approx(by_delong.high, abs=0.012)


def test_images_of_a_patient_are_no_independent_evidence() -> None:
    once = [predictions(skill, seed) for skill, seed in ((1.6, 1), (1.2, 2))]

    def three_times(one: Predictions) -> Predictions:
        places = np.repeat(np.arange(len(one.keys)), 3)
        tripled = one.take(places)
        keys = np.array([f"{key}-{copy}" for copy, key in enumerate(tripled.keys)], dtype=object)
        return Predictions(
            one.names, keys, tripled.probabilities, tripled.labels, tripled.groups, one.class_names, "covid", 0.5
        )

    resamples = SharedResamples(2000)
    alone = compare([once[0]], [once[1]], "balanced_accuracy", resamples)
    tripled = [three_times(one) for one in once]
    order = [np.argsort(one.keys.astype(str)) for one in tripled]
    copied = compare([tripled[0].take(order[0])], [tripled[1].take(order[1])], "balanced_accuracy", resamples)
    assert copied.num_images == 3 * alone.num_images
    assert copied.p == pytest.approx(alone.p, rel=0.2, abs=0.01)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Pairs of equally good networks on 40 patients with three images each: 5 % of the tests may be below 0.05."""
    alarms = 0
    num_pairs = 200
    for number in range(num_pairs):
        a = predictions(1.5, 2 * number, num_patients=40, images_per_patient=3)
        b = predictions(1.5, 2 * number + 1, num_patients=40, images_per_patient=3)
        found = compare([a], [b], "auroc", SharedResamples(200, seed=number))
        assert found.p is not None
        alarms += found.p < 0.05
    assert alarms <= 20  # more than 20 of 200 at a true rate of 5 % happen once in 900 trials


def test_the_spread_of_seeds_widens_the_limits() -> None:
    resamples = SharedResamples(400)
    a, b = predictions(1.8, 1, images_per_patient=2), predictions(1.2, 2, images_per_patient=2)
    without = compare([a], [b], "auroc", resamples)
    with_spread = compare([a], [b], "auroc", resamples, SeedSpread(0.03**2, 4))
    assert without.p is not None
    assert with_spread.p is not None
    assert with_spread.p > without.p
    assert "spread of the seeds" in with_spread.method
    more = compare([a, predictions(1.8, 3, images_per_patient=2)], [b], "auroc", resamples, SeedSpread(0.03**2, 4))
    assert _width(more) < _width(with_spread), "a second seed makes the mean of a configuration surer"


def _width(found: Difference) -> float:
    assert found.low is not None
    assert found.high is not None
    return found.high - found.low


def test_repeats_on_other_records_stand_against_their_like_only() -> None:
    first, second = slice(0, 60), slice(60, 120)
    a = [predictions(2.0, 1, name="a0", part=first), predictions(2.0, 2, name="a1", part=second)]
    b = [predictions(1.0, 3, name="b0", part=first), predictions(1.0, 4, name="b1", part=second)]
    found = compare(a, b, "auroc", SharedResamples(300))
    assert found.num_images == 120
    halves = [compare([a[k]], [b[k]], "auroc", SharedResamples(300)).value for k in range(2)]
    assert found.value == pytest.approx(np.mean([half for half in halves if half is not None]))
    lone = compare(a, b[:1], "auroc", SharedResamples(300))
    assert lone.num_images == 60
    assert lone.notes == ("1 repeats without a counterpart on the same images left out",)


def test_part_of_the_records_is_said_and_none_is_refused() -> None:
    resamples = SharedResamples(200)
    partly = compare(
        [predictions(2.0, 1, part=slice(0, 80))], [predictions(1.0, 2, part=slice(20, 120))], "auroc", resamples
    )
    assert partly.num_images == 60
    assert partly.notes == ("only 60 of 120 images are common to both",)
    apart = compare(
        [predictions(2.0, 1, part=slice(0, 60))], [predictions(1.0, 2, part=slice(60, 120))], "auroc", resamples
    )
    assert (apart.p, apart.reason) == (None, "they share no image")


def test_labels_that_disagree_are_refused() -> None:
    a, b = predictions(2.0, 1), predictions(1.0, 2)
    b.labels[:3] = 1 - b.labels[:3]
    found = compare([a], [b], "auroc", SharedResamples(50))
    assert found.p is None
    assert found.reason == "the labels of 3 of 120 images disagree"


def test_other_classes_and_too_few_patients_are_refused() -> None:
    a, b = predictions(2.0, 1), predictions(1.0, 2)
    swapped = Predictions(b.names, b.keys, b.probabilities, b.labels, b.groups, b.class_names, "other", 0.5)
    assert compare([a], [swapped], "auroc", SharedResamples(50)).reason == "their classes differ"
    few = [predictions(2.0, seed, num_patients=8, images_per_patient=4) for seed in (1, 2)]
    assert compare([few[0]], [few[1]], "auroc", SharedResamples(50)).reason == "8 patients are too few"


def test_patients_that_one_run_joins_stay_together() -> None:
    a, b = predictions(2.0, 1, images_per_patient=1), predictions(1.0, 2, images_per_patient=1)
    joined = b.groups.copy()
    joined[10:20] = "one family"
    found = compare(
        [a],
        [Predictions(b.names, b.keys, b.probabilities, b.labels, joined, b.class_names, "covid", 0.5)],
        "auroc",
        SharedResamples(100),
    )
    assert found.num_patients == 111
    assert found.method.startswith("patient bootstrap")
