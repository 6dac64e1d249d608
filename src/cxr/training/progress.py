"""How far is training, how well does it go, and how long does it still take?"""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

# Redraws a second; a bar that is drawn in every step costs more than a step of a small network.
_REDRAWS = 4.0


class EpochProgress(pl.callbacks.ProgressBar):
    """On a terminal a bar over the whole fit, with loss, validation AUROC and time left; elsewhere one line an epoch.

    Args:
        enabled: False says nothing at all.
        console: where to write; None = standard output. Only the first process of a distributed run writes.
    """

    def __init__(self, *, enabled: bool = True, console: Console | None = None) -> None:
        super().__init__()
        self._console = Console(file=sys.stdout) if console is None else console
        self._enabled = enabled
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._started = 0.0
        self._last_drawn = 0.0
        self._first_step = 0
        self._reported_epoch = -1

    def disable(self) -> None:
        """Called by Lightning in every process but the first."""
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started = time.monotonic()
        self._first_step = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._reported_epoch = trainer.current_epoch - 1
        if not self._enabled or not self._console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[note]}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=max(1.0, _num_batches(trainer)), note="")
        self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if now - self._last_drawn < 1 / _REDRAWS:
            return
        self._last_drawn = now
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        self._draw(trainer, done, f"loss {float(loss):.3f}  {_score(trainer)}{self._left(trainer, done, now)}")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        now = time.monotonic()
        if self._bar is not None and not trainer.sanity_checking and now - self._last_drawn >= 1 / _REDRAWS:
            self._last_drawn = now
            done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
            self._draw(trainer, done, f"validating {batch_idx + 1}  {_score(trainer)}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Only now do the metrics of the training epoch stand beside those of its validation.
        self._report(trainer, trainer.current_epoch - 1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has counted the epoch by now, unless it was left in the middle.
        self._report(trainer, trainer.fit_loop.epoch_progress.current.completed - 1)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def _draw(self, trainer: pl.Trainer, done: int, note: str) -> None:
        assert self._bar is not None
        description = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        self._bar.update(self._task, completed=done, description=description, note=note)
        self._bar.refresh()

    def _left(self, trainer: pl.Trainer, done: int, now: float) -> str:
        fresh = done - self._first_step
        if fresh < 1:
            return ""
        return f"  {_clock((now - self._started) / fresh * max(0.0, _num_batches(trainer) - done))} left"

    def _report(self, trainer: pl.Trainer, epoch: int) -> None:
        """One line for an epoch that is over, counted from 1 for the reader."""
        if not self._enabled or epoch <= self._reported_epoch:
            return
        self._reported_epoch = epoch
        metrics = trainer.callback_metrics
        parts = [f"epoch {epoch + 1}/{trainer.max_epochs}"]
        for name in ("train/loss", "val/loss", "val/auroc"):
            if name in metrics:
                parts.append(f"{name} {float(metrics[name]):.4f}")
        parts.append(_clock(time.monotonic() - self._started))
        # Not through the log: this is the course of the run, for whoever watches or keeps the output.
        self._console.print("  ".join(parts), highlight=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _num_batches(trainer: pl.Trainer) -> float:
    return float(trainer.num_training_batches) * float(trainer.max_epochs or 1)


def _score(trainer: pl.Trainer) -> str:
    score = trainer.callback_metrics.get("val/auroc")
    return "" if score is None else f"val/auroc {float(score):.3f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
