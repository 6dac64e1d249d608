"""The average of the weights: what it is, where it is used, and that a resumed run goes on with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from cxr.errors import ConfigurationError
from cxr.evaluation.scoring.checkpoint import open_run
from cxr.pipeline.datamodule import CXRDataModule
from cxr.training.callbacks import BestCheckpoint
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer


def data(cache: Path) -> CXRDataModule:
    made = CXRDataModule(
        {"phantom": {"kind": "phantom", "num_patients": 30, "size": 64}},
        classes={"covid": ["COVID-19"], "other": ["rest"]},
        cache_dir=cache,
        image_size=32,
        batch_size=4,
        look_for_copies=False,
        balance={"sampler": "repeat"},
        augment={"rotation_degrees": 10.0, "rotation_prob": 1.0, "mixup_alpha": 0.4, "mix_prob": 0.5},
    )
    made.setup("fit")
    return made


class Steps(pl.Callback):
    """Copies of all weights, before the first step and after each, and of those that a validation ran with."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.append(copied(pl_module))

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        if trainer.global_step > len(self.weights) - 1:
            self.weights.append(copied(pl_module))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step > len(self.weights) - 1:
            self.weights.append(copied(pl_module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validated.append(copied(pl_module))


def copied(module: pl.LightningModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def moving_average(weights: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    """In float64, one number after the other."""
    average = {name: tensor.double() for name, tensor in weights[0].items()}
    for step, current in enumerate(weights[1:], start=1):
        d = min(decay, step / (9 + step))
        average = {name: d * average[name] + (1 - d) * current[name].double() for name in average}
    return average


def fit(run: RunDirectory, cache: Path, module: CXRModule, epochs: int, **options: Any) -> tuple[pl.Trainer, Steps]:
    steps = Steps()
    trainer = build_trainer(run_dir=run, max_epochs=epochs, gpus=0, progress=False, **options)
    trainer.callbacks.insert(0, steps)  # type: ignore[attr-defined]
    resumes = run.last_checkpoint_path.is_file()
    trainer.fit(
        module, datamodule=data(cache), ckpt_path=run.last_checkpoint_path if resumes else None, weights_only=True
    )
    return trainer, steps


def test_the_average_is_validated_kept_and_evaluated(tmp_path: Path, make_module: Callable[..., CXRModule]) -> None:
    run = RunDirectory.create(tmp_path / "runs", "exp")
    module = make_module(backbone="resnet10t", optimizer={"lr": 0.02}, schedule={"name": "constant"})
    trainer, steps = fit(run, tmp_path, module, 2, ema_decay=0.6, accumulate_grad_batches=2)
    assert len(steps.weights) == trainer.global_step + 1
    expected = moving_average(steps.weights, 0.6)
    last = torch.load(run.last_checkpoint_path, weights_only=True)
    for name, tensor in last["state_dict"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(steps.validated[-1][name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(last["current_model_state"][name], steps.weights[-1][name], rtol=0, atol=0)
    assert torch.equal(last["state_dict"]["pixel_scale"], module.pixel_scale), "constants stay as they are"
    weight = "network.layer4.0.conv2.weight"
    assert (last["state_dict"][weight] - last["current_model_state"][weight]).abs().max() > 1e-4

    # What evaluate.py opens scores what validation wrote down for it.
    opened = open_run(run.path)
    best = torch.load(run.best_checkpoint_path, weights_only=True)
    for name, tensor in opened.module.state_dict().items():
        assert torch.equal(tensor, best["state_dict"][name])
    noted = next(each for each in trainer.callbacks if isinstance(each, BestCheckpoint)).best_metrics  # type: ignore[attr-defined]
    (again,) = trainer.validate(opened.module, datamodule=data(tmp_path), verbose=False)
    assert again["val/loss"] == pytest.approx(noted["val/loss"], abs=1e-5)
    # Without the fused network, whose weights are folded for each validation.
    losses = []
    for batch in data(tmp_path).val_dataloader():
        with torch.no_grad():
            logits = opened.module.eval()(batch["image"])
        losses.append(torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none"))
    assert float(torch.cat(losses).mean()) == pytest.approx(noted["val/loss"], abs=1e-5)


def test_a_resumed_run_ends_with_the_same_average_and_the_same_weights(
    tmp_path: Path, make_module: Callable[..., CXRModule]
) -> None:
    ends = []
    for epochs in ([3], [1, 3]):
        run = RunDirectory.create(tmp_path / "runs", "exp")
        for until in epochs:
            pl.seed_everything(0, workers=True, verbose=False)
            module = make_module(optimizer={"lr": 0.02}, schedule={"name": "constant"}, drop_rate=0.2)
            fit(run, tmp_path, module, until, ema_decay=0.9)
        ends.append(torch.load(run.last_checkpoint_path, weights_only=True))
    whole, resumed = ends
    assert whole["global_step"] == resumed["global_step"]
    for part in ("state_dict", "current_model_state"):
        for name, tensor in whole[part].items():
            assert torch.equal(tensor, resumed[part][name]), (part, name)
    assert (
        whole["callbacks"]["BestCheckpoint"]["best_metrics"] == resumed["callbacks"]["BestCheckpoint"]["best_metrics"]
    )


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_out_of_range_is_refused(tmp_path: Path, decay: float) -> None:
    with pytest.raises(ConfigurationError, match=r"trainer\.ema_decay"):
        build_trainer(run_dir=RunDirectory.create(tmp_path, "exp"), max_epochs=1, gpus=0, ema_decay=decay)
