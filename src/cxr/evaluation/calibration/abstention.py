"""Which images is it better not to answer?  A band of probabilities around the threshold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cxr.errors import ConfigurationError, DataError

_FORMS = "share=0.1, both=0.95 or between=0.3:0.7"
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class AbstainBand:
    """Images of ``low <= probability < high`` get no answer; below the band the answer is no, above it yes.

    Args:
        rule: how it was chosen, see :func:`choose_band`.
        low, high: probabilities of the positive class, with the threshold between them.

    Raises:
        DataError: limits that are no band.
    """

    rule: str
    low: float
    high: float

    def __post_init__(self) -> None:
        for limit in (self.low, self.high):
            if not isinstance(limit, (int, float)) or isinstance(limit, bool) or not math.isfinite(limit):
                raise DataError(f"abstain: {limit!r} is no limit of a band of probabilities")
        if not isinstance(self.rule, str) or not 0 <= self.low < self.high:
            raise DataError(f"abstain: {self.low} to {self.high} by rule {self.rule!r} is no band of probabilities")

    def holds(self, scores: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether each image (N,) gets no answer, by its probability of the positive class."""
        wide = scores.astype(np.float64)
        return np.asarray((wide >= self.low) & (wide < self.high))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: object) -> AbstainBand:
        """The reverse of `to_dict`.

        Raises:
            DataError: anything else.
        """
        if not isinstance(content, dict) or content.keys() != {"rule", "low", "high"}:
            raise DataError("abstain: not a table of rule, low and high")
        return cls(**content)


def parse_abstain(text: str) -> tuple[str, float, float]:
    """What an abstain rule asks: its kind and one or two numbers (the second is 1 where there is one).

    Args:
        text: ``share=0.1``, ``both=0.95`` or ``between=0.3:0.7``.

    Raises:
        ConfigurationError: another form, or numbers out of range.
    """
    kind, _, given = text.partition("=")
    try:
        numbers = [float(part) for part in given.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) != {"share": 1, "both": 1, "between": 2}.get(kind):
        raise ConfigurationError(f"abstain={text}: give {_FORMS}")
    if kind == "between":
        if not 0 <= numbers[0] < numbers[1] <= 1:
            raise ConfigurationError(f"abstain={text}: the two probabilities must rise, from 0 to 1")
        return kind, numbers[0], numbers[1]
    if not 0 < numbers[0] < 1:
        raise ConfigurationError(f"abstain={text}: give a number above 0 and below 1")
    return kind, numbers[0], 1.0


def choose_band(
    rule: str, scores: NDArray[np.floating], is_positive: NDArray[np.bool_], threshold: float
) -> AbstainBand | str:
    """Choose the band on the images that thresholds are chosen on.

    The band reaches equally far to both sides of the threshold in log-odds: which error of the two costs more is in the
    threshold already (Chow, "On optimum recognition error and reject tradeoff", 1970).

    - ``share=0.1``: the widest that holds no more than this share of the images.
    - ``both=0.95``: the narrowest that leaves images of both sides of which sensitivity and specificity reach this.
    - ``between=0.3:0.7``: these probabilities.

    Args:
        rule: one of the above.
        scores: (N,) probability of the positive class.
        is_positive: (N,).
        threshold: the probability from which an image is called positive.

    Returns:
        The band; or, where there is none, the reason.

    Raises:
        ConfigurationError: another rule.
    """
    kind, first, last = parse_abstain(rule)
    if kind == "between":
        if not first <= threshold <= last:
            return f"abstain={rule}: the threshold {threshold:.3g} lies outside"
        return AbstainBand(rule, first, last)
    wide = scores.astype(np.float64)
    centre = float(_logit(np.array(threshold)))
    distance = np.abs(_logit(wide) - centre)
    order = np.argsort(distance, kind="stable")
    # Images at one distance enter the band together.
    ends = np.flatnonzero(np.append(np.diff(distance[order]) > 0, True))
    held = ends + 1
    if kind == "share":
        fitting = np.flatnonzero(held <= first * len(wide) + 1e-9)
        if len(fitting) == 0:
            return f"abstain={rule}: the images nearest to the threshold are more than this share"
        chosen = int(fitting[-1])
    else:
        right = (scores >= threshold) == is_positive
        reached = np.ones(len(ends), dtype=bool)
        for side in (is_positive, ~is_positive):
            left = side.sum() - np.cumsum(side[order])[ends]
            found = (side & right).sum() - np.cumsum((side & right)[order])[ends]
            reached &= (left > 0) & (found >= first * left - 1e-9)
        if all((side & right).sum() >= first * side.sum() - 1e-9 for side in (is_positive, ~is_positive)):
            return f"abstain={rule}: reached without abstaining"
        if not reached.any():
            return f"abstain={rule}: no band around the threshold {threshold:.3g} reaches it"
        chosen = int(np.flatnonzero(reached)[0])
    last_held = float(distance[order[ends[chosen]]])
    next_free = float(distance[order[ends[chosen + 1]]])  # there is one: neither rule lets the band hold all
    # Halfway to the next image, so that a rounding cannot move one across.
    reach = (last_held + next_free) / 2
    low, high = min(float(expit(centre - reach)), threshold), max(float(expit(centre + reach)), threshold)
    return AbstainBand(rule, low, high) if low < high else f"abstain={rule}: the threshold lies at the end of the scale"


def _logit(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(np.maximum(probabilities, _SMALLEST)) - np.log(np.maximum(1 - probabilities, _SMALLEST)))
