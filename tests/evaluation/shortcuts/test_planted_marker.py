"""Does a network that was trained on a planted shortcut show it, and one that was trained without it not?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cxr.evaluation.evaluate import evaluate_run
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer


def altered(root: Path, marker: float) -> dict[str, dict[str, Any]]:
    """What a small network, trained on faint patches with a marker that tells of them, keeps on altered pictures."""
    data = CXRDataModule(
        {"phantom": {"kind": "phantom", "num_patients": 240, "images_per_patient": 1.5, "prevalence": 0.5, "size": 64,
                     "strength": 0.3, "marker": marker}},
        data_dir=root,
        cache_dir=root / "cache",
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        positive="covid",
        image_size=64,
        batch_size=16,
        look_for_copies=False,
        split={"val_fraction": 0.15, "test_fraction": 0.3},
        progress=False,
    )  # fmt: skip
    data.setup()
    torch.manual_seed(0)
    module = CXRModule(
        "test_resnet", class_names=data.class_names, positive="covid", image_size=64, pretrained=False,
        optimizer={"lr": 3e-3},
    )  # fmt: skip
    run = RunDirectory.create(root, "run")
    build_trainer(run_dir=run, max_epochs=6, gpus=0, progress=False).fit(module, data)
    result = evaluate_run(run.path, gpus=0, report=False, saliency=0, num_resamples=300, progress=False)
    assert result.entry is not None
    return {row["input"]: row for row in result.entry["shortcuts"]["rows"]}


def test_the_marker_is_found_without_the_lungs(tmp_path: Path) -> None:
    rows = altered(tmp_path, marker=0.9)
    assert rows["without lungs"]["flagged"] is True
    assert rows["without lungs"]["kept"]["value"] > rows["lungs only"]["kept"]["value"]
    assert rows["border only"]["auroc"]["low"] > 0.5  # a part of the tag stands in the border
    assert rows["re-encoded"]["flagged"] is False  # it is a shortcut of the picture, not of the file


def test_without_the_marker_nothing_is_flagged(tmp_path: Path) -> None:
    rows = altered(tmp_path, marker=0.0)
    assert [name for name, row in rows.items() if row["flagged"]] == []
    assert rows["without lungs"]["auroc"]["low"] < 0.5
    assert rows["lungs only"]["auroc"]["low"] > 0.5  # it has learned to see the patches
    assert rows["lungs only"]["kept"]["value"] == pytest.approx(1.0, abs=0.3)
