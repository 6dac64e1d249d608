"""How are data and module brought together: devices, precision, callbacks, and nothing that nags?"""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy, Strategy

from cxr.errors import ConfigurationError
from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.callbacks import (
    BestCheckpoint,
    BestEarlyStopping,
    EndBetweenBatches,
    LastCheckpoint,
    NextBatches,
    StepMonitor,
)
from cxr.training.checkpoint_io import DurableCheckpointIO
from cxr.training.history import EpochHistory
from cxr.training.launched import cluster_environment
from cxr.training.progress import EpochProgress
from cxr.training.pruning import ReportsEpochs, TrialPruning
from cxr.training.random_state import RandomState
from cxr.training.run_directory import RunDirectory
from cxr.training.stage_control import StageControl
from cxr.training.weight_averaging import AveragedWeights

# What Lightning says that does not hold here, and why.
_WRONG_ADVICE = (
    # The prepared images are read from memory: workers make it slower.
    r".*does not have many workers.*",
    r".*Consider increasing the value of the `num_workers` argument.*",
    # A run directory holds its status and configuration before Lightning sees it.
    r"Checkpoint directory .* exists and is not empty.*",
    # Small collections have few batches; the interval counts over epochs.
    r".*The number of training batches .* is smaller than the logging interval.*",
    # Every process computes the metrics of all records itself.
    r".*It is recommended to use `self\.log\(.*sync_dist=True.*",
    # trainer.gpus=0 was asked for.
    r"GPU available but not used.*",
    r"MPS available but not used.*",
    # The data module goes on with the batch that comes next.
    r"You're resuming from a checkpoint that ended before the epoch ended.*",
    # Several processes on one machine of a cluster are in order, and so is one on the machine where people log in.
    r".*The `srun` command is available.*",
    # The new name of this argument does something else.
    r".*`broadcast_buffers` is deprecated.*",
    # Lightning's own calls.
    r".*isinstance\(treespec, LeafSpec\).*",
)
_NOISY_LOGGERS = (
    "pytorch_lightning.utilities.rank_zero",
    "pytorch_lightning.accelerators.cuda",
    "lightning_fabric.utilities.distributed",
)


def build_trainer(
    *,
    run_dir: RunDirectory,
    max_epochs: int,
    stage_control: StageControl | None = None,
    sizes_differ: bool = False,
    freezes: bool = False,
    gpus: int | None = None,
    num_processes: int | None = None,
    precision: str = "auto",
    strategy: str = "auto",
    num_nodes: int = 1,
    accumulate_grad_batches: int = 1,
    ema_decay: float | None = None,
    gradient_clip_val: float | None = None,
    deterministic: bool = False,
    limit_train_batches: float | None = None,
    limit_val_batches: float | None = None,
    early_stopping_patience: int | None = None,
    log_every_n_steps: int = 50,
    progress: bool = True,
    logger: Logger | None = None,
    trial: ReportsEpochs | None = None,
) -> pl.Trainer:
    """Build the Trainer of a run; ``trainer.precision`` and ``trainer.num_devices`` say what was resolved.

    Args:
        run_dir: receives ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt``.
        max_epochs: at least 1.
        stage_control: begins the stages; None: there is one, of all epochs, and it freezes nothing.
        sizes_differ: whether the training images of some epoch have another size than those of the others.
        freezes: whether a stage freezes a part of the network.
        gpus, num_processes: see `resolve_devices`.
        precision: see `resolve_precision`.
        strategy: ``auto``, ``ddp``, or another name that Lightning knows.
        ema_decay: see `AveragedWeights`; None = no average.
        limit_train_batches, limit_val_batches: None = all, up to 1 a share, above 1 a number of batches.
        early_stopping_patience: epochs without a better ``val/auroc``; None = never.
        log_every_n_steps: optimizer steps between two logged losses.
        logger: from `build_logger`; None = nothing is logged.
        trial: of a search, which may end the training early; None = it is none.

    Raises:
        ConfigurationError: devices or precision that are not to be had, or a number out of its range.
    """
    if max_epochs < 1:
        raise ConfigurationError(f"trainer.max_epochs={max_epochs}: give at least 1")
    devices = resolve_devices(gpus, strategy=strategy, num_processes=num_processes)
    environment = cluster_environment()
    precision = resolve_precision(precision, devices["accelerator"])
    silence_wrong_advice()
    callbacks: list[pl.Callback] = [
        RandomState(),
        NextBatches(),
        # Before the checkpoints: an epoch that a resumed run does not repeat has its row.
        EpochHistory(run_dir.history_path, run_dir.rates_path),
        BestCheckpoint(run_dir.checkpoints_dir),
        LastCheckpoint(run_dir.checkpoints_dir),
        StepMonitor(log_every_n_steps),
        EpochProgress(enabled=progress),
    ]
    if stage_control is not None:
        callbacks.append(stage_control)  # behind the progress, which says first how the last stage ended
    if ema_decay is not None:
        callbacks.append(AveragedWeights(ema_decay))
    if early_stopping_patience is not None:
        callbacks.append(BestEarlyStopping(early_stopping_patience))
    if trial is not None:
        callbacks.append(TrialPruning(trial))
    callbacks.append(EndBetweenBatches(run_dir.last_checkpoint_path))
    return pl.Trainer(
        **devices,
        precision=precision,  # type: ignore[arg-type]
        strategy=_strategy(strategy, devices["accelerator"], freezes=freezes),
        reload_dataloaders_every_n_epochs=int(sizes_differ),
        num_nodes=num_nodes,
        max_epochs=max_epochs,
        accumulate_grad_batches=accumulate_grad_batches,
        gradient_clip_val=gradient_clip_val,
        deterministic=deterministic,
        limit_train_batches=_batches("limit_train_batches", limit_train_batches),
        limit_val_batches=_batches("limit_val_batches", limit_val_batches),
        log_every_n_steps=log_every_n_steps,
        logger=False if logger is None else logger,
        callbacks=callbacks,
        plugins=[DurableCheckpointIO(), *([] if environment is None else [environment])],
        default_root_dir=run_dir.path,
        # The data module deals out whole batches to the processes itself.
        use_distributed_sampler=False,
        # A split that cannot be validated is refused before training; two batches of an untrained network say nothing.
        num_sanity_val_steps=0,
        enable_model_summary=False,
    )


def silence_wrong_advice() -> None:
    """Keep Lightning's warnings that do not hold for this project, and its banners, off the terminal."""
    for message in _WRONG_ADVICE:
        warnings.filterwarnings("ignore", message=message)
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _strategy(name: str, accelerator: str, *, freezes: bool) -> str | Strategy:
    if name != "ddp":
        return name
    return DDPStrategy(
        process_group_backend="gloo" if accelerator == "cpu" else None,
        # The module shares the statistics before each evaluation; sharing them in every forward would also hang where
        # the processes have different numbers of validation batches.
        broadcast_buffers=False,
        # All gradients of the network are used in every step, unless a stage freezes some.
        find_unused_parameters=freezes,
        gradient_as_bucket_view=True,
        timeout=timedelta(minutes=10),
    )


def _batches(key: str, value: float | None) -> int | float | None:
    """Lightning tells a share from a number of batches by the type; here 1 is all and 2 is two batches."""
    if value is None:
        return None
    if value <= 0:
        raise ConfigurationError(f"trainer.{key}={value}: give a share up to 1, or a number of batches above 1")
    if value <= 1:
        return float(value)
    if value != int(value):
        raise ConfigurationError(f"trainer.{key}={value}: a number of batches above 1 must be whole")
    return int(value)
