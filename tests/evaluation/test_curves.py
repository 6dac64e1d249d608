from __future__ import annotations

import numpy as np
import pytest

from cxr.evaluation.curves import threshold_rates


def test_curve_passes_through_the_rates_of_every_threshold() -> None:
    generator = np.random.default_rng(3)
    is_positive = generator.random(300) < 0.3
    scores = np.round(np.clip(generator.normal(0.4 + 0.2 * is_positive, 0.2), 0, 1), 2).astype(np.float32)

    rates = threshold_rates(scores, is_positive)

    for place, threshold in enumerate(rates.thresholds):
        called = scores.astype(np.float64) >= threshold
        assert rates.sensitivity[place] == pytest.approx((called & is_positive).sum() / is_positive.sum())
        assert rates.false_positive_rate[place] == pytest.approx((called & ~is_positive).sum() / (~is_positive).sum())
        if called.any():
            assert rates.precision[place] == pytest.approx(is_positive[called].mean())
    assert len(rates.thresholds) == len(np.unique(scores)) + 1


def test_area_under_the_curve_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = np.random.default_rng(4)
    is_positive = generator.random(120) < 0.4
    scores = np.round(generator.normal(0.5 * is_positive, 0.5), 1)

    rates = threshold_rates(scores, is_positive)

    pairs = scores[is_positive][:, None] - scores[~is_positive][None, :]
    area = np.trapezoid(rates.sensitivity, rates.false_positive_rate)
    assert area == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_equal_scores_do_not_shape_the_curve() -> None:
    is_positive = np.array([True, False, True, False])
    rates = threshold_rates(np.full(4, 0.5), is_positive)
    assert rates.sensitivity.tolist() == [0.0, 1.0]
    assert rates.false_positive_rate.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("side", [True, False])
def test_one_sided_images_have_no_curve(side: bool) -> None:
    with pytest.raises(ValueError, match="both sides"):
        threshold_rates(np.array([0.1, 0.9]), np.array([side, side]))
