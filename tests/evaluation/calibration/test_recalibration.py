from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cxr.evaluation.calibration.recalibration import UNBOUNDED, log_odds, recalibration_line, resampled_lines


def drawn(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    odds = generator.normal(-1, 3, num_images)
    return odds, generator.random(num_images) < expit(0.5 * odds + 0.3)


@pytest.mark.parametrize("num_images", [60, 1500])
def test_lines_of_resamples_are_weighted_logistic_regressions(num_images: int) -> None:
    odds, is_positive = drawn(num_images)
    weights = np.random.default_rng(1).poisson(1.0, (150, num_images)).astype(np.uint16)
    line = recalibration_line(odds, is_positive)
    assert not isinstance(line, str)
    intercepts, slopes = resampled_lines(odds, is_positive, weights, line)
    for row in range(0, 150, 10):
        other = LogisticRegression(C=1e12, tol=1e-10, solver="newton-cholesky")
        other.fit(odds[:, None], is_positive, sample_weight=weights[row])
        assert slopes[row] == pytest.approx(other.coef_[0, 0], rel=2e-3)
        assert intercepts[row] == pytest.approx(other.intercept_[0], abs=2e-3)


def test_a_resample_without_overlap_or_without_a_side_is_told_apart() -> None:
    odds = np.array([-2.0, -1.0, 0.5, -0.5, 1.0, 2.0])
    is_positive = np.array([False, False, False, True, True, True])
    weights = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]], dtype=np.uint16)
    line = recalibration_line(odds, is_positive)
    assert not isinstance(line, str)
    _, slopes = resampled_lines(odds, is_positive, weights, line)
    assert slopes[0] == pytest.approx(line[1], rel=1e-3)
    assert slopes[1] > UNBOUNDED
    assert np.isnan(slopes[2])


def test_log_odds_are_finite_and_keep_what_float32_can_still_tell() -> None:
    table = np.array([[1.0, 0.0], [1.0, 1e-20], [0.5, 0.5], [0.0, 1.0]], dtype=np.float32)
    odds = log_odds(table, 0)
    assert np.isfinite(odds).all()
    assert odds[0] > odds[1] == pytest.approx(20 * np.log(10), rel=1e-6)
    np.testing.assert_allclose(odds, -log_odds(table, 1))
    assert log_odds(np.array([[0.5, 0.3, 0.2]]), 1)[0] == pytest.approx(np.log(0.3 / 0.7))
