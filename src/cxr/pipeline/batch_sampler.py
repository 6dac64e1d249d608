"""Which records make up batch n of epoch e in this process?

The answer depends on the seed, the epoch and the number of processes alone, so that a run repeats, and resumes in the
middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

from cxr.errors import DataError
from cxr.pipeline.balance import draw, epoch_length


class EpochBatches(DistributedSampler[list[int]]):
    """Batches of record indices; give it to a ``DataLoader`` as ``sampler``, with ``batch_size=None``.

    Training: all batches have ``batch_size`` records (batch norms want no batch of one), every process has equally
    many, and what does not fill a last one is another part of the records in each epoch. Too few records for one full
    batch become a smaller one. Evaluation (``shuffle=False``): every record exactly once over all processes, in order,
    without padding; one process may have a batch less than another.

    A `DistributedSampler` only so that Lightning sees that it deals the records out by itself.

    Args:
        index: (N,) record indices.
        labels: (N,) class of each, 0 to C - 1; read where ``sampler`` is not ``none``.
        batch_size: records in a batch of one process, at least 1.
        shuffle: draw for training.
        sampler: see `balance.draw`.
        seed: 0 or more.
        rank, world_size: this process, and how many there are.

    Raises:
        DataError: fewer training records than processes.
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        labels: NDArray[np.int64],
        batch_size: int,
        *,
        shuffle: bool,
        sampler: str = "none",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(index, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        if shuffle and len(index) < world_size:
            raise DataError(f"data: {len(index)} training records are too few for {world_size} processes")
        self.index = index
        self.labels = labels
        self.batch_size = batch_size
        self.sampler = sampler
        self.offset = 0
        self._num_records = epoch_length(labels, sampler) if shuffle else len(index)

    def set_epoch(self, epoch: int) -> None:
        """Turn to an epoch, from its start unless `resume` has put this one further on; Lightning calls this."""
        if epoch != self.epoch:
            self.offset = 0
        self.epoch = epoch

    def resume(self, trainer: pl.Trainer) -> None:
        """Go on where the training stands, which may have been restored in the middle of an epoch.

        What was trained on is what counts as processed; loader processes may have read further ahead.
        """
        loop = trainer.fit_loop
        epochs: Any = loop.epoch_progress.current
        batches: Any = loop.epoch_loop.batch_progress
        self.epoch, self.offset = epochs.processed, 0
        if loop.restarting and batches.is_last_batch:
            # Such a checkpoint may be written before or after its epoch counts as processed.
            self.epoch = epochs.started
        elif loop.restarting:
            self.offset = batches.current.processed

    def __len__(self) -> int:
        """Batches of a whole epoch in this process."""
        if self.shuffle:
            return max(1, self._num_records // (self.batch_size * self.num_replicas))
        return -(-len(self._own_share()) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._train_batches() if self.shuffle else self._eval_batches()
        for batch in batches[self.offset :]:
            yield batch.tolist()

    def _train_batches(self) -> list[NDArray[np.int64]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        pool = self.batch_size * self.num_replicas
        num_draws = min(len(self) * pool, self._num_records)
        positions = draw(self.labels, self.sampler, num_draws, self.batch_size, rng, epoch=self.epoch)
        parts = np.array_split(self.index[positions], len(self) * self.num_replicas)
        return parts[self.rank :: self.num_replicas]

    def _eval_batches(self) -> list[NDArray[np.int64]]:
        own = self._own_share()
        return [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]

    def _own_share(self) -> NDArray[np.int64]:
        return self.index[self.rank :: self.num_replicas]
