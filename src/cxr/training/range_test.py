"""How is a range test run on its own, with the data and the network of a training that does not take place?"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from cxr.training.accelerators import resolve_devices, resolve_precision
from cxr.training.layer_groups import freeze
from cxr.training.lr_finder import LrCurve
from cxr.training.module import CXRModule
from cxr.training.stage_control import find_rate
from cxr.training.trainer import silence_wrong_advice


class _Only(pl.Callback):
    """Test when a training would begin, and let it end there."""

    def __init__(self, stage: int, options: dict[str, Any]) -> None:
        self._stage = stage
        self._options = options
        self.curve: LrCurve | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CXRModule)
        freeze(pl_module.network, pl_module.stages[self._stage])
        self.curve = find_rate(trainer, pl_module, **self._options)
        trainer.should_stop = True


def find_rates(
    module: CXRModule,
    data: pl.LightningDataModule,
    *,
    stage: int = 0,
    max_epochs: int = 1,
    gpus: int | None = None,
    precision: str = "auto",
    **options: Any,
) -> LrCurve:
    """Run a range test on one device; the module comes out as it went in.

    Args:
        module, data: of the training.
        stage: whose layers are trained, counted from 0.
        max_epochs: of the training.
        gpus, precision: see `cxr.training.trainer.build_trainer`; one device is used.
        options: ``lowest``, ``highest``, ``num_steps``, see `cxr.training.lr_finder.range_test`.

    Raises:
        ConfigurationError: devices or precision that are not to be had.
    """
    devices = resolve_devices(gpus if gpus in (None, 0) else 1, strategy="auto", num_processes=None)
    silence_wrong_advice()
    only = _Only(stage, options)
    trainer = pl.Trainer(
        **devices,
        precision=resolve_precision(precision, devices["accelerator"]),  # type: ignore[arg-type]
        max_epochs=max_epochs,
        callbacks=[only],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    assert only.curve is not None
    return only.curve
