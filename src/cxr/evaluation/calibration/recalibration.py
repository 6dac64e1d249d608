"""How do the log-odds of truth run against the predicted ones?  Logistic regression on one score, also resampled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

# A probability below it counts as this: the smallest normal float32, so that no logarithm is infinite.
SMALLEST = float(np.finfo(np.float32).tiny)
UNBOUNDED = 1e6  # no slope that means anything lies beyond
_CHUNK = 100_000  # weights worked on at a time: arrays of this size stay in a processor's cache
_MAX_STEPS = 25


def log_odds(probabilities: NDArray[np.floating], index: int) -> NDArray[np.float64]:
    """Log-odds (N,) of one class against all others, finite.

    From the sum of the others, not from 1 - p, which in float32 is 0 where they hold up to 6e-8.

    Args:
        probabilities: (N, C).
        index: the class.
    """
    wide = np.asarray(probabilities, dtype=np.float64)
    rest = np.delete(wide, index, axis=1).sum(axis=1)
    return np.asarray(np.log(np.maximum(wide[:, index], SMALLEST)) - np.log(np.maximum(rest, SMALLEST)))


def fit_logistic(scores: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[float, float]:
    """Intercept and slope of the logistic regression of targets on one score, by maximum likelihood, no penalty.

    Args:
        scores: (N,), not all equal.
        targets: (N,) 0..1; where they are only 0 and 1 they must overlap in the scores, else no maximum exists.
    """
    centre, spread = float(scores.mean()), float(scores.std())
    design = np.stack([np.ones_like(scores), (scores - centre) / spread], axis=1)
    num_images = len(scores)

    def loss(line: NDArray[np.float64]) -> float:
        eta = design @ line
        return float((np.logaddexp(0.0, eta) - targets * eta).mean())

    def gradient(line: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(design.T @ (expit(design @ line) - targets) / num_images)

    def curvature(line: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = expit(design @ line)
        return np.asarray((design.T * (mean * (1 - mean))) @ design / num_images)

    found = minimize(
        loss, np.zeros(2), jac=gradient, hess=curvature, method="trust-exact", options={"gtol": 1e-9, "maxiter": 500}
    )
    slope = float(found.x[1]) / spread
    return float(found.x[0]) - slope * centre, slope


def recalibration_line(odds: NDArray[np.float64], is_positive: NDArray[np.bool_]) -> tuple[float, float] | str:
    """Intercept and slope of the log-odds of truth on the predicted log-odds; 0 and 1 where the predictions hold.

    Cox, "Two further applications of a model for binary regression", 1958. A slope below 1: the predictions are too
    extreme; above 1: too timid. Maximum likelihood, no penalty.

    Args:
        odds: (N,) predicted log-odds.
        is_positive: (N,).

    Returns:
        (intercept, slope), or the reason why there is none.
    """
    if is_positive.all() or not is_positive.any():
        return "every image is on one side"
    if np.ptp(odds) == 0:
        return "every image has the same probability"
    positives, negatives = odds[is_positive], odds[~is_positive]
    if positives.min() >= negatives.max() or negatives.min() >= positives.max():
        return "the two sides do not overlap: the slope has no bound"
    return fit_logistic(odds, is_positive.astype(np.float64))


def resampled_lines(
    odds: NDArray[np.float64], is_positive: NDArray[np.bool_], weights: NDArray[np.uint16], start: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The recalibration line in each resample, by Newton's method from that of the data.

    In float32, which errs far less than a resample does from the next.

    Args:
        odds: (N,) predicted log-odds.
        is_positive: (N,).
        weights: (R, N) how often each image stands in each resample.
        start: from :func:`recalibration_line`.

    Returns:
        Intercepts and slopes, (R,) each. Where the sides of a resample do not overlap, the slope has no bound: it is
        given as a number beyond ``UNBOUNDED``. NaN where there is no line for another reason.
    """
    scale = float(odds.std())  # brought to a spread of 1, the sums keep their digits
    scores = (odds / scale).astype(np.float32)
    truth = is_positive.astype(np.float32)
    powers = np.stack([np.ones_like(scores), scores, scores**2], axis=1)
    upwards = np.argsort(scores)
    positives, negatives = upwards[is_positive[upwards]], upwards[~is_positive[upwards]][::-1]
    intercepts, slopes = np.empty(len(weights)), np.empty(len(weights))
    at_a_time = max(1, _CHUNK // len(scores))
    for first in range(0, len(weights), at_a_time):
        counts = weights[first : first + at_a_time].astype(np.float32)
        line = np.tile([start[0], start[1] * scale], (len(counts), 1))
        converged = np.zeros(len(counts), dtype=bool)
        for _ in range(_MAX_STEPS):
            step, gain = _newton_step(counts, line, scores, truth, powers)
            line = line + step
            # Newton squares its error with each step: after one this small, none is left that a limit would show.
            converged = gain < 1e-3
            if (converged | np.isnan(gain)).all():
                break
        num_positives, num_images = counts @ truth, counts.sum(axis=1)
        line[~converged | (num_positives == 0) | (num_positives == num_images)] = np.nan
        # Newton's steps on sides that lie apart shrink too, on their way to infinity: their convergence means nothing.
        gap = _gap_between_sides(counts, scores, positives, negatives)
        apart = ~np.isnan(gap)
        line[apart, 0], line[apart, 1] = -10 * UNBOUNDED * gap[apart], 10 * UNBOUNDED
        intercepts[first : first + at_a_time], slopes[first : first + at_a_time] = line[:, 0], line[:, 1]
    return intercepts, slopes / scale


def _newton_step(
    counts: NDArray[np.float32],
    line: NDArray[np.float64],
    scores: NDArray[np.float32],
    truth: NDArray[np.float32],
    powers: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The step (R, 2), and twice the log-likelihood (R,) that it is about to gain."""
    intercept, slope = line.astype(np.float32).T
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        mean = 1 / (1 + np.exp(-(intercept[:, None] + slope[:, None] * scores)))
        pull = ((truth - mean) * counts) @ powers[:, :2]
        mean *= 1 - mean
        mean *= counts
        bend = (mean @ powers).astype(np.float64)
        determinant = bend[:, 0] * bend[:, 2] - bend[:, 1] ** 2
        step = np.stack(
            [
                (bend[:, 2] * pull[:, 0] - bend[:, 1] * pull[:, 1]) / determinant,
                (bend[:, 0] * pull[:, 1] - bend[:, 1] * pull[:, 0]) / determinant,
            ],
            axis=1,
        )
        return step, np.abs((step * pull).sum(axis=1))


def _gap_between_sides(
    counts: NDArray[np.float32],
    scores: NDArray[np.float32],
    positives: NDArray[np.intp],
    negatives: NDArray[np.intp],
) -> NDArray[np.float64]:
    """The middle (R,) between the highest negative and the lowest positive; NaN where they overlap or one lacks.

    The positives are given from the lowest score upwards, the negatives from the highest downwards.
    """
    held_positives, held_negatives = counts[:, positives] > 0, counts[:, negatives] > 0
    lowest = scores[positives][held_positives.argmax(axis=1)].astype(np.float64)
    highest = scores[negatives][held_negatives.argmax(axis=1)].astype(np.float64)
    apart = held_positives.any(axis=1) & held_negatives.any(axis=1) & (lowest >= highest)
    return np.where(apart, (lowest + highest) / 2, np.nan)
