"""Two processes on the CPU, started as a user's are: the program is run once and starts itself again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cxr.training.module import CXRModule

PROGRAM = '''
import json, sys
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer

torch.set_num_threads(1)


class Shares(torch.utils.data.Sampler):
    """Process 0 gets three batches of validation and process 1 gets one; of training both get two."""

    def __init__(self, shares):
        self.shares = shares

    def __iter__(self):
        return iter(self.shares[torch.distributed.get_rank()])

    def __len__(self):
        return len(self.shares[torch.distributed.get_rank()])


class Records(torch.utils.data.Dataset):
    def __init__(self, path):
        self.columns = torch.load(path, weights_only=True)

    def __len__(self):
        return len(self.columns["label"])

    def __getitem__(self, item):
        return {name: column[item] for name, column in self.columns.items()}


folder = sys.argv[1]
run = RunDirectory.join() or RunDirectory.create(folder, "exp")
pl.seed_everything(0, verbose=False)
module = CXRModule("test_resnet", class_names=["covid", "other"], positive="covid", image_size=32, pretrained=False)
of_training = Shares([[[0, 1, 2, 3], [4, 5, 6, 7]], [[8, 9, 10, 11], [12, 13, 14, 15]]])
of_validation = Shares([[[0, 1, 2], [3, 4, 5], [6, 7]], [[8, 9, 10]]])
train = DataLoader(Records(folder + "/train.pt"), batch_sampler=of_training)
val = DataLoader(Records(folder + "/val.pt"), batch_sampler=of_validation)
trainer = build_trainer(run_dir=run, max_epochs=2, gpus=0, strategy="ddp", progress=False)
trainer.fit(module, train, val)
metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
weights = float(sum(parameter.double().sum() for parameter in module.parameters()))
with open(f"{folder}/rank{trainer.global_rank}.json", "w") as stream:
    json.dump({"metrics": metrics, "weights": weights, "run": str(run.path), "world": trainer.world_size}, stream)
'''


@pytest.fixture
def val_records(tmp_path: Path, loader: Callable[..., Any]) -> dict[str, Tensor]:
    (train,) = loader([0, 1] * 8, batch_size=16)
    (val,) = loader([0, 1] * 5 + [1], batch_size=11, seed=9, contrast=3)
    torch.save(train, tmp_path / "train.pt")
    torch.save(val, tmp_path / "val.pt")
    records: dict[str, Tensor] = val
    return records


def test_two_processes_agree_and_count_every_validation_record_once(
    tmp_path: Path, val_records: dict[str, Tensor]
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if "RANK" not in name and name != "CXR_RUN_DIR"}
    subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=240,
    )
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1))
    assert first["world"] == 2
    assert first["metrics"] == second["metrics"]
    assert first["weights"] == second["weights"]
    assert first["run"] == second["run"]
    assert [path.name for path in (tmp_path / "exp").iterdir()] == [Path(first["run"]).name]

    # One process that sees all records at once measures the same of the same weights.
    module = CXRModule.load_from_checkpoint(Path(first["run"]) / "checkpoints" / "last.ckpt", weights_only=True)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (alone,) = trainer.validate(module, DataLoader([val_records], batch_size=None), verbose=False)
    together = {name: value for name, value in first["metrics"].items() if name.startswith("val/")}
    assert together == pytest.approx(dict(alone), abs=1e-5)
    assert {"train/loss", "train/auroc"} <= set(first["metrics"])
