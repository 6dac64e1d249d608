from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cxr.statistics.resampling import MIN_GROUPS, bounded_interval, patient_resamples, percentile_interval


def patients(generator: np.random.Generator, number: int) -> tuple[list[str], np.ndarray]:
    """One to five images of each patient, all of one class."""
    sizes = generator.integers(1, 6, number)
    labels = generator.integers(0, 2, number)
    return [f"p{patient}" for patient in np.repeat(np.arange(number), sizes)], np.repeat(labels, sizes)


def test_the_images_of_a_patient_come_and_go_together_and_as_many_patients_are_drawn_as_there_are() -> None:
    groups, labels = patients(np.random.default_rng(0), 80)
    resamples = patient_resamples(groups, labels, num_resamples=50)
    assert resamples.shape == (50, len(groups))
    names = np.array(groups)
    times_drawn = np.stack([resamples[:, names == name][:, 0] for name in np.unique(names)], axis=1)
    for place, name in enumerate(np.unique(names)):
        assert (resamples[:, names == name] == times_drawn[:, [place]]).all()
    assert (times_drawn.sum(axis=1) == 80).all()
    assert len(np.unique(resamples, axis=0)) == 50


def test_each_patient_is_drawn_as_often_as_chance_has_it() -> None:
    groups = [f"p{number}" for number in range(MIN_GROUPS * 3)]
    resamples = patient_resamples(groups, np.arange(MIN_GROUPS * 3) % 2, num_resamples=4000)
    counts = np.bincount(resamples.ravel(), minlength=5)[:5] / resamples.size
    expected = stats.binom.pmf(np.arange(5), len(groups), 1 / len(groups))
    assert counts == pytest.approx(expected, abs=0.003)


def test_the_same_patients_are_drawn_in_whatever_order_the_images_come() -> None:
    groups, labels = patients(np.random.default_rng(1), 60)
    order = np.random.default_rng(2).permutation(len(groups))
    there = patient_resamples(groups, labels, num_resamples=20, seed=5)
    shuffled = patient_resamples([groups[place] for place in order], labels[order], num_resamples=20, seed=5)
    assert (there[:, order] == shuffled).all()
    assert (there != patient_resamples(groups, labels, num_resamples=20, seed=6)).any()


@pytest.mark.parametrize("number", [1, 2, MIN_GROUPS - 1])
def test_a_class_of_few_patients_never_vanishes(number: int) -> None:
    groups = [f"p{place}" for place in range(200)]
    labels = (np.arange(200) < number).astype(np.int64)
    resamples = patient_resamples(groups, labels, num_resamples=3000)
    assert (resamples[:, labels == 1].sum(axis=1) == number).all()
    assert (resamples.sum(axis=1) == 200).all()


def test_a_class_that_stands_only_beside_others_in_few_patients_never_vanishes() -> None:
    # Class 2 is in three patients, who have images of class 0 too.
    groups = [f"p{place}" for place in range(100)] + ["p0", "p1", "p2"]
    labels = np.array([0] * 60 + [1] * 40 + [2] * 3)
    resamples = patient_resamples(groups, labels, num_resamples=2000)
    for label in range(3):
        assert (resamples[:, labels == label].sum(axis=1) > 0).all()


def test_classes_of_many_patients_vary_in_size_as_they_would_among_other_patients() -> None:
    groups = [f"p{place}" for place in range(200)]
    labels = (np.arange(200) < 60).astype(np.int64)
    sizes = patient_resamples(groups, labels, num_resamples=3000)[:, labels == 1].sum(axis=1)
    assert sizes.std() == pytest.approx(np.sqrt(200 * 0.3 * 0.7), rel=0.06)


@pytest.mark.parametrize(("groups", "labels"), [(["a"], [0, 1]), ([], [])])
def test_images_without_a_patient_are_refused(groups: list[str], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="groups"):
        patient_resamples(groups, np.array(labels, dtype=np.int64))


def test_percentile_limits_are_those_of_scipy() -> None:
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 5, 60)
    patient = np.repeat(np.arange(60), sizes)
    values = generator.normal(generator.random(60)[patient], 0.3)
    resamples = patient_resamples(patient, np.arange(len(patient)) % 2, num_resamples=6000)
    ours = percentile_interval(resamples @ values / resamples.sum(axis=1))
    theirs = stats.bootstrap(
        (np.bincount(patient, values), sizes),
        lambda found, total, axis: found.sum(axis=axis) / total.sum(axis=axis),
        paired=True,
        n_resamples=6000,
        method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_undefined_resamples_are_left_out_until_they_are_the_most() -> None:
    values = np.linspace(0.0, 1.0, 101)
    assert percentile_interval(np.append(values, [np.nan] * 101)) == pytest.approx((0.025, 0.975))
    assert percentile_interval(np.append(values, [np.nan] * 102)) is None
    assert bounded_interval(0.5, np.append(values, [np.nan] * 102), 50) is None


def test_bounded_limits_stay_within_the_ends_and_agree_with_the_plain_ones_far_from_them() -> None:
    generator = np.random.default_rng(5)
    low, high = bounded_interval(0.5, generator.normal(0.5, 0.01, 100_000), 100_000) or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.5 - 0.0196, 0.5 + 0.0196), abs=2e-4)
    low, high = bounded_interval(0.99, np.clip(generator.normal(0.99, 0.01, 1000), 0, 1), 40) or (0.0, 0.0)
    assert 0.9 < low < 0.98 < 0.99 < high < 1.0
    low, high = bounded_interval(0.01, generator.normal(0.01, 0.004, 1000), 40, highest=np.inf) or (0.0, 0.0)
    assert 0.0 < low < 0.01 < high
    low, high = bounded_interval(-0.98, generator.normal(-0.98, 0.02, 1000), 40, lowest=-1.0) or (0.0, 0.0)
    assert -1.0 < low < -0.98 < high


def test_bounded_limits_of_a_mean_of_few_patients_are_those_of_student() -> None:
    values = np.random.default_rng(6).normal(0.5, 0.02, 12)
    resamples = patient_resamples(np.arange(12), np.zeros(12, dtype=np.int64), num_resamples=20_000)
    theirs = stats.t.interval(0.95, 11, values.mean(), stats.sem(values))
    ours = bounded_interval(float(values.mean()), resamples @ values / 12, 12)
    assert ours is not None
    assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0], rel=0.02)


def test_a_value_at_an_end_and_resamples_that_do_not_differ_have_no_bounded_limits() -> None:
    assert bounded_interval(1.0, np.linspace(0.9, 1.0, 100), 50) is None
    assert bounded_interval(0.5, np.full(100, 0.5), 50) is None
