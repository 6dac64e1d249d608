"""One small network, trained once on drawn radiographs, for all tests that open a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

CLASSES = {"covid": ["COVID-19"], "other": ["rest"]}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of the network; never written to, see `run`."""
    root = tmp_path_factory.mktemp("trained")
    data = CXRDataModule(
        {"phantom": {"kind": "phantom", "num_patients": 40, "size": 64, "strength": 2.0}},
        data_dir=root,
        cache_dir=root / "cache",
        classes=CLASSES,
        positive="covid",
        image_size=32,
        batch_size=16,
        augment={"horizontal_flip": 0.5, "rotation_degrees": 10.0, "rotation_prob": 0.75},
        progress=False,
    )
    data.setup()
    torch.manual_seed(0)
    module = CXRModule(
        "test_resnet",
        class_names=data.class_names,
        positive=data.positive,
        image_size=32,
        pretrained=False,
        drop_rate=0.3,
        optimizer={"lr": 3e-3},
    )
    run_dir = RunDirectory.create(root / "runs", "demo")
    build_trainer(run_dir=run_dir, max_epochs=1, gpus=0, progress=False).fit(module, data)
    return run_dir.path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may write to."""
    return Path(shutil.copytree(trained, tmp_path / "runs" / "demo"))


@pytest.fixture
def edit(run: Path) -> Callable[[Callable[[dict[str, Any]], object]], Path]:
    """Changes the content of the run's best checkpoint."""

    def change(apply: Callable[[dict[str, Any]], object]) -> Path:
        path = run / "checkpoints" / "best.ckpt"
        content = torch.load(path, weights_only=True)
        apply(content)
        torch.save(content, path)
        return path

    return change
