from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cxr.statistics.intervals import (
    Interval,
    auroc_score,
    combine,
    delong,
    delong_difference,
    wilson,
    wilson_by_patient,
)

Z = stats.norm.ppf(0.975)


@pytest.mark.parametrize(("successes", "total", "limits"), [(75, 78, ("0.893", "0.987")), (10, 12, ("0.552", "0.953"))])
def test_wilson_gives_the_known_values(successes: int, total: int, limits: tuple[str, str]) -> None:
    interval = wilson(successes, total)
    assert (f"{interval.low:.3f}", f"{interval.high:.3f}") == limits
    assert interval.method == "Wilson"


@pytest.mark.parametrize(("successes", "total"), [(0, 1), (1, 1), (0, 9), (9, 9), (3, 7), (50, 1000)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_agrees_with_scipy(successes: int, total: int, level: float) -> None:
    theirs = stats.binomtest(successes, total).proportion_ci(level, method="wilson")
    ours = wilson(successes, total, level=level)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("successes", "total"), [(0, 0), (3, 2), (-1, 2)])
def test_a_proportion_of_nothing_is_refused(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, total)


def test_one_image_of_each_patient_is_plain_wilson() -> None:
    is_success = np.arange(30) % 3 > 0
    assert wilson_by_patient(is_success, [str(place) for place in range(30)]) == wilson(20, 30)


def test_patients_whose_images_repeat_each_other_count_once() -> None:
    generator = np.random.default_rng(0)
    by_patient = generator.random(60) < 0.7
    clustered = wilson_by_patient(by_patient.repeat(5), np.arange(60).repeat(5))
    alone, naive = wilson(by_patient.sum(), 60), wilson(5 * by_patient.sum(), 300)
    assert clustered is not None
    # Student's t for 59 differences in place of the normal, and 60 / 59 in the variance: a little wider.
    assert clustered.high - clustered.low == pytest.approx(alone.high - alone.low, rel=0.04)
    assert clustered.high - clustered.low > alone.high - alone.low > 1.5 * (naive.high - naive.low)


def test_images_of_a_patient_that_differ_as_those_of_others_do_count_one_by_one() -> None:
    generator = np.random.default_rng(1)
    is_success = generator.random(2000) < 0.7
    clustered = wilson_by_patient(is_success, np.arange(400).repeat(5))
    naive = wilson(is_success.sum(), 2000)
    assert clustered is not None
    assert clustered.high - clustered.low == pytest.approx(naive.high - naive.low, rel=0.1)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_has_a_width_by_the_number_of_patients(right: bool) -> None:
    interval = wilson_by_patient(np.full(40, right), np.arange(10).repeat(4))
    assert interval is not None
    expected = wilson(10 * right, 10)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_several_images_of_one_patient_have_no_interval() -> None:
    assert wilson_by_patient(np.array([True, False, True]), ["a", "a", "a"]) is None
    assert wilson_by_patient(np.array([True]), ["a"]) == wilson(1, 1)


def binormal(seed: int, positives: int, negatives: int, decimals: int = 8) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    is_positive = np.arange(positives + negatives) < positives
    order = generator.permutation(len(is_positive))
    scores = np.round(generator.normal(1.2 * is_positive, 1.0), decimals)
    return scores[order], is_positive[order]


def placements(scores: np.ndarray, is_positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's components by their definition: every pair, a tie counting half."""
    pairs = scores[is_positive][:, None] - scores[~is_positive][None, :]
    won = (pairs > 0) + 0.5 * (pairs == 0)
    return won.mean(axis=1), won.mean(axis=0)


@pytest.mark.parametrize("decimals", [0, 8])
def test_delong_agrees_with_its_definition(decimals: int) -> None:
    scores, is_positive = binormal(2, 23, 41, decimals)
    of_positives, of_negatives = placements(scores, is_positive)
    area = of_positives.mean()
    error = np.sqrt(np.var(of_positives, ddof=1) / 23 + np.var(of_negatives, ddof=1) / 41)
    logit, half = np.log(area / (1 - area)), Z * error / (area * (1 - area))
    expected = [1 / (1 + np.exp(-end)) for end in (logit - half, logit + half)]
    interval = delong(scores, is_positive)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-12)
    assert interval.method == "DeLong"


def test_delong_of_patients_agrees_with_the_definition_of_obuchowski() -> None:
    scores, is_positive = binormal(8, 30, 50, 1)
    groups = np.random.default_rng(9).integers(0, 35, 80)  # patients with images of both sides among them
    of_positives, of_negatives = placements(scores, is_positive)
    area = of_positives.mean()
    sums: list[list[float]] = []
    for group in np.unique(groups):
        own = [of_positives[groups[is_positive] == group], of_negatives[groups[~is_positive] == group]]
        sums.append([float((values - area).sum()) for values in own])
    x, y = np.array(sums).T
    num_x, num_y, num = (len(np.unique(groups[side])) for side in (is_positive, ~is_positive, slice(None)))
    s10, s01 = num_x / (num_x - 1) / 30 * (x @ x), num_y / (num_y - 1) / 50 * (y @ y)
    s11 = num / (num - 1) * (x @ y)
    error = np.sqrt(s10 / 30 + s01 / 50 + 2 * s11 / (30 * 50))
    logit, half = np.log(area / (1 - area)), Z * error / (area * (1 - area))
    expected = [1 / (1 + np.exp(-end)) for end in (logit - half, logit + half)]
    interval = delong(scores, is_positive, groups)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-12)
    assert "Obuchowski" in interval.method


def test_copies_of_an_image_add_nothing_to_delong() -> None:
    scores, is_positive = binormal(10, 25, 35)
    alone = delong(scores, is_positive, [str(place) for place in range(60)])
    assert alone == delong(scores, is_positive)
    copied = delong(scores.repeat(4), is_positive.repeat(4), np.arange(60).repeat(4))
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    perfect = np.arange(20) < 10
    few = delong(perfect.repeat(4).astype(float), perfect.repeat(4), np.arange(20).repeat(4))
    assert few == auroc_score(1.0, 10, 10)


def test_delong_of_patients_covers_the_true_area_where_plain_delong_does_not() -> None:
    num_patients, repetitions, true = 80, 400, float(stats.norm.cdf(1.2 / np.sqrt(2)))
    covered = {"clustered": 0, "plain": 0}
    for seed in range(repetitions):
        generator = np.random.default_rng(seed)
        group = np.repeat(np.arange(num_patients), generator.integers(1, 8, num_patients))
        # A third of the patients have images of both sides; what their images share is most of what differs.
        shared = generator.integers(0, 3, num_patients)
        is_positive = np.where(shared[group] == 2, generator.random(len(group)) < 0.5, shared[group] == 1)
        own = np.sqrt(0.3) * generator.normal(size=len(group))
        scores = np.sqrt(0.7) * generator.normal(size=num_patients)[group] + own + 1.2 * is_positive
        for name, groups in (("clustered", group), ("plain", None)):
            interval = delong(scores, is_positive, groups)
            covered[name] += interval.low <= true <= interval.high
    # Of 95 % in 400 repetitions three standard errors are 3.3 %.
    assert covered["clustered"] / repetitions > 0.917
    assert covered["plain"] / repetitions < 0.87


@pytest.mark.parametrize("decimals", [0, 8])
def test_the_difference_of_two_areas_agrees_with_its_definition(decimals: int) -> None:
    scores, is_positive = binormal(3, 30, 50, decimals)
    other = np.round(scores + np.random.default_rng(4).normal(0, 1, 80), decimals)
    (positives_a, negatives_a), (positives_b, negatives_b) = (
        placements(scores, is_positive),
        placements(other, is_positive),
    )
    covariances = [
        np.cov(np.stack(pair), ddof=1) / len(pair[0])
        for pair in ((positives_a, positives_b), (negatives_a, negatives_b))
    ]
    contrast = np.array([1.0, -1.0])
    error = np.sqrt(contrast @ sum(covariances) @ contrast)
    difference = positives_a.mean() - positives_b.mean()
    p = 2 * (1 - stats.norm.cdf(abs(difference) / error))
    expected = (difference, difference - Z * error, difference + Z * error, p)
    assert delong_difference(scores, other, is_positive) == pytest.approx(expected, abs=1e-12)


def test_equal_order_is_no_difference_and_what_cannot_be_known_is_nan() -> None:
    scores, is_positive = binormal(5, 10, 10)
    assert delong_difference(scores, np.exp(scores), is_positive) == (0.0, 0.0, 0.0, 1.0)
    difference, *rest = delong_difference(is_positive.astype(float), np.zeros(20), is_positive)
    assert difference == 0.5
    assert np.isnan(rest).all()


def test_a_perfect_area_has_a_width_that_shrinks_with_the_images() -> None:
    widths = []
    for number in (3, 10, 100):
        is_positive = np.arange(2 * number) < number
        interval = delong(is_positive.astype(float), is_positive)
        assert interval.high == 1.0
        assert interval.method != "DeLong"
        widths.append(1 - interval.low)
    assert 0.6 > widths[0] > widths[1] > widths[2] > 0.01


@pytest.mark.parametrize("area", [0.0, 0.3, 0.5, 0.93, 1.0])
def test_the_score_limits_of_an_area_are_where_it_is_just_plausible(area: float) -> None:
    positives, negatives = 8, 30
    interval = auroc_score(area, positives, negatives)
    for limit in {interval.low, interval.high} - {0.0, 1.0}:
        # Newcombe's variance at the limit, spelled out.
        middle = (positives + negatives) / 2 - 1
        spread = 1 + middle * (1 - limit) / (2 - limit) + middle * limit / (1 + limit)
        variance = limit * (1 - limit) * spread / (positives * negatives)
        assert abs(area - limit) / np.sqrt(variance) == pytest.approx(Z, rel=1e-6)
    assert 0 <= interval.low <= area <= interval.high <= 1
    mirrored = auroc_score(1 - area, positives, negatives)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_an_area_of_one_side_is_refused() -> None:
    for call in (
        lambda: delong(np.array([0.1, 0.2]), np.array([True, True])),
        lambda: auroc_score(0.5, 0, 3),
    ):
        with pytest.raises(ValueError, match="both sides"):
            call()


def test_rates_are_combined_as_newcombe_does_for_a_difference() -> None:
    # Newcombe, "Interval estimation for the difference between independent proportions", 1998: 56 of 70 against 48 of
    # 80, method 10, gives 0.0524 to 0.3339.
    interval = combine(lambda rates: rates[0] - rates[1], [56 / 70, 48 / 80], [wilson(56, 70), wilson(48, 80)])
    assert (interval.low, interval.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_rate_that_cannot_move_the_number_adds_nothing() -> None:
    interval = combine(lambda rates: rates[0], [0.5, 0.2], [Interval(0.4, 0.7, ""), Interval(0.0, 1.0, "")])
    assert (interval.low, interval.high) == pytest.approx((0.4, 0.7))
