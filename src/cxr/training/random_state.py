"""Which random numbers come next in a run that goes on?  Those that would have come, had it not been stopped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch


class RandomState(pl.Callback):
    """Keep the states of the global generators in every checkpoint and restore them where training goes on.

    Order and augmentation do not need it: they have generators of their own, by seed and epoch. Dropout does. Under DDP
    the state of the first process is kept for all: their generators start alike and are asked alike.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - the state that others draw from
        return {
            "python": random.getstate(),
            # Plain: a checkpoint with an array would not be read back (`weights_only`).
            "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,  # type: ignore[no-untyped-call]
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not sooner: building the network has drawn numbers, too.
        kept, self._kept = self._kept, None
        if kept is None:
            return
        random.setstate(kept["python"])
        name, keys, *rest = kept["numpy"]
        np.random.set_state((name, np.asarray(keys, np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(kept["torch"].cpu())
        if kept["cuda"] is not None and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.set_rng_state(kept["cuda"].cpu())
