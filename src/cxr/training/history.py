"""How did every epoch go, and at which rates?  Kept beside the checkpoints, whatever else tracks the run."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl

from cxr.files import write_atomically
from cxr.sources.spreadsheet import to_csv
from cxr.training.module import CXRModule
from cxr.training.schedules import StagedSchedule

POINTS_OF_AN_EPOCH = 20


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
            # To the last digit, so that a resumed run leaves the file of an undisturbed one.
            kept = pd.read_csv(self._path, float_precision="round_trip")
            self._rows = kept[kept["epoch"] < trainer.current_epoch].to_dict("records")  # type: ignore[assignment]
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
