"""What must be known of a network to use it?  ``model.json``, typed, versioned and allow-listed.

Nothing in it tells whose radiographs they were or whose machine it was: no patient, file, path, host, user or free
text. Nothing in it is ever run: a reader takes numbers and names from it and holds each against what is known.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cxr.errors import CheckpointError, CxrError, DataError
from cxr.evaluation.calibration.abstention import AbstainBand, parse_abstain
from cxr.evaluation.calibration.calibration import Calibration
from cxr.evaluation.calibration.operating_points import OperatingPoint, parse_rule, rule_in_words
from cxr.evaluation.calibration.stored import FittedOn
from cxr.evaluation.scoring.run_path import DESCRIPTION_FILE, WEIGHTS_FILE
from cxr.images.prepare import Preparation

FORMAT, VERSION = "cxr-model", 1
ONNX_FILE = "model.onnx"
FILES = (WEIGHTS_FILE, ONNX_FILE)
# Largest difference from PyTorch of logits and of calibrated probabilities that an exported file may show.
TOLERANCE = 1e-4

_MAX_BYTES = 4 * 2**20
_MAX_CLASSES, _MAX_NAME = 1000, 200
_MAX_COUNT = 10**12
_BACKBONE = re.compile(r"[a-z0-9_]{1,100}(\.[a-z0-9_]{1,100})?")
_HEAD = re.compile("linear|concat_pool")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9A-Za-z.+!-]{1,40}")


@dataclass(frozen=True)
class Normalisation:
    """What becomes of grey pixels: ``pixel * scale + offset`` for each of the three channels.

    Args:
        scale, offset: (3,), for pixels of 0 to 255, not of 0 to 1.
    """

    scale: tuple[float, float, float]
    offset: tuple[float, float, float]


@dataclass(frozen=True)
class ModelDescription:
    """All that is known of an exported network but its weights.

    Args:
        cxr_version: of the program that exported it.
        backbone: timm name.
        head: what turns its features into classes, see `cxr.training.heads`.
        class_names: the C classes in the order of the outputs.
        positive: the class that the thresholds are about.
        preparation: what is done to a radiograph before the network sees it.
        normalisation: what is done to its pixels; the ONNX file does it itself.
        calibration: makes the network's probabilities into those that the thresholds are about.
        operating_points: thresholds on the calibrated probability of `positive`.
        fitted_on: the images that both were chosen on; None where there is neither.
        training_images: class -> images in the training split; empty where that is not known.
        epoch: after which it was saved, counted from 0.
        checkpoint_sha256: hex, of the checkpoint that was exported.
    """

    cxr_version: str
    backbone: str
    head: str
    class_names: tuple[str, ...]
    positive: str
    preparation: Preparation
    normalisation: Normalisation
    calibration: Calibration
    operating_points: tuple[OperatingPoint, ...]
    fitted_on: FittedOn | None
    training_images: dict[str, int]
    epoch: int
    checkpoint_sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the sentences that calibration and thresholds may carry."""
        calibration = self.calibration.to_dict()
        points = [point.to_dict() for point in self.operating_points]
        return {
            "format": FORMAT,
            "version": VERSION,
            "cxr_version": self.cxr_version,
            "backbone": self.backbone,
            "head": self.head,
            "class_names": list(self.class_names),
            "positive": self.positive,
            "preparation": self.preparation.as_dict(),
            "normalisation": {name: list(values) for name, values in asdict(self.normalisation).items()},
            "calibration": {name: value for name, value in calibration.items() if name not in ("classes", "notes")},
            "operating_points": [
                {name: value for name, value in point.items() if name not in ("name", "notes")} for point in points
            ],
            "fitted_on": None if self.fitted_on is None else asdict(self.fitted_on),
            "training_images": dict(self.training_images),
            "epoch": self.epoch,
            "checkpoint_sha256": self.checkpoint_sha256,
        }

    @classmethod
    def from_dict(cls, content: object) -> ModelDescription:
        """The reverse of `to_dict`.

        Raises:
            DataError: anything else, in one line.
        """
        names = ("format", "version", *cls.__dataclass_fields__)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"its format is not {FORMAT}")
        if type(content.get("version")) is not int or content["version"] != VERSION:
            raise DataError(f"version: {_shown(content.get('version'))}, where this program reads {VERSION}")
        table = _table(content, "the description", names)
        class_names = _class_names(table["class_names"])
        positive = table["positive"]
        if positive not in class_names:
            raise DataError(f"positive: {_shown(positive)} is none of the classes")
        shape = _table(table["preparation"], "preparation", tuple(Preparation.__dataclass_fields__))
        pixels = _table(table["normalisation"], "normalisation", ("scale", "offset"))
        fitted_on = table["fitted_on"]
        if fitted_on is not None:
            fitted_on = FittedOn(**_table(fitted_on, "fitted_on", tuple(FittedOn.__dataclass_fields__)))
            _matching(fitted_on.split, "fitted_on.split", re.compile("val"))
        counts = table["training_images"]
        if not isinstance(counts, dict) or not counts.keys() <= set(class_names):
            raise DataError("training_images: no table of the classes")
        return cls(
            cxr_version=_matching(table["cxr_version"], "cxr_version", _VERSION),
            backbone=_matching(table["backbone"], "backbone", _BACKBONE),
            head=_matching(table["head"], "head", _HEAD),
            class_names=class_names,
            positive=positive,
            preparation=_known(lambda: Preparation(**shape)),
            normalisation=Normalisation(_three(pixels["scale"], "scale"), _three(pixels["offset"], "offset")),
            calibration=_calibration(table["calibration"], class_names),
            operating_points=_operating_points(table["operating_points"]),
            fitted_on=fitted_on,
            training_images={name: _count(number, "training_images") for name, number in counts.items()},
            epoch=_count(table["epoch"], "epoch"),
            checkpoint_sha256=_matching(table["checkpoint_sha256"], "checkpoint_sha256", _SHA256),
        )


@dataclass(frozen=True)
class Parity:
    """How far what was exported is from PyTorch, measured while it was exported.

    Args:
        images: how many were shown to both.
        drawn_from: 'val', prepared radiographs of the validation split, or 'random', random pixels.
        largest_difference: file -> the largest difference of a logit or a calibrated probability.
    """

    images: int
    drawn_from: str
    largest_difference: dict[str, float]


@dataclass(frozen=True)
class ExportedFolder:
    """What ``model.json`` holds.

    Args:
        description: of the network; the ONNX file carries the same.
        files: name -> sha256 of each file beside it.
        parity: what was measured.
    """

    description: ModelDescription
    files: dict[str, str]
    parity: Parity

    def to_json(self) -> str:
        content = {**self.description.to_dict(), "files": self.files, "parity": asdict(self.parity)}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def program_version() -> str:
    """The version of cxr; '0' where the source folder is on the path without an installation."""
    try:
        return version("cxr")
    except PackageNotFoundError:
        return "0"


def read_folder(folder: Path) -> ExportedFolder:
    """Read ``model.json`` of a folder that may come from anybody.

    Raises:
        CheckpointError: it is missing, too large, damaged, or holds anything but a description; one line.
    """
    path = folder / DESCRIPTION_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
        if len(text) > _MAX_BYTES:
            raise DataError(f"larger than {_MAX_BYTES:,} bytes")
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
        if not isinstance(content, dict):
            raise DataError("no table")
        beside = {name: content.pop(name, None) for name in ("files", "parity")}
        description = ModelDescription.from_dict(content)
        return ExportedFolder(description, _files(beside["files"]), _parity(beside["parity"]))
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError, CxrError) as error:
        said = str(error) if isinstance(error, CxrError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{path}: no description of an exported network ({' '.join(said.split())[:200]})"
        ) from None


def _calibration(content: object, class_names: tuple[str, ...]) -> Calibration:
    if not isinstance(content, dict) or content.keys() & {"classes", "notes"}:
        raise DataError("calibration: no table of a method and its parameters")
    return Calibration.from_dict({**content, "classes": list(class_names), "notes": []})


def _operating_points(content: object) -> tuple[OperatingPoint, ...]:
    if not isinstance(content, list) or len(content) > _MAX_CLASSES:
        raise DataError("operating_points: no list of thresholds")
    names = tuple(name for name in OperatingPoint.__dataclass_fields__ if name not in ("name", "notes"))
    points = []
    for each in content:
        table = _table(each, "operating_points", names)
        rule = _text(table["rule"], "operating_points.rule")
        _known(lambda rule=rule: parse_rule(rule))  # type: ignore[misc]
        if table["chosen_on"] != "val":
            raise DataError(f"operating_points.chosen_on: {_shown(table['chosen_on'])}, not val")
        points.append(OperatingPoint.from_dict({**table, "name": rule_in_words(rule), "notes": []}))
        band: AbstainBand | None = points[-1].abstain
        if band is not None:
            _text(band.rule, "operating_points.abstain.rule")
            _known(lambda band=band: parse_abstain(band.rule))  # type: ignore[misc]
    if len({point.rule for point in points}) < len(points):
        raise DataError("operating_points: a rule comes twice")
    return tuple(points)


def _parity(content: object) -> Parity:
    table = _table(content, "parity", tuple(Parity.__dataclass_fields__))
    differences = table["largest_difference"]
    if table["drawn_from"] not in ("val", "random") or not isinstance(differences, dict):
        raise DataError("parity: no measurement")
    if not differences.keys() <= set(FILES):
        raise DataError(f"parity: of other files than {', '.join(FILES)}")
    measured = {name: _number(value, f"parity of {name}") for name, value in differences.items()}
    return Parity(_count(table["images"], "parity.images"), table["drawn_from"], measured)


def _files(content: object) -> dict[str, str]:
    if not isinstance(content, dict) or not content or not content.keys() <= set(FILES):
        raise DataError(f"files: names other than {', '.join(FILES)}")
    return {name: _matching(value, f"files.{name}", _SHA256) for name, value in content.items()}


def _class_names(content: object) -> tuple[str, ...]:
    if not isinstance(content, list) or not 2 <= len(content) <= _MAX_CLASSES:
        raise DataError(f"class_names: no list of 2 to {_MAX_CLASSES} names")
    names = tuple(_text(name, "class_names") for name in content)
    if len(set(names)) < len(names):
        raise DataError("class_names: a name comes twice")
    return names


def _text(value: object, name: str) -> str:
    """Text for a line of a terminal: a control character could rewrite what stands there."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME or not value.isprintable():
        raise DataError(f"{name}: {_shown(value)} is no printable text of 1 to {_MAX_NAME} characters")
    return value


def _matching(value: object, name: str, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise DataError(f"{name}: {_shown(value)} is not of the form {pattern.pattern}")
    return value


def _three(value: object, name: str) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3:
        raise DataError(f"normalisation.{name}: not three numbers")
    first, second, third = (_number(each, f"normalisation.{name}") for each in value)
    return first, second, third


def _number(value: object, name: str) -> float:
    # Beyond 1e6 a normalised pixel is none, and float32 has no room for what comes of it.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > 1e6:
        raise DataError(f"{name}: {_shown(value)} is no number that can be used")
    return float(value)


def _count(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise DataError(f"{name}: {_shown(value)} is no count")
    return value


def _table(content: object, name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"{name}: no table")
    unknown, missing = sorted(content.keys() - set(keys)), [key for key in keys if key not in content]
    if unknown or missing:
        raise DataError(f"{name}: {'unknown' if unknown else 'missing'} key {_shown((unknown or missing)[0])}")
    return content


def _known(make: Callable[[], Any]) -> Any:
    """What a part of cxr says of a value that it refuses, as an error of the data."""
    try:
        return make()
    except CxrError as error:
        raise DataError(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise DataError("a key comes twice in one table")
    return table


def _refuse(text: str) -> float:
    raise DataError(f"{text} is no number that JSON has")


def _shown(value: object) -> str:
    """A value of unknown origin, short and without control characters."""
    return ascii(value)[:60]
