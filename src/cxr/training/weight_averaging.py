"""Which weights are validated, kept and evaluated, where those of many steps are averaged?"""

from __future__ import annotations

import itertools
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from cxr.errors import ConfigurationError


class AveragedWeights(WeightAveraging):
    """Keep an exponential moving average of the weights, and validate and save it in place of the last weights.

    After step n (from 1) the average becomes d * average + (1 - d) * weights, where d is the lower of ``decay`` and
    n / (9 + n), as in TensorFlow's ``ExponentialMovingAverage`` with ``num_updates`` (Abadi et al.
    2016): a collection of radiographs may have fewer steps in a whole training than a decay of 0.999 remembers, and the
    average would still be the random start. The statistics of batch norms are averaged with the weights.

    Lightning exchanges the two for each validation, writes the average as ``state_dict`` and the weights that go on
    learning as ``current_model_state``, so that a run resumes with both. Its own ``EMAWeightAveraging`` has neither
    the lower decay at the beginning nor an average on the device that trains: the module is still on the CPU where it
    makes one, and every step would wait for a copy of all weights. It also adds up constants anew, such as those of the
    normalisation, until rounding has changed them.

    Args:
        decay: above 0, below 1.

    Raises:
        ConfigurationError: ``decay`` out of its range.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigurationError(f"trainer.ema_decay={decay}: give a number above 0 and below 1, or null")
        super().__init__()
        self._decay = decay

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # With accumulation several batches share a step.
        step = trainer.global_step
        if step == self._latest_update_step:
            return
        self._latest_update_step = step
        assert self._average_model is not None
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for average, current in zip(_tensors(self._average_model.module), _tensors(pl_module), strict=True):
            if average.is_floating_point():
                averages.append(average)
                currents.append(current)
            else:
                average.copy_(current)
        # One kernel for many tensors; what does not change stays the same to the last digit.
        torch._foreach_lerp_(averages, currents, 1 - min(self._decay, step / (9 + step)))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        # From here on the module that is given is the one that is meant, also in `trainer.validate`.
        self._average_model = None


def _tensors(module: torch.nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
