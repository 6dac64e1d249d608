"""Batches of an epoch: they depend on seed and epoch, cover the records, and share them between processes."""

from __future__ import annotations

import numpy as np
import pytest

from cxr.errors import DataError
from cxr.pipeline.batch_sampler import EpochBatches

INDEX = np.arange(100, 145)
LABELS = np.repeat([0, 1], [9, 36])


def batches(*, epoch: int = 0, **options: object) -> list[list[int]]:
    sampler = EpochBatches(INDEX, LABELS, **{"batch_size": 8, "shuffle": True, **options})  # type: ignore[arg-type]
    sampler.set_epoch(epoch)
    result = list(sampler)
    assert len(result) == len(sampler)
    return result


@pytest.mark.parametrize("balance", ["none", "oversample", "balanced_batches", "repeat"])
def test_order_depends_on_seed_and_epoch_alone(balance: str) -> None:
    first = batches(sampler=balance, seed=0, epoch=3)
    assert batches(sampler=balance, seed=0, epoch=3) == first
    assert batches(sampler=balance, seed=0, epoch=4) != first
    assert batches(sampler=balance, seed=1, epoch=3) != first
    assert all(len(batch) == 8 for batch in first)


def test_what_an_epoch_leaves_out_is_not_always_the_same() -> None:
    left_out = [set(INDEX) - set(np.concatenate(batches(epoch=epoch))) for epoch in range(10)]
    assert all(len(each) == 5 for each in left_out)
    assert not set.intersection(*left_out)


def test_fewer_records_than_a_batch_become_one_batch() -> None:
    (batch,) = batches(batch_size=64)
    assert sorted(batch) == INDEX.tolist()


@pytest.mark.parametrize("balance", ["none", "oversample", "balanced_batches"])
def test_two_processes_share_one_pool(balance: str) -> None:
    first, second = (batches(sampler=balance, batch_size=4, rank=rank, world_size=2) for rank in range(2))
    assert len(first) == len(second) == 45 // 8
    if balance != "balanced_batches":  # whose draws depend on the size of a batch
        alone = batches(sampler=balance, batch_size=8)
        assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in alone]
    if balance == "balanced_batches":
        for batch in first + second:
            assert (LABELS[np.array(batch) - 100] == 0).sum() == 2


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_repeated_records_make_the_epoch_longer_and_are_shared_out(world_size: int) -> None:
    dealt = [batches(sampler="repeat", batch_size=6, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(process) for process in dealt} == {2 * 36 // (6 * world_size)}
    times = np.bincount([record - 100 for process in dealt for batch in process for record in batch])
    assert times[LABELS == 0].tolist() == [4] * 9
    assert times[LABELS == 1].tolist() == [1] * 36


def test_too_few_for_a_batch_are_repeated_all_the_same() -> None:
    (batch,) = batches(sampler="repeat", batch_size=512)
    assert len(batch) == 72


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_evaluation_deals_every_record_exactly_once(world_size: int) -> None:
    dealt = [batches(shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    flat = [record for process in dealt for batch in process for record in batch]
    assert sorted(flat) == INDEX.tolist()


def test_too_few_records_for_the_processes() -> None:
    with pytest.raises(DataError, match="45 training records are too few for 64 processes"):
        EpochBatches(INDEX, LABELS, 1, shuffle=True, world_size=64)
