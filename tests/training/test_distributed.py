"""Two processes on the CPU, started as a user's are, come to what one process comes to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from tests.programs import run
from torch import Tensor
from torch.utils.data import DataLoader

from cxr.training.module import CXRModule

ROOT = Path(__file__).resolve().parents[2]
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
    done = run(str(tmp_path / "program.py"), str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.said
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
    assert together == pytest.approx(dict(alone), abs=1e-6)
    assert {"train/loss", "train/auroc"} <= set(first["metrics"])


# A network without batch norms, so that what it learns of a batch is the same in one piece and in two halves; plain
# gradients, because AdamW makes much of the last digit of a small one.
SETTINGS = [
    "experiment=demo",
    "data.sources.phantom.num_patients=60",
    "data.sources.phantom.size=64",
    "data.look_for_copies=false",
    "audit.shortcuts=false",
    "data.image_size=32",
    "model.name=test_convnext",
    "model.drop_rate=0",
    "augment=none",  # drawn for a whole batch
    "optimizer=sgd",
    "balance.sampler=oversample",
    "balance.weighting=inverse_frequency",
    "balance.allow_both=true",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=1",
    "logger=csv",
]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]  # the command torchrun calls it
KINDS = {
    "alone": ["data.batch_size=8"],
    "lightning": ["data.batch_size=4", "trainer=ddp"],
    "torchrun": ["data.batch_size=4", "trainer=ddp"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same training by one process, and by two with half a batch each."""
    folder = tmp_path_factory.mktemp("runs")
    for name, words in KINDS.items():
        called = ["train.py", *SETTINGS, *words, f"name={name}"]
        if name == "torchrun":
            called = [*TORCHRUN, str(ROOT / called[0]), *called[1:]]
        done = run(*called, cwd=folder)
        assert done.returncode == 0, done.said
    found = {name: list((folder / "outputs" / name).iterdir()) for name in KINDS}
    assert all(len(paths) == 1 for paths in found.values()), "the processes of a run share its directory"
    return {name: paths[0] for name, paths in found.items()}


TOGETHER = pytest.mark.parametrize("kind", ["lightning", "torchrun"])


@TOGETHER
def test_two_processes_predict_every_validation_record_once(runs: dict[str, Path], kind: str) -> None:
    alone, together = (
        pd.read_csv(runs[name] / "predictions" / "val.csv").sort_values("image", ignore_index=True)
        for name in ("alone", kind)
    )
    split = pd.read_csv(runs[kind] / "split.csv")
    records = split.loc[split["split"] == "val", "image"]
    assert len(records) % 2 == 1, "one process has a record more than the other"
    assert together["image"].tolist() == sorted(records)
    pd.testing.assert_frame_equal(alone, together, check_exact=False, rtol=0, atol=1e-6)


@TOGETHER
def test_two_processes_measure_what_one_does(runs: dict[str, Path], kind: str) -> None:
    pair = runs["alone"], runs[kind]
    pd.testing.assert_frame_equal(*(pd.read_csv(run / "split.csv", dtype=str) for run in pair))
    histories = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in pair]
    assert {"train/auroc", "train/loss", "val/auroc", "val/loss", "val/sensitivity"} <= set(histories[0].columns)
    pd.testing.assert_frame_equal(*histories, check_exact=False, rtol=0, atol=1e-6)
    metrics = [json.loads((run / "metrics.json").read_text())["val"] for run in pair]
    assert metrics[0].keys() == metrics[1].keys()
    names = ("auroc", "sensitivity", "log_loss", "brier")
    measured = [{name: each[name]["value"] for name in names} for each in metrics]
    assert measured[1] == pytest.approx(measured[0], abs=1e-6)
    assert metrics[0]["auroc"]["n"] == metrics[1]["auroc"]["n"]
    steps = [pd.read_csv(run / "tracking" / "metrics.csv")["train/loss_step"].dropna().tolist() for run in pair]
    assert len(steps[0]) > 2
    assert steps[1] == pytest.approx(steps[0], abs=1e-6)


@TOGETHER
def test_two_processes_weigh_and_learn_as_one_does(runs: dict[str, Path], kind: str) -> None:
    alone, together = (
        torch.load(runs[name] / "checkpoints" / "last.ckpt", weights_only=True) for name in ("alone", kind)
    )
    weights = [each["hyper_parameters"]["class_weights"] for each in (alone, together)]
    assert weights[0] is not None
    assert weights[0] == weights[1]
    for name, tensor in alone["state_dict"].items():
        torch.testing.assert_close(together["state_dict"][name], tensor, rtol=0, atol=1e-6)
