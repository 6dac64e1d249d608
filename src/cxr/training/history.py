"""How did every epoch go, and at which rates?  Kept beside the checkpoints, whatever else tracks the run."""

from __future__ import annotations

import csv
import json
import math
import time
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl

from cxr.files import write_atomically
from cxr.sources.spreadsheet import to_csv
from cxr.training.module import CXRModule
from cxr.training.schedules import StagedSchedule

POINTS_OF_AN_EPOCH = 20

# A mean loss of so many times that of a guess: the network gives what is true next to no probability.
_EXPLODED = 10.0


def describe_explosion(path: Path, num_classes: int) -> str | None:
    """That the loss exploded in some epoch, and where it was worst; None where it did not, or none is known.

    A guess among C classes costs ln C, and an untrained network little more. A mean loss of ten times that means that
    the steps were too large for the network to come back from, however well its best epoch scored.

    Args:
        path: of ``history.csv``.
        num_classes: C >= 2.
    """
    rows = _read(path) if path.is_file() else []
    losses = [(row[name], name, row) for row in rows for name in ("train/loss", "val/loss") if name in row]
    loss, name, row = max(losses, key=lambda each: each[0], default=(0.0, "", {}))
    guess = math.log(num_classes)
    if loss <= _EXPLODED * guess:
        return None
    where = f"in epoch {row['epoch'] + 1} (a guess costs {guess:.2f}, rate {row['lr']:.3g})"
    return f"the loss exploded: {name} {loss:.4g} {where}"


def _read(path: Path) -> list[dict[str, float]]:
    """The rows of ``history.csv``, to the last digit; each cell is a number, or there is none."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: json.loads(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


class EpochHistory(pl.callbacks.Checkpoint):
    """Write ``history.csv`` anew after every epoch: epoch (from 0), step, seconds since the start, lr (that of the
    head at its end), all metrics; and ``rates.csv``: how the rates moved within the epochs, see
    `StagedSchedule.course`.

    A `Checkpoint` to Lightning, which calls those last at the end of an epoch: only then do the metrics of the training
    stand beside those of the validation.

    Args:
        path: ``history.csv``; a run that is resumed goes on in it.
        rates_path: ``rates.csv``.
    """

    def __init__(self, path: str | Path, rates_path: str | Path) -> None:
        self._path, self._rates_path = Path(path), Path(rates_path)
        self._rows: list[dict[str, float]] = []
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        if trainer.current_epoch > 0 and self._path.is_file():
            # A resumed run leaves the file of an undisturbed one.
            self._rows = [row for row in _read(self._path) if row["epoch"] < trainer.current_epoch]
            if self._rows:
                self._started -= self._rows[-1]["seconds"]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, CXRModule)
        # Lightning's own table would show, for a metric that is undefined in this epoch, what an earlier one gave.
        metrics = {name: value for split in pl_module.epoch_metrics.values() for name, value in split.items()}
        self._rows.append(
            {
                "epoch": trainer.current_epoch,
                "step": trainer.global_step,
                "seconds": round(time.monotonic() - self._started, 1),
                "lr": float(trainer.optimizers[0].param_groups[-1]["lr"]),
                **dict(sorted(metrics.items())),
            }
        )
        write_atomically(self._path, to_csv(pd.DataFrame(self._rows)))
        schedule = trainer.lr_scheduler_configs[0].scheduler
        assert isinstance(schedule, StagedSchedule)
        write_atomically(self._rates_path, to_csv(pd.DataFrame(schedule.course(POINTS_OF_AN_EPOCH))))
