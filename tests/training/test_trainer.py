from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cxr.errors import ConfigurationError
from cxr.training.callbacks import BestCheckpoint
from cxr.training.module import CXRModule
from cxr.training.run_directory import RunDirectory
from cxr.training.tracking import build_logger, finish
from cxr.training.trainer import build_trainer


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path, "exp")


def _best(trainer: Any) -> BestCheckpoint:
    return next(each for each in trainer.callbacks if isinstance(each, BestCheckpoint))


def test_the_best_epoch_and_the_last_are_kept_apart(
    run_dir: RunDirectory, make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    trainer = build_trainer(run_dir=run_dir, max_epochs=4, gpus=0, progress=False)
    scores: list[float] = []

    class Look(BestCheckpoint.__mro__[2]):  # type: ignore[misc, name-defined]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            scores.append(float(trainer.callback_metrics["val/auroc"]))

    trainer.callbacks.insert(0, Look())
    val = loader([0, 1] * 20, seed=4, contrast=0.6)
    trainer.fit(make_module(optimizer={"lr": 1e-2}), loader([0, 1] * 20, contrast=0.6), val)
    names = sorted(path.name for path in run_dir.checkpoints_dir.iterdir())
    assert names == ["best.ckpt", "last.ckpt", "last_previous.ckpt"]
    best = torch.load(run_dir.best_checkpoint_path, weights_only=True)
    last = torch.load(run_dir.last_checkpoint_path, weights_only=True)
    assert len(scores) == 4
    assert best["epoch"] == scores.index(max(scores)) == _best(trainer).best_epoch
    assert last["epoch"] == 3
    assert _best(trainer).best_metrics["val/auroc"] == pytest.approx(max(scores), abs=1e-6)
    # What the file scores is what was written down for it.
    restored = CXRModule.load_from_checkpoint(run_dir.best_checkpoint_path, weights_only=True)
    (metrics,) = trainer.validate(restored, val, verbose=False)
    assert metrics["val/auroc"] == pytest.approx(max(scores), abs=1e-6)


def test_without_an_auroc_the_loss_decides_and_nothing_crashes(
    run_dir: RunDirectory, make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    trainer = build_trainer(run_dir=run_dir, max_epochs=3, gpus=0, progress=False, early_stopping_patience=1)
    with pytest.warns(UserWarning, match=r"val/auroc is undefined.*val/loss decides"):
        trainer.fit(make_module(optimizer={"lr": 1e-3}), loader([0, 1] * 20), loader([1] * 5, seed=2))
    best = _best(trainer)
    assert best.monitor == "val/loss"
    assert float(best.best_model_score or 0) == pytest.approx(best.best_metrics["val/loss"])
    assert run_dir.best_checkpoint_path.exists()


def test_a_resumed_run_remembers_its_best_epoch(
    run_dir: RunDirectory, make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    train, val = loader([0, 1] * 8), loader([0, 1] * 8, seed=2)
    first = build_trainer(run_dir=run_dir, max_epochs=1, gpus=0, progress=False)
    first.fit(make_module(schedule={"name": "constant"}), train, val)
    second = build_trainer(run_dir=run_dir, max_epochs=2, gpus=0, progress=False)
    second.fit(
        make_module(schedule={"name": "constant"}),
        train,
        val,
        ckpt_path=run_dir.last_checkpoint_path,
        weights_only=True,
    )
    # All images are told apart after the first epoch; the second is no better and must not take its place.
    assert _best(first).best_metrics["val/auroc"] == 1.0
    assert _best(second).best_epoch == 0
    assert torch.load(run_dir.best_checkpoint_path, weights_only=True)["epoch"] == 0
    assert torch.load(run_dir.last_checkpoint_path, weights_only=True)["epoch"] == 1


def test_early_stopping_is_off_unless_asked_for(
    tmp_path: Path, make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    epochs = []
    for patience in (None, 1):
        run = RunDirectory.create(tmp_path, "exp")
        trainer = build_trainer(run_dir=run, max_epochs=6, gpus=0, progress=False, early_stopping_patience=patience)
        # Nothing is learned at this rate, so no epoch is better than the first.
        module = make_module(optimizer={"lr": 1e-12}, schedule={"name": "constant"})
        module.network.eval()
        trainer.fit(module, loader([0, 1] * 4), loader([0, 1] * 4))
        epochs.append(trainer.current_epoch)
    assert epochs[0] == 6
    assert epochs[1] < 6


def test_steps_and_epochs_reach_the_logger_under_plain_names(
    run_dir: RunDirectory, make_module: Callable[..., CXRModule], loader: Callable[..., Any]
) -> None:
    logger = build_logger("csv", tracking_dir=run_dir.tracking_dir, config={}, name="x")
    trainer = build_trainer(run_dir=run_dir, max_epochs=2, gpus=0, progress=False, logger=logger, log_every_n_steps=2)
    trainer.fit(make_module(optimizer={"lr": 0.01}), loader([0, 1] * 20), loader([0, 1] * 4))
    finish(logger, 0)
    with (run_dir.tracking_dir / "metrics.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    steps = [row for row in rows if row["train/loss_step"]]
    assert [int(row["step"]) for row in steps] == [1, 3, 5, 7, 9]
    assert all(float(row["lr"]) > 0 and 0.8 < float(row["momentum"]) < 1 for row in steps)
    epochs = [row for row in rows if row["val/auroc"]]
    assert [int(row["epoch"]) for row in epochs] == [0, 1]
    assert [int(row["epoch"]) for row in rows if row["train/loss"]] == [0, 1]


def test_a_broken_write_keeps_the_checkpoint_that_was_there(run_dir: RunDirectory) -> None:
    trainer = build_trainer(run_dir=run_dir, max_epochs=1, gpus=0, progress=False)
    path = run_dir.best_checkpoint_path
    trainer.strategy.checkpoint_io.save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        trainer.strategy.checkpoint_io.save_checkpoint({"epoch": 2, "hook": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [each.name for each in run_dir.checkpoints_dir.iterdir()] == ["best.ckpt"]


def test_what_was_resolved_can_be_read_off(run_dir: RunDirectory) -> None:
    trainer = build_trainer(run_dir=run_dir, max_epochs=1, gpus=0, precision="auto")
    assert trainer.precision == "32-true"
    assert trainer.num_devices == 1
    assert trainer.strategy.root_device.type == "cpu"


@pytest.mark.parametrize(("value", "expected"), [(None, 5), (1.0, 5), (0.4, 2), (3.0, 3)])
def test_limits_are_shares_up_to_one_and_numbers_above(
    run_dir: RunDirectory,
    make_module: Callable[..., CXRModule],
    loader: Callable[..., Any],
    value: float | None,
    expected: int,
) -> None:
    trainer = build_trainer(run_dir=run_dir, max_epochs=1, gpus=0, progress=False, limit_train_batches=value)
    trainer.fit(make_module(), loader([0, 1] * 20), loader([0, 1] * 4))
    assert trainer.global_step == expected


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"max_epochs": 0}, "trainer.max_epochs=0"),
        ({"gpus": 4096}, "trainer.gpus=4096"),
        ({"precision": "16-mixed"}, "trainer.precision=16-mixed"),
        ({"limit_val_batches": 2.5}, "trainer.limit_val_batches=2.5"),
    ],
)
def test_what_is_not_to_be_had_is_refused_by_name(run_dir: RunDirectory, options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        build_trainer(**{"run_dir": run_dir, "max_epochs": 1, "gpus": 0, **options})
