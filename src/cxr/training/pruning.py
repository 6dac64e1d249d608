"""When does a trial of a search end before its last epoch?"""

from __future__ import annotations

import math
from typing import Any, Protocol

import pytorch_lightning as pl

from cxr.training.callbacks import MONITOR
from cxr.training.module import CXRModule


class ReportsEpochs(Protocol):
    """A trial: is told the value of an epoch (from 1), and answers whether it should end now."""

    def report(self, epoch: int, value: float) -> bool: ...


class TrialPruning(pl.Callback):
    """Report `MONITOR` after every epoch; end the training between two epochs where the trial is pruned.

    Args:
        trial: is asked in the first process only, the others follow.
    """

    def __init__(self, trial: ReportsEpochs) -> None:
        self._trial = trial
        self._last: tuple[int, float] | None = None  # epoch from 1, and its value
        self.pruned: str | None = None
        """How the trial was pruned, in words; None where it was not."""

    def state_dict(self) -> dict[str, Any]:
        return {"last": None if self._last is None else list(self._last)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        last = state_dict["last"]
        self._last = None if last is None else (int(last[0]), float(last[1]))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run that goes on may have been killed between its checkpoint and its end as pruned.
        if self._last is not None and self._last[0] == trainer.current_epoch:
            self._ask(trainer, *self._last)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CXRModule)
        value = pl_module.epoch_metrics.get("val", {}).get(MONITOR)
        if value is not None and math.isfinite(value):
            self._last = (trainer.current_epoch + 1, float(value))
            self._ask(trainer, *self._last)

    def _ask(self, trainer: pl.Trainer, epoch: int, value: float) -> None:
        prunes = self._trial.report(epoch, value) if trainer.is_global_zero else False
        if trainer.world_size > 1:
            prunes = bool(trainer.strategy.broadcast(prunes))
        assert trainer.max_epochs is not None
        # After its last epoch, or where it stops by itself, a trial is complete.
        if prunes and epoch < trainer.max_epochs and not trainer.should_stop:
            self.pruned = f"pruned at epoch {epoch} of {trainer.max_epochs} ({MONITOR} {value:.4f})"
            trainer.should_stop = True
