"""Which calibration and thresholds belong to a run?  ``calibration.json``, fitted on validation and on nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr.errors import DataError
from cxr.evaluation.calibration.calibration import Calibration
from cxr.evaluation.calibration.operating_points import OperatingPoint
from cxr.files import write_atomically


@dataclass(frozen=True)
class FittedOn:
    """The images that it was fitted to: their split, and how many images, patients and positives they are."""

    split: str
    images: int
    patients: int
    positives: int

    def __post_init__(self) -> None:
        counts = (self.images, self.patients, self.positives)
        if not isinstance(self.split, str) or not all(type(count) is int and count >= 0 for count in counts):
            raise DataError(f"fitted_on: {asdict(self)} is no split with counts")


@dataclass(frozen=True)
class StoredCalibration:
    """What is fitted on validation after a training.

    Args:
        calibration: makes the network's probabilities into those that the operating points are about.
        operating_points: thresholds on the calibrated probability of `positive`.
        positive: the positive class, by name.
        checkpoint: name of the checkpoint file whose probabilities they were.
        checkpoint_sha256: hex of its bytes; another checkpoint needs a calibration of its own.
        fitted_on: the images.
        time: when, ISO 8601.

    Raises:
        DataError: parts that do not fit each other.
    """

    calibration: Calibration
    operating_points: tuple[OperatingPoint, ...]
    positive: str
    checkpoint: str
    checkpoint_sha256: str
    fitted_on: FittedOn
    time: str

    def __post_init__(self) -> None:
        for name in ("positive", "checkpoint", "checkpoint_sha256", "time"):
            if not isinstance(getattr(self, name), str):
                raise DataError(f"{name}: {getattr(self, name)!r} is no text")
        if self.positive not in self.calibration.classes:
            raise DataError(f"positive: {self.positive!r} is none of {', '.join(self.calibration.classes)}")

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("positive", "checkpoint", "checkpoint_sha256", "time")},
            "fitted_on": asdict(self.fitted_on),
            "calibration": self.calibration.to_dict(),
            "operating_points": [point.to_dict() for point in self.operating_points],
        }

    @classmethod
    def from_dict(cls, content: object) -> StoredCalibration:
        """The reverse of `to_dict`.

        Raises:
            DataError: anything else.
        """
        table = _table(content, "calibration.json", tuple(cls.__dataclass_fields__))
        points = table["operating_points"]
        if not isinstance(points, list):
            raise DataError("operating_points: no list")
        return cls(
            **{
                **table,
                "fitted_on": FittedOn(**_table(table["fitted_on"], "fitted_on", tuple(FittedOn.__dataclass_fields__))),
                "calibration": Calibration.from_dict(table["calibration"]),
                "operating_points": tuple(OperatingPoint.from_dict(point) for point in points),
            }
        )


def write_calibration(path: Path, stored: StoredCalibration) -> None:
    """Write ``calibration.json``, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(stored.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, text + "\n")


def read_calibration(path: Path) -> StoredCalibration | None:
    """What ``calibration.json`` holds; None where there is none.

    Raises:
        DataError: the file is damaged or not what this program writes; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise DataError(f"{path} cannot be read as JSON: move it away, and fit the calibration again") from None
    try:
        return StoredCalibration.from_dict(content)
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}): move it away, and fit the calibration again") from None


def _table(content: object, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict) or content.keys() != set(keys):
        raise DataError(f"{name}: not a table of {', '.join(keys)}")
    return content
