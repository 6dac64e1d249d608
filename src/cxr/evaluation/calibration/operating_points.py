"""From which probability on is an image called positive?  Thresholds chosen on validation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.calibration.abstention import AbstainBand, choose_band, parse_abstain
from cxr.evaluation.metrics.curves import ThresholdRates, threshold_rates

# The rules that thresholds are chosen by unless others are asked for.
OPERATING_POINTS = ("youden", "sensitivity=0.95", "specificity=0.95")
_FORMS = "youden, sensitivity=0.95, specificity=0.95 or fixed=0.5"
# Rates are ratios of counts: two that are nearer than this are one.
_ROUNDING = 1e-9
# The threshold that no probability reaches.
_ABOVE_ONE = float(np.nextafter(np.float32(1), np.float32(2)))


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it gave where it was chosen.

    Args:
        name: in words.
        rule: how it was chosen, see :func:`choose_operating_points`.
        threshold: an image is called positive from this probability on.
        chosen_on: the split that it was chosen on.
        sensitivity, specificity: what it gives there, 0..1; None where that side has no image.
        abstain: images that get no answer; None: all get one.
        notes: what must be known of it, a sentence each.

    Raises:
        DataError: values that are no operating point.
    """

    name: str
    rule: str
    threshold: float
    chosen_on: str
    sensitivity: float | None
    specificity: float | None
    abstain: AbstainBand | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (self.name, self.rule, self.chosen_on, *self.notes)):
            raise DataError("operating point: name, rule, chosen_on and notes are not all text")
        if not _is_number(self.threshold) or not 0 <= self.threshold <= _ABOVE_ONE:
            raise DataError(f"operating point {self.name}: its threshold {self.threshold!r} is no probability")
        for rate in (self.sensitivity, self.specificity):
            if rate is not None and not (_is_number(rate) and 0 <= rate <= 1):
                raise DataError(f"operating point {self.name}: a rate of {rate!r}, not in 0 to 1")
        if self.abstain is not None and not self.abstain.low <= self.threshold <= self.abstain.high:
            raise DataError(f"operating point {self.name}: its threshold lies outside of its abstain band")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, content: object) -> OperatingPoint:
        """The reverse of `to_dict`.

        Raises:
            DataError: anything else.
        """
        if not isinstance(content, dict) or content.keys() != set(cls.__dataclass_fields__):
            raise DataError(f"operating point: not a table of {', '.join(cls.__dataclass_fields__)}")
        if not isinstance(content["notes"], list):
            raise DataError("operating point: its notes are no list")
        abstain = None if content["abstain"] is None else AbstainBand.from_dict(content["abstain"])
        return cls(**{**content, "abstain": abstain, "notes": tuple(content["notes"])})


def parse_rule(text: str) -> tuple[str, float]:
    """The kind of a rule and its number (1 for youden, which has none).

    Args:
        text: ``youden``, ``sensitivity=0.95``, ``specificity=0.95`` or ``fixed=0.5``.

    Raises:
        ConfigurationError: another form, or a number out of range.
    """
    if text == "youden":
        return text, 1.0
    kind, _, given = text.partition("=")
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if kind not in ("sensitivity", "specificity", "fixed") or math.isnan(number):
        raise ConfigurationError(f"operating_points={text}: give {_FORMS}")
    if not 0 < number <= 1:
        raise ConfigurationError(f"operating_points={text}: give a number above 0, at most 1")
    return kind, number


def rule_in_words(text: str) -> str:
    """The name of the operating point that a rule gives.

    Raises:
        ConfigurationError: see `parse_rule`.
    """
    kind, number = parse_rule(text)
    return {"youden": "Youden's index", "fixed": f"threshold {number}"}.get(kind, f"{kind} {number}")


def choose_operating_points(
    probabilities: NDArray[np.floating],
    labels: NDArray[np.integer],
    positive_index: int,
    rules: Sequence[str],
    *,
    abstain: str | None = None,
    chosen_on: str = "val",
) -> list[OperatingPoint]:
    """Choose a threshold by each rule.

    - ``youden``: the largest sensitivity + specificity - 1 (Youden, "Index for rating diagnostic tests", 1950); of
      equal ones that of the highest sensitivity.
    - ``sensitivity=0.95``: the largest threshold whose sensitivity reaches this.
    - ``specificity=0.95``: the smallest threshold whose specificity reaches this.
    - ``fixed=0.5``: this.

    All thresholds between two neighbouring probabilities give the same answers; the one halfway is taken, so that a
    rounding in another program cannot move an image across.

    Args:
        probabilities: (N, C) as they will be where the thresholds are applied: calibrated, if those are.
        labels: (N,) 0..C-1.
        positive_index: the column of the positive class; it stands against all others.
        rules: any of the above.
        abstain: the rule of a band of images that get no answer, see
            `cxr.evaluation.calibration.abstention.choose_band`.
        chosen_on: the split that these images are.

    Raises:
        ConfigurationError: a rule that is none, or one that is given twice.
        DataError: images of one side only, for a rule that needs both.
    """
    parsed = {rule: parse_rule(rule) for rule in rules}
    if len(parsed) < len(rules):
        raise ConfigurationError(f"operating_points=[{','.join(rules)}]: a rule comes twice; leave one out")
    if abstain is not None:
        parse_abstain(abstain)
    scores, is_positive = probabilities[:, positive_index], labels == positive_index
    points = []
    for rule, (kind, number) in parsed.items():
        if kind == "fixed":
            threshold, note = number, None
        elif is_positive.all() or not is_positive.any():
            raise DataError(
                f"operating_points={rule}: the {chosen_on} images are all on one side, so that no threshold can be "
                "chosen; give fixed=0.5"
            )
        else:
            threshold, note = _choose(threshold_rates(scores, is_positive), kind, number)
        notes = [] if note is None else [note]
        band = None if abstain is None else choose_band(abstain, scores, is_positive, threshold)
        if isinstance(band, str):
            notes.append(band)
            band = None
        called = scores >= threshold
        points.append(
            OperatingPoint(
                name=rule_in_words(rule),
                rule=rule,
                threshold=threshold,
                chosen_on=chosen_on,
                sensitivity=float(called[is_positive].mean()) if is_positive.any() else None,
                specificity=float((~called[~is_positive]).mean()) if not is_positive.all() else None,
                abstain=band,
                notes=tuple(notes),
            )
        )
    return points


def _choose(rates: ThresholdRates, kind: str, target: float) -> tuple[float, str | None]:
    """The threshold, and what must be said of it."""
    sensitivity, specificity = rates.sensitivity, 1 - rates.false_positive_rate
    note = None
    if kind == "youden":
        index = sensitivity + specificity - 1
        place = int(np.flatnonzero(index >= index.max() - _ROUNDING)[-1])
        if index.max() <= _ROUNDING:
            note = "no threshold tells the two sides apart better than chance"
    elif kind == "sensitivity":
        place = int(np.flatnonzero(sensitivity >= target - _ROUNDING)[0])
        if specificity[place] <= _ROUNDING:
            note = "reached only with a specificity of 0"
    else:
        place = int(np.flatnonzero(specificity >= target - _ROUNDING)[-1])
        if sensitivity[place] <= _ROUNDING:
            note = "reached only with a sensitivity of 0"
    # The images from `upper` on are called positive, those up to `lower` are not.
    upper = float(rates.thresholds[place]) if place > 0 else 1.0
    lower = float(rates.thresholds[place + 1]) if place + 1 < len(rates.thresholds) else 0.0
    if place == 0 and lower >= upper:  # nothing is to be called positive, not even a probability of 1
        return _ABOVE_ONE, note
    # Of float32, as the probabilities are: beside them any other number is rounded, to one side or the other.
    halfway = float(np.float32((lower + upper) / 2))
    return halfway if lower < halfway <= upper else upper, note


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
