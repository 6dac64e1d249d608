from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr.errors import DataError
from cxr.evaluation.calibration.calibration import fit_calibration
from cxr.evaluation.calibration.operating_points import choose_operating_points
from cxr.evaluation.calibration.stored import FittedOn, StoredCalibration, read_calibration, write_calibration


def stored(method: str = "temperature") -> StoredCalibration:
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1], 80).astype(np.float32)
    labels = (generator.random(80) < probabilities[:, 1]).astype(np.int64)
    calibration = fit_calibration(probabilities, labels, ("other", "covid"), method=method)
    points = choose_operating_points(
        calibration.apply(probabilities), labels, 1, ["youden", "sensitivity=0.95", "fixed=0.5"], abstain="share=0.2"
    )
    return StoredCalibration(
        calibration=calibration,
        operating_points=tuple(points),
        positive="covid",
        checkpoint="best.ckpt",
        checkpoint_sha256="ab" * 32,
        fitted_on=FittedOn("val", 80, 40, int(labels.sum())),
        time="2026-01-01T00:00:00+00:00",
    )


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "isotonic"])
def test_what_is_written_is_read(method: str, tmp_path: Path) -> None:
    path = tmp_path / "run" / "calibration.json"
    write_calibration(path, stored(method))
    assert read_calibration(path) == stored(method)
    assert [file.name for file in path.parent.iterdir()] == ["calibration.json"]


def test_a_run_without_the_file_has_none(tmp_path: Path) -> None:
    assert read_calibration(tmp_path / "calibration.json") is None


def test_a_person_finds_the_numbers_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, stored())
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["calibration"]["temperature"] == stored().calibration.temperature
    assert content["fitted_on"]["split"] == "val"
    assert [point["rule"] for point in content["operating_points"]] == ["youden", "sensitivity=0.95", "fixed=0.5"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "[" * 100_000, "\x00", '{"calibration": NaN}'])
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"calibration\.json .*fit the calibration again") as caught:
        read_calibration(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(DataError, match=r"calibration\.json"):
        read_calibration(path)


CHANGES: dict[str, Any] = {
    "no checkpoint": lambda table: table.pop("checkpoint_sha256"),
    "a key too many": lambda table: table.update(extra=1),
    "a positive class of another network": lambda table: table.update(positive="pneumonia"),
    "a time that is a number": lambda table: table.update(time=3),
    "counts that are text": lambda table: table["fitted_on"].update(images="many"),
    "counts that are negative": lambda table: table["fitted_on"].update(patients=-1),
    "a split that is missing": lambda table: table["fitted_on"].pop("split"),
    "no list of points": lambda table: table.update(operating_points={}),
    "a point that is no table": lambda table: table["operating_points"].append(3),
    "a threshold out of range": lambda table: table["operating_points"][0].update(threshold=7),
    "a temperature that is not finite": lambda table: table["calibration"].update(temperature=float("nan")),
    "a calibration that is no table": lambda table: table.update(calibration=[]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_with_strange_values_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    write_calibration(path, stored())
    content = json.loads(path.read_text(encoding="utf-8"))
    CHANGES[name](content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"calibration\.json is damaged"):
        read_calibration(path)
