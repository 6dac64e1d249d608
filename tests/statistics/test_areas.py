from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr.statistics.areas import area_interval, areas_within, resampled_areas, share_above_chance
from cxr.statistics.intervals import auroc_score
from cxr.statistics.resampling import MIN_GROUPS


def drawn(num: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounded scores (so that some are equal), labels, and how often each image stands in 20 resamples."""
    generator = np.random.default_rng(seed)
    is_positive = generator.random(num) < 0.4
    scores = np.round(generator.normal(is_positive.astype(float)), 1)
    return scores, is_positive, generator.integers(0, 4, (20, num)).astype(np.uint16)


def repeated(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.repeat(values, counts)


def test_an_image_that_is_drawn_twice_counts_as_two() -> None:
    scores, is_positive, weights = drawn()
    expected = [roc_auc_score(repeated(is_positive, row), repeated(scores, row)) for row in weights]
    assert areas_within(scores, is_positive, weights) == pytest.approx(expected)
    sides = [np.flatnonzero(side)[scores[side].argsort()] for side in (is_positive, ~is_positive)]
    direct = resampled_areas(scores[sides[0]], scores[sides[1]], weights[:, sides[0]], weights[:, sides[1]])
    assert direct == pytest.approx(expected)


def test_only_images_of_one_stratum_are_compared() -> None:
    scores, is_positive, weights = drawn()
    strata = np.arange(len(scores)) % 3
    for row, found in zip(weights, areas_within(scores, is_positive, weights, strata), strict=True):
        in_order = pairs = 0.0
        for one in np.flatnonzero(is_positive):
            for other in np.flatnonzero(~is_positive & (strata == strata[one])):
                times = float(row[one]) * float(row[other])
                pairs += times
                in_order += times * ((scores[one] > scores[other]) + 0.5 * (scores[one] == scores[other]))
        assert found == pytest.approx(in_order / pairs)
    # Another model answers each fold; that it answers higher throughout says nothing of the images.
    shifted = scores + 100 * strata
    assert areas_within(shifted, is_positive, weights, strata) == pytest.approx(
        areas_within(scores, is_positive, weights, strata)
    )


def test_without_a_pair_there_is_no_area() -> None:
    scores, is_positive, weights = drawn()
    none = weights * ~is_positive
    assert np.isnan(areas_within(scores, is_positive, none.astype(np.uint16))).all()


def test_few_patients_and_perfect_scores_get_the_interval_that_has_a_width() -> None:
    areas = np.full(200, 1.0)
    perfect = area_interval(1.0, areas, 40, 50)
    expected = auroc_score(1.0, 40, 50)
    assert (perfect.low, perfect.high) == (expected.low, expected.high)
    spread = np.random.default_rng(0).normal(0.8, 0.03, 200)
    few = area_interval(0.8, spread, MIN_GROUPS - 1, 50)
    assert (few.low, few.high) == (auroc_score(0.8, MIN_GROUPS - 1, 50).low, auroc_score(0.8, MIN_GROUPS - 1, 50).high)
    many = area_interval(0.8, spread, MIN_GROUPS, 50)
    assert "bootstrap" in many.method
    assert many.low < np.quantile(spread, 0.05)
    assert many.high > np.quantile(spread, 0.95)


def test_the_share_is_of_what_lies_above_chance() -> None:
    generator = np.random.default_rng(0)
    reference = np.append(0.9, generator.normal(0.9, 0.02, 500))
    half = 0.5 + (reference - 0.5) / 2
    share = share_above_chance(half, reference, 0.85, MIN_GROUPS, of="the whole")
    assert [share[key] for key in ("value", "low", "high")] == pytest.approx([0.5, 0.5, 0.5])
    noisy = np.append(0.7, generator.normal(0.7, 0.03, 500))
    share = share_above_chance(noisy, reference, 0.85, MIN_GROUPS, of="the whole")
    ratios = (noisy[1:] - 0.5) / (reference[1:] - 0.5)
    assert share["value"] == pytest.approx(0.5)
    assert (share["low"], share["high"]) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])))


def test_there_is_no_share_of_what_is_not_shown_to_be_there() -> None:
    areas = np.full(101, 0.7)
    nothing = share_above_chance(areas, areas, 0.5, 30, of="the whole")
    assert (nothing["value"], nothing["low"], nothing["high"]) == (None, None, None)
    assert "the whole is not shown to be above chance" in nothing["reason"]
    few = share_above_chance(areas, areas, 0.6, MIN_GROUPS - 1, of="the whole")
    assert few["value"] == pytest.approx(1.0)
    assert few["low"] is None
    assert f"{MIN_GROUPS - 1} patients" in few["reason"]
