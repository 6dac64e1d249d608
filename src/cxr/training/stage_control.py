"""What happens where a stage of a training begins?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch

from cxr.errors import ConfigurationError
from cxr.training.layer_groups import freeze, quiet_batch_norms
from cxr.training.lr_finder import LrCurve, range_test
from cxr.training.module import CXRModule
from cxr.training.schedules import StagedSchedule
from cxr.training.stage_plan import Stage, stage_of

OnCurve = Callable[[str, LrCurve, float], None]
"""Is given the name of the stage, the curve of its range test, and the rate that was taken."""


class StageControl(pl.Callback):
    """Freeze what a stage freezes, find its rate where it has none, and say so.

    Args:
        say: is given one line for each stage that begins.
        on_curve: is given what a range test found; in the first process only.
    """

    def __init__(self, say: Callable[[str], None], on_curve: OnCurve) -> None:
        self._say = say
        self._on_curve = on_curve
        self._stage: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning does not begin an epoch once more in whose middle a run goes on.
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CXRModule)
        stages = pl_module.stages
        number, first = stage_of(stages, trainer.current_epoch)
        stage = stages[number]
        if number != self._stage:
            self._stage = number
            trained = freeze(pl_module.network, stage)
            schedule = trainer.lr_scheduler_configs[0].scheduler
            assert isinstance(schedule, StagedSchedule)
            if schedule.rates[number] is None:
                schedule.set_rates(number, stage.spread_below(self._find(trainer, pl_module, number, stage)))
            if len(stages) > 1 and trainer.is_global_zero:
                self._say(_describe(number, len(stages), stage, first, schedule.rates[number] or [], trained))
        # Lightning turns all layers to training when an epoch begins.
        quiet_batch_norms(pl_module.network, stage)

    def _find(self, trainer: pl.Trainer, module: CXRModule, number: int, stage: Stage) -> float:
        """The rate that a range test suggests.

        Where it suggests none a later stage takes the rate of the run: hours of training are not thrown away for it.

        Raises:
            ConfigurationError: it suggests none, and nothing has been trained yet.
        """
        curve = find_rate(trainer, module)
        # Each process has tested on its own records; the first decides.
        found: float | None = trainer.strategy.broadcast(curve.suggestion(stage.suggestion))
        if found is None and number == 0:
            raise ConfigurationError(
                f"schedule.stages[0].lr: the range test suggests no rate: {curve.useless}; give one, or look at "
                "python -m cxr.lr_find"
            )
        taken = float(module.hparams["optimizer"].get("lr", 1e-3)) if found is None else found
        if trainer.is_global_zero:
            self._on_curve(f"stage {number + 1}", curve, taken)
        return taken


def find_rate(trainer: pl.Trainer, module: CXRModule, **options: Any) -> LrCurve:
    """A range test of what the module trains now, with the batches of the trainer's data.

    Args:
        trainer: in the middle of a training.
        module: its own; comes out as it went in.
        options: see `cxr.training.lr_finder.range_test`.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]

    def loss_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        loss: torch.Tensor = module.training_loss(
            module(batch["image"]), batch["label"], batch.get("partner_label"), batch.get("share")
        )
        return loss

    return range_test(
        module.network,
        loss_of,
        data.training_batches(module.device),
        module.build_optimizer,
        context=trainer.precision_plugin.forward_context,
        **options,
    )


def _describe(number: int, of: int, stage: Stage, first: int, rates: list[float], trained: int) -> str:
    lowest, highest = min(rates), max(rates)
    parts = [
        f"stage {number + 1}/{of}: epochs {first + 1} to {first + stage.epochs}",
        f"{trained:,} parameters trained" + (f" ({stage.freeze} frozen)" if stage.freeze != "none" else ""),
        f"{stage.schedule} up to {highest:.2g}" + (f" ({lowest:.2g} at the first layers)" if lowest < highest else ""),
    ]
    if stage.image_size is not None:
        parts.append(f"{stage.image_size} px")
    return ", ".join(parts)
