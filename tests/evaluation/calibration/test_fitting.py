"""Calibration and thresholds come from validation, and from nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cxr.errors import DataError
from cxr.evaluation.evaluate import EvaluationResult, evaluate_run
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

Edit = Callable[[Callable[[dict[str, Any]], object]], Path]


def evaluate(run: Path, **settings: Any) -> EvaluationResult:
    return evaluate_run(run, gpus=0, progress=False, report=False, num_resamples=100, **settings)


def stored(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    return content


def train_on(root: Path, images: Path, table: pd.DataFrame) -> Path:
    """A run on a table of images that says itself which of them validate and which test."""
    root.mkdir()
    table.to_csv(root / "images.csv", index=False)
    data = CXRDataModule(
        {"files": {"kind": "table", "root": str(root / "images.csv"), "images": str(images)}},
        cache_dir=root / "cache",
        positive="covid",
        image_size=32,
        batch_size=8,
        split={"kind": "predefined"},
        progress=False,
    )
    data.setup()
    torch.manual_seed(0)
    module = CXRModule("test_resnet", class_names=data.class_names, positive="covid", image_size=32, pretrained=False)
    run = RunDirectory.create(root / "runs", "files")
    build_trainer(run_dir=run, max_epochs=1, gpus=0, progress=False).fit(module, data)
    return run.path


def test_the_test_split_has_no_say(tmp_path: Path) -> None:
    """Two runs that differ in nothing but pixels and labels of the test get the same calibration and thresholds."""
    generator = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    rows = []
    for number in range(60):
        label = ("covid", "other")[number % 2]
        pixels = generator.integers(0, 150, (32, 32), dtype=np.uint8) + np.uint8(60 * (number % 2))
        Image.fromarray(pixels).save(images / f"{number}.png")
        rows.append(
            {"image": f"{number}.png", "label": label, "split": ("train", "train", "val", "test")[number // 15]}
        )
    first = train_on(tmp_path / "first", images, pd.DataFrame(rows))
    evaluate(first)

    swapped = tmp_path / "swapped"
    shutil.copytree(images, swapped)
    turned = pd.DataFrame(rows)
    of_test = turned["split"] == "test"
    turned.loc[of_test, "label"] = turned.loc[of_test, "label"].map({"covid": "other", "other": "covid"})
    for name in turned.loc[of_test, "image"]:
        Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8)).save(swapped / name)
    second = train_on(tmp_path / "second", swapped, turned)
    evaluate(second)

    for part in ("calibration", "operating_points", "fitted_on"):
        assert stored(first)[part] == stored(second)[part]
    entries = [json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"] for run in (first, second)]
    assert entries[0]["auroc"]["value"] != entries[1]["auroc"]["value"]


def test_what_was_fitted_is_kept_and_applied_unchanged(run: Path, tmp_path: Path) -> None:
    evaluate(run, split="val")
    before = stored(run)
    assert before["fitted_on"]["split"] == "val"
    entry = evaluate(run).entry
    assert entry is not None
    assert stored(run) == before
    thresholds = [point["threshold"] for point in before["operating_points"]]
    assert [point["threshold"] for point in entry["operating_points"]] == thresholds
    table = pd.read_csv(run / "predictions" / "test.csv")
    called = table["prob_calibrated"] >= thresholds[0]
    positive = table["label"] == "covid"
    assert entry["operating_points"][0]["sensitivity"]["value"] == pytest.approx(called[positive].mean())
    assert entry["operating_points"][0]["specificity"]["value"] == pytest.approx((~called)[~positive].mean())


def test_another_checkpoint_method_or_rule_is_fitted_anew(run: Path, edit: Edit) -> None:
    evaluate(run)
    first = stored(run)
    evaluate(run, calibration="platt", operating_points=["specificity=0.9"])
    second = stored(run)
    assert second["calibration"]["method"] == "platt"
    assert [point["rule"] for point in second["operating_points"]] == ["specificity=0.9"]
    edit(lambda content: content["state_dict"]["pixel_offset"].add_(0.1))
    evaluate(run, calibration="platt", operating_points=["specificity=0.9"])
    assert stored(run)["checkpoint_sha256"] not in (first["checkpoint_sha256"], second["checkpoint_sha256"][:0])
    assert stored(run)["checkpoint_sha256"] != second["checkpoint_sha256"]


def test_another_collection_needs_no_file_of_the_training_once_it_is_fitted(run: Path, tmp_path: Path) -> None:
    evaluate(run)
    before = stored(run)
    settings = hospital(tmp_path)
    elsewhere = tmp_path / "nothing here"
    entry = evaluate(run, data=settings, data_dir=elsewhere, cache_dir=tmp_path / "cache").entry
    assert entry is not None
    assert stored(run) == before
    assert [point["chosen_on"] for point in entry["operating_points"]] == ["val"] * 3


def test_a_damaged_calibration_is_named(run: Path) -> None:
    (run / "calibration.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"calibration\.json cannot be read"):
        evaluate(run)


def hospital(tmp_path: Path) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    for folder, number in (("COVID-19", 4), ("Pneumonia", 5)):
        (tmp_path / "hospital" / folder).mkdir(parents=True)
        for place in range(number):
            pixels = generator.integers(0, 256, (40, 48), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "hospital" / folder / f"{folder}{place}.png")
    source = {"kind": "class_folders", "root": str(tmp_path / "hospital"), "patient": "none"}
    return {"sources": {"hospital": source}}
