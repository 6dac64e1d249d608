"""How does a probability become one that can be taken at its word?  Temperature, Platt and isotonic scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, isotonic_regression
from scipy.special import expit, log_softmax, softmax

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.calibration.recalibration import SMALLEST, fit_logistic, log_odds

METHODS = ("none", "temperature", "platt", "isotonic")
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
# Below about so many images isotonic regression does worse than Platt's two numbers (Niculescu-Mizil & Caruana,
# "Predicting good probabilities with supervised learning", 2005).
_FEW_FOR_ISOTONIC = 1000
_PARAMETERS = {"none": (), "temperature": ("temperature",), "platt": ("slopes", "intercepts"),
               "isotonic": ("scores", "values")}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration: plain numbers, made by :func:`fit_calibration` or read from a file.

    Args:
        method: one of ``METHODS``.
        classes: names of the C classes in the order of the columns.
        temperature: of 'temperature': what the logits are divided by.
        slopes, intercepts: of 'platt', (C,): log-odds of a class against the rest become slope * them + intercept.
        scores, values: of 'isotonic', for each class the corners of a rising line from score to probability.
        notes: what must be known of the fit, a sentence each.

    Raises:
        DataError: numbers that are no calibration.
    """

    method: str
    classes: tuple[str, ...]
    temperature: float | None = None
    slopes: tuple[float, ...] = ()
    intercepts: tuple[float, ...] = ()
    scores: tuple[tuple[float, ...], ...] = ()
    values: tuple[tuple[float, ...], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem is not None:
            raise DataError(f"calibration: {problem}")

    def apply(self, probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
        """The calibrated probabilities.

        A temperature keeps the order of the classes within an image, and with two classes also the order of the images;
        Platt keeps the latter where its slope is positive; isotonic regression makes ties of some.

        Args:
            probabilities: (N, C) of the network, rows sum to 1.

        Returns:
            (N, C), rows sum to 1; isotonic regression may answer exactly 0 or 1.

        Raises:
            DataError: no probabilities of these classes.
        """
        table = _checked(probabilities, len(self.classes))
        if self.method == "none":
            return table.astype(np.float32)
        if self.method == "temperature":
            assert self.temperature is not None
            return np.asarray(softmax(_logs(table) / self.temperature, axis=1), dtype=np.float32)
        if self.method == "platt":
            odds = np.stack([log_odds(table, place) for place in range(table.shape[1])], axis=1)
            against_rest = expit(odds * np.array(self.slopes) + np.array(self.intercepts))
        else:
            lines = zip(table.T, self.scores, self.values, strict=True)
            against_rest = np.stack([np.interp(column, scores, values) for column, scores, values in lines], axis=1)
        # Where every class got 0, nothing was learnt of such an image: it keeps what the network said.
        against_rest = np.where(against_rest.sum(axis=1, keepdims=True) > 0, against_rest, table)
        return np.asarray(against_rest / against_rest.sum(axis=1, keepdims=True), dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Method, classes, notes and the parameters of the method, ready for JSON."""
        content = asdict(self)
        kept = ("method", "classes", *_PARAMETERS[self.method], "notes")
        return {key: _as_lists(content[key]) for key in kept}

    @classmethod
    def from_dict(cls, content: object) -> Calibration:
        """The reverse of `to_dict`.

        Raises:
            DataError: anything else.
        """
        method = content.get("method") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(method, str) or method not in METHODS:
            raise DataError(f"calibration: its method is {method!r}, none of {', '.join(METHODS)}")
        expected = {"method", "classes", "notes", *_PARAMETERS[method]}
        if content.keys() != expected:
            raise DataError(f"calibration: keys {_named(content)} where {method} has {_named(expected)}")
        return cls(**{key: _as_tuples(value) for key, value in content.items()})


def fit_calibration(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], class_names: Sequence[str], *, method: str
) -> Calibration:
    """Fit a calibration to images that the network was neither fitted to nor is judged by.

    - 'temperature': one number that divides the logits, by maximum likelihood (Guo, Pleiss, Sun & Weinberger, "On
      calibration of modern neural networks", 2017). Logarithms of probabilities serve as logits: they differ by a
      constant within an image. Where every image is answered right, the likelihood grows without end as the temperature
      falls; the targets are then smoothed as in Platt's method. Kept within 0.05 to 20.
    - 'platt': a straight line in the log-odds of each class against the rest, with smoothed targets (Platt,
      "Probabilistic outputs for support vector machines", 1999).
    - 'isotonic': a rising line of least squares from each class's probability to its frequency (Zadrozny & Elkan,
      "Transforming classifier scores into accurate multiclass probability estimates", 2002).
    - 'none': probabilities stay as they are.

    The last two are fitted to each class against the rest, and an image's answers brought to the sum of 1.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) 0..C-1.
        class_names: (C,) in the order of the columns.
        method: one of ``METHODS``.

    Raises:
        ConfigurationError: another method.
        DataError: no probabilities and labels of these classes, or too few classes among the images to fit anything.
    """
    if method not in METHODS:
        raise ConfigurationError(f"calibration={method}: one of {', '.join(METHODS)}")
    classes = tuple(class_names)
    table = _checked(probabilities, len(classes))
    if labels.shape != table.shape[:1] or (len(labels) and not 0 <= labels.min() <= labels.max() < len(classes)):
        raise DataError(
            f"calibration: labels of shape {labels.shape} for {len(table)} images of {len(classes)} classes"
        )
    if method == "none":
        return Calibration(method, classes)
    counts = np.bincount(labels, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    num_present = len(classes) - len(absent)
    if num_present < 2 or (absent and method != "temperature"):
        raise DataError(
            f"calibration={method}: no image of class {', '.join(absent)} to fit it to; "
            f"give calibration={'none' if num_present < 2 else 'temperature'}"
        )
    if method == "temperature":
        temperature, notes = _fit_temperature(table, labels, counts)
        return Calibration(method, classes, temperature=temperature, notes=notes)
    if method == "platt":
        lines = [_fit_platt(log_odds(table, place), labels == place) for place in range(len(classes))]
        intercepts, slopes = (tuple(numbers) for numbers in zip(*lines, strict=True))
        backwards = [name for name, slope in zip(classes, slopes, strict=True) if slope <= 0]
        notes = (f"the slope for {', '.join(backwards)} is not positive: the order of the images is lost",)
        return Calibration(
            method, classes, slopes=slopes, intercepts=intercepts, notes=notes if backwards else ()
        )  # fmt: skip
    corners = [_fit_isotonic(table[:, place], labels == place) for place in range(len(classes))]
    scores, values = zip(*corners, strict=True)
    few = (f"isotonic regression was fitted to {len(table)} images: below about {_FEW_FOR_ISOTONIC} it overfits",)
    return Calibration(
        method, classes, scores=scores, values=values, notes=few if len(table) < _FEW_FOR_ISOTONIC else ()
    )


def _fit_temperature(
    table: NDArray[np.floating], labels: NDArray[np.integer], counts: NDArray[np.integer]
) -> tuple[float, tuple[str, ...]]:
    logs = _logs(table)
    logs -= logs.max(axis=1, keepdims=True)
    targets = np.eye(table.shape[1])[labels]
    notes: tuple[str, ...] = ()
    if (np.take_along_axis(logs, labels[:, None], axis=1) == 0).all():
        targets = _smoothed(targets, counts)
        notes = ("every image was answered right, which no finite temperature fits: the targets were smoothed",)

    def growth(inverse: float) -> float:
        """How the mean log loss changes with the inverse temperature, in which it is convex."""
        return float(((softmax(inverse * logs, axis=1) - targets) * logs).sum() / len(logs))

    hottest, coldest = 1 / HIGHEST_TEMPERATURE, 1 / LOWEST_TEMPERATURE
    if growth(hottest) >= 0:
        held = f"the temperature is held at {HIGHEST_TEMPERATURE:g}: the answers tell no more than chance does"
        return HIGHEST_TEMPERATURE, (*notes, held)
    if growth(coldest) <= 0:
        held = f"the temperature is held at {LOWEST_TEMPERATURE:g}: a still lower one would fit better"
        return LOWEST_TEMPERATURE, (*notes, held)
    return 1 / float(brentq(growth, hottest, coldest, xtol=1e-12)), notes


def _smoothed(targets: NDArray[np.float64], counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Platt's targets, (n + 1) / (n + 2) for a class of n images, the rest shared by the other classes."""
    certain = (counts + 1) / (counts + 2)
    own = (targets @ certain)[:, None]
    return np.asarray(np.where(targets == 1, own, (1 - own) / (targets.shape[1] - 1)))


def _fit_platt(odds: NDArray[np.float64], is_class: NDArray[np.bool_]) -> tuple[float, float]:
    num_class = int(is_class.sum())
    num_rest = len(is_class) - num_class
    targets = np.where(is_class, (num_class + 1) / (num_class + 2), 1 / (num_rest + 2))
    if np.ptp(odds) == 0:
        raise DataError("calibration=platt: all images have the same probability; give calibration=none")
    return fit_logistic(odds, targets)


def _fit_isotonic(
    column: NDArray[np.floating], is_class: NDArray[np.bool_]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    scores, place, counts = np.unique(column.astype(np.float64), return_inverse=True, return_counts=True)
    frequency = np.bincount(place, weights=is_class) / counts
    rising = np.clip(isotonic_regression(frequency, weights=counts).x, 0.0, 1.0)
    # Between the ends of a level stretch nothing is lost by leaving out its corners.
    steps = np.diff(rising) != 0
    kept = np.append(True, steps) | np.append(steps, True)
    return tuple(scores[kept].tolist()), tuple(rising[kept].tolist())


def _logs(table: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(log_softmax(np.log(np.maximum(table.astype(np.float64), SMALLEST)), axis=1))


def _checked(probabilities: NDArray[np.floating], num_classes: int) -> NDArray[np.floating]:
    table = np.asarray(probabilities)
    if table.ndim != 2 or table.shape[1] != num_classes or not np.issubdtype(table.dtype, np.floating):
        raise DataError(
            f"calibration: {table.dtype} of shape {table.shape}, not probabilities of {num_classes} classes"
        )
    # Written so that NaN fails: it passes every plain comparison.
    if len(table) and not (table.min() >= 0 and np.abs(table.sum(axis=1, dtype=np.float64) - 1).max() <= 1e-3):
        raise DataError("calibration: these are no probabilities (negative, not finite, or rows that do not sum to 1)")
    return table


def _problem(calibration: Calibration) -> str | None:
    """What is wrong with the numbers, or None."""
    method, classes = calibration.method, calibration.classes
    if method not in METHODS:
        return f"its method is {method!r}, none of {', '.join(METHODS)}"
    if not _texts(classes) or len(set(classes)) < max(2, len(classes)):
        return f"its classes are {classes!r}, not two or more different names"
    if not _texts(calibration.notes):
        return "its notes are no sentences"
    temperature = calibration.temperature
    if method == "temperature":
        if not _finite(temperature) or not LOWEST_TEMPERATURE <= float(temperature or 0) <= HIGHEST_TEMPERATURE:
            return f"its temperature is {temperature!r}, not in {LOWEST_TEMPERATURE:g} to {HIGHEST_TEMPERATURE:g}"
    elif temperature is not None:
        return f"{method} has no temperature"
    for name in ("slopes", "intercepts", "scores", "values"):
        length = len(classes) if name in _PARAMETERS[method] else 0
        given = getattr(calibration, name)
        if not isinstance(given, tuple) or len(given) != length:
            return f"{method} of {len(classes)} classes has {length} {name}"
    if not all(_finite(number) for number in (*calibration.slopes, *calibration.intercepts)):
        return "a slope or intercept is no finite number"
    for scores, values in zip(calibration.scores, calibration.values, strict=True):
        if not _shares(scores) or not _shares(values) or len(scores) != len(values) or not scores:
            return "scores and values are not as many numbers in 0 to 1"
        if not (np.diff(scores) > 0).all() or not (np.diff(values) >= 0).all():
            return "scores and values do not rise"
    return None


def _texts(given: object) -> bool:
    return isinstance(given, tuple) and all(isinstance(text, str) for text in given)


def _finite(number: object) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


def _shares(given: object) -> bool:
    return isinstance(given, tuple) and all(_finite(number) and 0 <= number <= 1 for number in given)


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def _named(keys: Any) -> str:
    return ", ".join(sorted(map(str, keys)))
