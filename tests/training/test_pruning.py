"""Is a trial that was killed before it could end as pruned still pruned when it goes on?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cxr.training.module import CXRModule
from cxr.training.pruning import TrialPruning
from cxr.training.run_directory import RunDirectory
from cxr.training.trainer import build_trainer


class Study:
    """Notes what it is told; ends a trial from an epoch on."""

    def __init__(self, prunes_from: int) -> None:
        self.told: list[tuple[int, float]] = []
        self._prunes_from = prunes_from

    def report(self, epoch: int, value: float) -> bool:
        self.told.append((epoch, value))
        return epoch >= self._prunes_from


def train(module: CXRModule, data: list[Any], study: Study, folder: Path, epochs: int, **more: Any) -> str | None:
    trainer = build_trainer(
        run_dir=RunDirectory(folder), max_epochs=epochs, gpus=0, progress=False, trial=study, logger=None
    )
    trainer.fit(module, *data, **more)
    return next(each.pruned for each in trainer.callbacks if isinstance(each, TrialPruning))  # type: ignore[attr-defined]


def test_a_trial_that_goes_on_is_asked_about_its_last_epoch_first(
    tmp_path: Path, loader: Callable[..., Any], make_module: Callable[..., CXRModule]
) -> None:
    data = [loader([0, 1] * 8), loader([0, 1] * 8, seed=1)]
    before, after = Study(prunes_from=99), Study(prunes_from=2)
    constant = {"schedule": {"name": "constant"}}
    assert train(make_module(**constant), data, before, tmp_path, 2) is None
    assert [epoch for epoch, _ in before.told] == [1, 2]

    last = tmp_path / "checkpoints" / "last.ckpt"
    weights = torch.load(last, weights_only=True)["state_dict"]
    module = make_module(**constant, seed=1)
    pruned = train(module, data, after, tmp_path, 4, ckpt_path=last, weights_only=True)
    assert after.told == [before.told[1]]
    assert pruned is not None
    assert pruned.startswith("pruned at epoch 2 of 4 (")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items()), "no step was made"
