from __future__ import annotations

import numpy as np
import pytest

from cxr.evaluation.metrics.curves import curve_bands, threshold_rates


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


def binormal(seed: int, patients: int, images: int = 1, decimals: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, which are positive, and the patients, whose images resemble each other."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), images)
    is_positive = groups % 5 < 2
    own = generator.normal(0, 0.8, patients)[groups] + generator.normal(0, 0.6, len(groups))
    return np.round(own + 1.2 * is_positive, decimals), is_positive, groups


@pytest.mark.parametrize("decimals", [0, 6])
def test_bands_hold_the_curves(decimals: int) -> None:
    scores, is_positive, groups = binormal(0, 400, decimals=decimals)
    bands = curve_bands(scores, is_positive, groups, num_resamples=200)
    assert bands is not None
    rates = threshold_rates(scores, is_positive)
    for band, x, y in (
        (bands.roc, rates.false_positive_rate, rates.sensitivity),
        (bands.precision_recall, rates.sensitivity, rates.precision),
    ):
        assert (band.low <= band.high).all()
        assert band.low.min() >= 0
        assert band.high.max() <= 1
        inside = (x > 0.02) & (x < 0.98)
        low, high = np.interp(x[inside], band.x, band.low), np.interp(x[inside], band.x, band.high)
        assert (low - 0.02 <= y[inside]).all()
        assert (y[inside] <= high + 0.02).all()


def test_bands_are_as_wide_as_the_rates_vary_over_resamples() -> None:
    scores, is_positive, groups = binormal(1, 500)
    bands = curve_bands(scores, is_positive, groups, num_resamples=600)
    assert bands is not None
    generator = np.random.default_rng(2)
    sensitivity, precision = [], []
    for _ in range(600):
        drawn = generator.integers(len(scores), size=len(scores))
        rates = threshold_rates(scores[drawn], is_positive[drawn])
        sensitivity.append(rates.sensitivity[rates.false_positive_rate <= 0.2].max())
        precision.append(rates.precision[1:][rates.sensitivity[1:] >= 0.6][0])
    for band, at, values in ((bands.roc, 0.2, sensitivity), (bands.precision_recall, 0.6, precision)):
        place = int(np.argmin(np.abs(band.x - at)))
        assert (band.low[place], band.high[place]) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.02)


def test_bands_are_wider_for_several_images_of_a_patient_than_for_as_many_patients() -> None:
    scores, is_positive, groups = binormal(3, 100, images=6)
    grouped = curve_bands(scores, is_positive, groups, num_resamples=200)
    ungrouped = curve_bands(scores, is_positive, np.arange(600), num_resamples=200)
    assert grouped is not None
    assert ungrouped is not None
    for ours, theirs in ((grouped.roc, ungrouped.roc), (grouped.precision_recall, ungrouped.precision_recall)):
        assert (ours.high - ours.low).mean() > 1.4 * (theirs.high - theirs.low).mean()


def test_no_band_is_drawn_that_would_have_no_width() -> None:
    scores, is_positive, groups = binormal(4, 60)
    assert curve_bands(scores, is_positive, groups, num_resamples=50) is not None
    assert curve_bands(is_positive.astype(float), is_positive, groups, num_resamples=50) is None
    few = is_positive & (groups < 20)
    assert curve_bands(scores, few, groups, num_resamples=50) is None
