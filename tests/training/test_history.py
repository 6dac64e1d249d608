"""Does the history hold one row per epoch, with what the loggers are told?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from cxr.training.history import EpochHistory
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory


def batches() -> torch.utils.data.DataLoader[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 32, 32), generator=generator).to(torch.uint8)
    rows = [{"image": images[i], "label": torch.tensor(i % 2), "index": torch.tensor(i)} for i in range(12)]
    return torch.utils.data.DataLoader(rows, batch_size=4)  # type: ignore[arg-type]


def fit(history: EpochHistory, folder: Path, max_epochs: int, checkpoint: Path | None = None) -> pl.Trainer:
    module = CXRModule(
        "resnet10t",
        class_names=["a", "b"],
        positive="a",
        image_size=32,
        pretrained=False,
        schedule={"name": "constant"},
    )
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[history],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, batches(), batches(), ckpt_path=checkpoint, weights_only=True)
    return trainer


def test_one_row_per_epoch_with_the_logged_values(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    trainer = fit(EpochHistory(path, tmp_path / "rates.csv"), tmp_path, 3)
    table = pd.read_csv(path)
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["step"].tolist() == [3, 6, 9]
    for name in ("train/loss", "val/loss", "val/auroc"):
        assert table[name].iloc[-1] == pytest.approx(float(trainer.callback_metrics[name]))
    assert (table["lr"] > 0).all()
    rates = pd.read_csv(tmp_path / "rates.csv")
    assert rates["epoch"].tolist() == pytest.approx([step / 3 for step in range(9)], abs=1e-3)
    assert set(rates["lr"]) == set(table["lr"])


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = RunDirectory.create(tmp_path, "run").path / "history.csv"
    trainer = fit(EpochHistory(path, tmp_path / "rates.csv"), tmp_path, 2)
    first = pd.read_csv(path)
    trainer.save_checkpoint(tmp_path / "stopped.ckpt")
    fit(EpochHistory(path, tmp_path / "rates.csv"), tmp_path, 3, tmp_path / "stopped.ckpt")
    table = pd.read_csv(path)
    assert table["epoch"].tolist() == [0, 1, 2]
    pd.testing.assert_frame_equal(table.iloc[:2][first.columns.tolist()], first)
    assert len(pd.read_csv(tmp_path / "rates.csv")) == 9, "the rates before and after"
