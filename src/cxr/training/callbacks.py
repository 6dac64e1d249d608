"""Which weights are kept, when does training stop, and what is said of a step?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_warn

from cxr.errors import CheckpointError
from cxr.interruption import asked, defer, end, end_if_asked, listen, resume
from cxr.pipeline.batch_sampler import EpochBatches
from cxr.training.agreement import Agreement
from cxr.training.checkpoint_io import require_whole
from cxr.training.module import CXRModule

MONITOR = "val/auroc"
_FALLBACK = "val/loss"


class BestCheckpoint(ModelCheckpoint):
    """Keep ``best.ckpt``: the epoch with the highest `MONITOR`.

    Where validation holds one class only there is no AUROC: the lowest validation loss decides, and a warning says so.
    """

    def __init__(self, checkpoints_dir: str | Path) -> None:
        super().__init__(
            dirpath=checkpoints_dir,
            filename="best",
            monitor=MONITOR,
            mode="max",
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )
        self.best_epoch: int | None = None
        self.best_metrics: dict[str, float] = {}
        self._kept: dict[str, Any] | None = None  # what best.ckpt says of itself, where training goes on

    @property
    def state_key(self) -> str:
        # Lightning's own names the monitor, which may change below; a resumed run must find its state all the same.
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        chosen = {"best_epoch": self.best_epoch, "best_metrics": self.best_metrics, "used_monitor": self.monitor}
        return {**super().state_dict(), **chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_epoch = state_dict["best_epoch"]
        self.best_metrics = dict(state_dict["best_metrics"])
        if state_dict["used_monitor"] == _FALLBACK:
            self.monitor, self.mode = _FALLBACK, "min"
        super().load_state_dict(_as_if_here(state_dict, str(self.dirpath)))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        # A run that is stopped between best.ckpt and last.ckpt goes on before the epoch that best.ckpt holds. Done
        # again on a GPU that epoch may score a little less, and the file would not be that of the epoch in the books.
        if stage == "fit" and trainer.ckpt_path is not None:
            self._kept = _state_in(Path(str(self.dirpath)) / f"{self.filename}{self.FILE_EXTENSION}", self.state_key)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        kept, self._kept = self._kept, None
        if kept is not None and (self.best_epoch is None or kept["best_epoch"] > self.best_epoch):
            self.load_state_dict(kept)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _fall_back(self, trainer)
        super().on_train_epoch_end(trainer, pl_module)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        # Noted before the file is written, so that the file holds its own epoch. Lightning's own table of metrics would
        # still hold the value that an earlier epoch gave to one that is undefined in this.
        module = trainer.lightning_module
        assert isinstance(module, CXRModule)
        self.best_epoch = trainer.current_epoch
        self.best_metrics = dict(module.epoch_metrics.get("val", {}))
        super()._save_checkpoint(trainer, filepath)


class LastCheckpoint(ModelCheckpoint):
    """Keep ``last.ckpt``: the end of the last whole epoch, whatever it scored."""

    def __init__(self, checkpoints_dir: str | Path) -> None:
        super().__init__(
            dirpath=checkpoints_dir,
            filename="last",
            monitor=None,
            save_top_k=1,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
        )

    @property
    def state_key(self) -> str:
        return type(self).__name__

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(_as_if_here(state_dict, str(self.dirpath)))


class BestEarlyStopping(EarlyStopping):
    """Stop after ``patience`` epochs without a higher `MONITOR` (or, without one, a lower validation loss)."""

    def __init__(self, patience: int) -> None:
        # The loss is checked where it arises; a metric cannot be other than finite.
        super().__init__(
            monitor=MONITOR, mode="max", patience=patience, check_finite=False, check_on_train_epoch_end=True
        )

    @property
    def state_key(self) -> str:
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "used_monitor": self.monitor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["used_monitor"] == _FALLBACK:  # or the best loss would be forgotten at the next epoch
            self.monitor, self.mode = _FALLBACK, "min"
        super().load_state_dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A run that had stopped by itself, and was cut off before its end, has no epoch to go.
        if self.wait_count >= self.patience:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _fall_back(self, trainer)
        super().on_train_epoch_end(trainer, pl_module)


class EndBetweenBatches(pl.Callback):
    """Let a signal end the training between two batches: not within a step, nor while a file is written.

    In the middle of the training batches of an epoch it leaves a checkpoint, from which the next batch is the one that
    would have come. Not in a validation: the checkpoint of the last whole epoch stays, and the epoch is done again.

    Several processes of one run end after the same batch, whichever of them the signal came to: one that ended alone
    would leave the others waiting for it. The last of the callbacks, so that all others have finished with a batch.

    Args:
        checkpoint_path: where the checkpoint goes.
    """

    def __init__(self, checkpoint_path: str | Path) -> None:
        self._checkpoint_path = checkpoint_path
        self._last_step = 0
        self._agreement: Agreement | None = None
        self._num_shared = 0  # validation batches that every process has

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        defer()
        self._agreement = Agreement()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handler before ours, which talks to the other processes wherever it interrupts.
        listen()
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # The gradients of batches that wait for others of their step are in no checkpoint; and after the last batch
        # of an epoch comes its validation, which no checkpoint could make up for.
        if trainer.global_step == self._last_step or trainer.is_last_batch:
            return
        self._last_step = trainer.global_step
        number = self._signal_to_any()
        if number:
            trainer.save_checkpoint(self._checkpoint_path)
            end(number)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._agreement is not None:
            self._num_shared = self._agreement.smallest(int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx < self._num_shared:  # one process may have a batch more than another
            number = self._signal_to_any()
            if number:
                end(number)

    def _signal_to_any(self) -> int:
        """The signal that came to one of the processes; 0 for none."""
        return 0 if self._agreement is None else self._agreement.largest(asked() or 0)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        resume()
        end_if_asked()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        resume()
        end_if_asked()


class NextBatches(pl.Callback):
    """Let a run that goes on begin with the batch that would have come.

    The schedule of the learning rate has asked how many batches there are, and so the loader began, maybe with
    processes that read ahead, before the checkpoint said where.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if trainer.ckpt_path is not None and isinstance(sampler, EpochBatches):
            sampler.resume(trainer)
            fetcher = trainer.fit_loop._data_fetcher
            assert fetcher is not None
            iter(fetcher)


class ResumeNotice(pl.Callback):
    """Say where a run goes on: in which epoch, and with which batch, counted from 1.

    Args:
        say: is given one line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._is_silent = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_silent = trainer.ckpt_path is None or not trainer.is_global_zero

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._is_silent:
            return
        self._is_silent = True
        sampler: Any = getattr(trainer.train_dataloader, "sampler", None)
        done = sampler.offset if isinstance(sampler, EpochBatches) else 0
        self._say(
            f"Resumes in epoch {trainer.current_epoch + 1} of {trainer.max_epochs} at batch {done + 1} of "
            f"{int(trainer.num_training_batches)} (after {trainer.global_step} optimizer steps)"
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._is_silent:  # no epoch was left
            self._say(f"All {trainer.max_epochs} epochs were done before; the run was stopped behind them")


class StepMonitor(pl.Callback):
    """Send loss, learning rate and momentum to the logger, in one call every ``every_n_steps`` optimizer steps.

    It goes past Lightning's own ``self.log``, which every step pays for, logged or not. On a GPU these are also the
    steps in which a loss that is not finite is noticed: looking at each would make the processor wait for the device.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._every_n_steps = every_n_steps
        self._last_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step  # of a run that goes on: reported before it was stopped

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # With accumulation several batches share a step; only the one that moved the weights is reported.
        if step == self._last_step or step % self._every_n_steps:
            return
        self._last_step = step
        assert isinstance(pl_module, CXRModule)
        metrics = pl_module.step_metrics()
        for logger in trainer.loggers:
            # Lightning counts the steps of its own entries from 0.
            logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=step - 1)


def _state_in(path: Path, key: str) -> dict[str, Any] | None:
    """The state of a callback in a checkpoint; None where there is no checkpoint, or one that is damaged."""
    try:
        require_whole(path)
    except (OSError, CheckpointError):
        return None
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    state: dict[str, Any] | None = content["callbacks"].get(key)
    return state


def _as_if_here(state_dict: dict[str, Any], dirpath: str) -> dict[str, Any]:
    """The state of a `ModelCheckpoint` whose run directory was moved or copied meanwhile.

    Lightning itself would forget the best score, and would delete the files of the other directory.
    """

    def here(path: str) -> str:
        return str(Path(dirpath) / Path(path).name) if path else path

    paths = {name: here(state_dict[name]) for name in ("best_model_path", "kth_best_model_path", "last_model_path")}
    kept = {here(path): score for path, score in state_dict["best_k_models"].items()}
    return {**state_dict, **paths, "best_k_models": kept, "dirpath": dirpath}


def _fall_back(callback: BestCheckpoint | BestEarlyStopping, trainer: pl.Trainer) -> None:
    metrics = trainer.callback_metrics
    if callback.monitor == MONITOR and MONITOR not in metrics and _FALLBACK in metrics:
        rank_zero_warn(f"{MONITOR} is undefined: validation holds one class only; {_FALLBACK} decides instead")
        callback.monitor, callback.mode = _FALLBACK, "min"
        worst = torch.tensor(float("inf"))
        if isinstance(callback, BestCheckpoint):
            callback.kth_value = worst
        else:
            callback.best_score = worst
