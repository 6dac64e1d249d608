"""Does a staged training do in every epoch what its stage says, with real data, and go on in the right stage?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from cxr.errors import ConfigurationError
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.layer_groups import layer_groups
from cxr.training.lr_finder import LrCurve
from cxr.training.module import CXRModule
from cxr.training.range_test import find_rates
from cxr.training.run_directory import RunDirectory
from cxr.training.stage_control import StageControl
from cxr.training.stage_plan import build_stages, sizes_of_epochs
from cxr.training.trainer import build_trainer

STAGES: list[dict[str, Any]] = [
    {"epochs": 1, "freeze": "body", "lr": 3e-3},
    {"epochs": 2, "lr": "auto", "spread": 100, "image_size": 24},
    {"epochs": 1, "freeze": "half", "freeze_batch_norm": True, "schedule": "constant"},
]


class Watch(pl.Callback):
    """Notes of every epoch what was trained, how fast, and on images of which size."""

    def __init__(self) -> None:
        self.sizes: dict[int, set[int]] = {}
        self.rates: dict[int, list[list[float]]] = {}
        self.moved: dict[int, set[int]] = {}
        self._before: dict[str, torch.Tensor] = {}
        self.groups: dict[str, int] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        epoch = trainer.current_epoch
        if batch_idx == 0:
            self.groups = layer_groups(pl_module.network)
            self._before = {n: p.detach().clone() for n, p in pl_module.network.named_parameters()}
        self.sizes.setdefault(epoch, set()).add(batch["image"].shape[-1])
        groups = {group["layer_group"]: group["lr"] for group in trainer.optimizers[0].param_groups}
        self.rates.setdefault(epoch, []).append([groups[number] for number in range(3)])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.moved[trainer.current_epoch] = {
            self.groups[name]
            for name, value in pl_module.network.named_parameters()
            if value.ndim > 1 and not torch.equal(value, self._before[name])
        }


def data_module(folder: Path, stages: list[dict[str, Any]], **options: Any) -> CXRDataModule:
    built = build_stages(stages, lr=1e-3, schedule="one_cycle")
    return CXRDataModule(
        {"phantom": {"kind": "phantom", "num_patients": 40, "size": 64}},
        data_dir=folder,
        cache_dir=folder / "cache",
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        image_size=32,
        training_sizes=sizes_of_epochs(built, 32),
        look_for_copies=False,
        batch_size=8,
        augment={"rotation_degrees": 5.0, "rotation_prob": 0.5},
        progress=False,
        **options,
    )


def module(stages: list[dict[str, Any]]) -> CXRModule:
    torch.manual_seed(0)
    return CXRModule(
        "test_resnet",
        class_names=["covid", "other"],
        positive="covid",
        image_size=32,
        pretrained=False,
        drop_rate=0.2,
        optimizer={"lr": 1e-3},
        schedule={"name": "one_cycle", "stages": stages},
    )


Trained = tuple[Watch, list[str], list[tuple[str, LrCurve, float]]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("staged")
    watch, said, curves = Watch(), [], []
    trainer = build_trainer(
        run_dir=RunDirectory.create(folder, "run"),
        max_epochs=4,
        stage_control=StageControl(said.append, lambda *found: curves.append(found)),
        sizes_differ=True,
        freezes=True,
        gpus=0,
        progress=False,
    )
    trainer.callbacks.append(watch)  # type: ignore[attr-defined]
    trainer.fit(module(STAGES), data_module(folder, STAGES))
    return watch, said, curves


def test_each_epoch_is_trained_as_its_stage_says(trained: Trained) -> None:
    watch, said, curves = trained
    assert watch.sizes == {0: {32}, 1: {24}, 2: {24}, 3: {32}}
    assert watch.moved == {0: {2}, 1: {0, 1, 2}, 2: {0, 1, 2}, 3: {1, 2}}
    (stage, curve, taken), *others = curves
    assert others == []
    assert stage == "stage 2"
    assert taken == (curve.valley if curve.valley is not None else 1e-3)
    peaks = {epoch: [max(step[group] for step in steps) for group in range(3)] for epoch, steps in watch.rates.items()}
    assert peaks[0] == pytest.approx([3e-3] * 3, rel=0.1), "no step of so few stands just at the top"
    assert max(peaks[1][2], peaks[2][2]) == pytest.approx(taken, rel=0.1)
    for step in watch.rates[1]:
        assert [step[2] / rate for rate in step] == pytest.approx([100, 10, 1])
    assert watch.rates[3] == [pytest.approx([1e-3] * 3)] * len(watch.rates[3])
    assert len(said) == 3
    assert "stage 2/3: epochs 2 to 3" in said[1]
    assert "24 px" in said[1]
    assert "body frozen" in said[0]


def test_a_range_test_alone_trains_nothing_and_repeats_short_epochs(tmp_path: Path) -> None:
    data = data_module(tmp_path, [{"epochs": 1}])
    tested = module([{"epochs": 1}])
    before = {name: value.clone() for name, value in tested.state_dict().items()}
    curve = find_rates(tested, data, gpus=0, num_steps=25, highest=0.1)
    assert len(curve.rates) == 25
    assert len(data.train_dataloader()) < 25
    assert all(torch.equal(value, before[name]) for name, value in tested.state_dict().items())
    again = find_rates(tested, data, gpus=0, num_steps=25, highest=0.1)
    assert again.losses.tolist() == curve.losses.tolist()


def test_a_first_stage_without_a_rate_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    stages = [{"epochs": 1, "lr": "auto"}]
    curves: list[Any] = []
    learner = module(stages)
    for parameter in learner.network.parameters():
        torch.nn.init.zeros_(parameter)  # says one half to everything, which is the best where classes are balanced
    trainer = build_trainer(
        run_dir=RunDirectory.create(tmp_path, "run"),
        max_epochs=1,
        stage_control=StageControl(curves.append, lambda *found: curves.append(found)),
        gpus=0,
        progress=False,
    )
    with pytest.raises(ConfigurationError, match=r"schedule.stages\[0\].lr: the range test suggests no rate"):
        trainer.fit(learner, data_module(tmp_path, stages, balance={"sampler": "balanced_batches"}))
    assert trainer.global_step == 0


def test_stages_and_epochs_must_agree(tmp_path: Path) -> None:
    trainer = build_trainer(run_dir=RunDirectory.create(tmp_path, "run"), max_epochs=2, gpus=0, progress=False)
    with pytest.raises(ConfigurationError, match=r"trainer.max_epochs=2: schedule.stages have 4"):
        trainer.fit(module(STAGES), data_module(tmp_path, STAGES))
