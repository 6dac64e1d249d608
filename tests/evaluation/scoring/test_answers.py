"""Several networks: an ensemble where they saw the same split, a pool where they are the folds of one."""

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

from cxr.errors import ConfigurationError, DataError
from cxr.evaluation.evaluate import EvaluationResult, evaluate_run
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.metrics import classification_metrics
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

CLASSES = {"covid": ["COVID-19"], "other": ["rest"]}
PROBABILITIES = ["prob_covid", "prob_other"]
NUM_FOLDS = 3


def evaluate(run: Any, **settings: Any) -> EvaluationResult:
    return evaluate_run(run, gpus=0, progress=False, report=False, num_resamples=100, **settings)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Networks that were trained on the folds of one division."""
    root = tmp_path_factory.mktemp("folds")
    runs = []
    for fold in range(NUM_FOLDS):
        data = CXRDataModule(
            {"phantom": {"kind": "phantom", "num_patients": 30, "size": 64, "strength": 2.0}},
            data_dir=root,
            cache_dir=root / "cache",
            classes=CLASSES,
            positive="covid",
            image_size=32,
            batch_size=16,
            split={"kind": "kfold", "fold": fold, "num_folds": NUM_FOLDS},
            progress=False,
        )
        data.setup()
        torch.manual_seed(fold)
        module = CXRModule(
            "test_resnet", class_names=data.class_names, positive="covid", image_size=32, pretrained=False
        )
        run = RunDirectory.create(root / "runs", "folds")
        build_trainer(run_dir=run, max_epochs=1, gpus=0, progress=False).fit(module, data)
        runs.append(run.path)
    return runs


@pytest.fixture
def second(run: Path, tmp_path: Path) -> Path:
    """The same run with other weights."""
    copy = Path(shutil.copytree(run, tmp_path / "runs" / "second"))
    path = copy / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    generator = torch.Generator().manual_seed(1)
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point() and tensor.ndim > 1:
            tensor += 0.02 * torch.randn(tensor.shape, generator=generator)
    torch.save(content, path)
    return copy


def test_an_ensemble_answers_with_the_mean_probability(run: Path, second: Path) -> None:
    alone = [evaluate(each).predictions for each in (run, second)]
    result = evaluate([run, second])
    together = result.predictions
    assert together["image"].tolist() == alone[0]["image"].tolist()
    expected = (alone[0][PROBABILITIES].to_numpy() + alone[1][PROBABILITIES].to_numpy()) / 2
    assert not np.allclose(alone[0][PROBABILITIES], alone[1][PROBABILITIES])
    assert together[PROBABILITIES].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert result.output_dir.parent == run.parent
    assert result.output_dir.name.startswith("ensemble_")
    assert any("2 networks" in note for note in result.notes)
    assert (result.output_dir / "calibration.json").is_file()


def test_folds_are_pooled_so_that_every_image_has_the_answer_of_the_network_that_had_not_seen_it(
    folds: list[Path],
) -> None:
    alone = [evaluate(each).predictions for each in folds]
    result = evaluate(folds)
    pd.testing.assert_frame_equal(
        result.predictions.drop(columns="threshold"),
        pd.concat(alone, ignore_index=True)[result.predictions.columns.drop("threshold")],
    )
    assert not result.predictions["image"].duplicated().any()
    assert result.entry is not None
    entry = json.loads(result.metrics_path.read_text(encoding="utf-8"))["test"]
    labels = np.array([["covid", "other"].index(label) for label in result.predictions["label"]])
    pooled = classification_metrics(
        result.predictions[PROBABILITIES].to_numpy(np.float32), labels, ["covid", "other"], "covid"
    )
    assert entry["auroc"]["value"] == pooled["auroc"]
    assert entry["auroc"]["low"] < entry["auroc"]["value"] < entry["auroc"]["high"]
    each = [json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"] for run in folds]
    assert [fold["auroc"]["value"] for fold in entry["folds"].values()] == [one["auroc"]["value"] for one in each]
    assert sum(fold["counts"]["images"] for fold in entry["folds"].values()) == entry["counts"]["images"]
    assert "calibration" not in entry


def test_networks_of_partly_the_same_images_are_refused(folds: list[Path], run: Path) -> None:
    with pytest.raises(DataError, match="kept different images"):
        evaluate([folds[0], folds[1]], split="train")


def test_networks_of_other_classes_are_refused_with_both_lists(
    run: Path, second: Path, edit: Callable[[Callable[[dict[str, Any]], object]], Path]
) -> None:
    edit(lambda content: content["hyper_parameters"].update(positive="other"))
    with pytest.raises(ConfigurationError, match=r"covid, other.*other as positive.*covid, other.*covid as positive"):
        evaluate([run, second])


def test_views_are_averaged_as_probabilities(run: Path) -> None:
    plain, flipped = evaluate(run).predictions, evaluate(run, tta="flip").predictions
    assert plain["image"].tolist() == flipped["image"].tolist()
    assert not np.allclose(plain["prob_covid"], flipped["prob_covid"], atol=1e-4)
    assert flipped[PROBABILITIES].sum(axis=1).to_numpy() == pytest.approx(np.ones(len(flipped)), abs=1e-6)
    assert (run / "calibration_flip.json").is_file()
